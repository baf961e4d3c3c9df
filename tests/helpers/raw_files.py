"""Raw files that tests write, and the atomic files that are made of them."""


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def table(folder, name, suffix="inter"):
    return [line.split("\t") for line in (folder / name / f"{name}.{suffix}").read_text("utf-8").splitlines()]


def message(error):
    text = str(error.value)
    assert "\n" not in text, "one line"
    return text
