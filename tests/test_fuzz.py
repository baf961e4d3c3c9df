"""Mutations of real files: each is refused in one line, or accepted and right. Never a traceback, never a hang.

A wrong success is: training would start although

* the .inter file is broken by a plain reading of it, or the sequences are not those of that plain reading;
* a setting of the yaml is unknown, or a step of training or evaluation with the settings is not finite.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from fuzzing import generator, guarded, mutate, outcome, works
from pandas._libs.parsers import STR_NA_VALUES

from recbole_diffusion.settings.properties import YamlLoader

ROOT = Path(__file__).parents[1]
TOY = (ROOT / "dataset" / "toy" / "toy.inter").read_text()
TOY_ITEMS = (ROOT / "dataset" / "toy" / "toy.item").read_text()
NUMBER = re.compile(r"[ \t]*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[ \t]*")
WORDS = ["--model=SimDiffRec", "--dataset=mine", "--show_progress=False", "--MAX_ITEM_LIST_LENGTH=20"]
WORDS += ["--hidden_size=8", "--inner_size=8", "--train_batch_size=16", "--eval_batch_size=16", "--use_gpu=False"]
# Mutations of .inter files in the normal suite, and when asked for; the same of settings, ready-made splits, item files.
CASES = [range(60), pytest.param(range(1000, 2600), marks=pytest.mark.slow)]
YAML_CASES = [("SimDiffRec", range(40)), ("DiffuRecSys", range(15)), ("DiffSBR", range(15))]
SLOW_YAML_CASES = [("SimDiffRec", range(1000, 1800)), ("DiffuRecSys", range(1000, 1100)), ("DiffSBR", range(1000, 1100))]
YAML_CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_YAML_CASES]
SPLIT_CASES = [range(40), pytest.param(range(1000, 1600), marks=pytest.mark.slow)]
ITEM_CASES = [range(30), pytest.param(range(1000, 1300), marks=pytest.mark.slow)]
SPLIT_COLUMNS = ["session_id:token", "item_id_list:token_seq", "item_id:token"]
PARTS = ["train", "valid", "test"]


def plain_rows(content, wanted):
    """The wanted columns of every row; None when the file is broken."""
    try:
        lines = content.decode("utf-8").lstrip("\ufeff").splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
    header, *rows = list(csv.reader([line for line in lines if line.strip("\r\n")], delimiter="\t")) or [[]]
    if any("\n" in cell for row in rows for cell in row):
        return None
    if sorted(set(header) & set(wanted)) != sorted(wanted) or any(len(row) != len(header) for row in rows):
        return None
    return [[row[header.index(name)] for name in wanted] for row in rows]


def plain_reading(content):
    """Item tokens of every user in order, users in order of appearance; None when the file is broken."""
    rows = plain_rows(content, ["user_id:token", "item_id:token", "timestamp:float"])
    if rows is None:
        return None
    users = defaultdict(list)
    for user, item, time in rows:
        if not NUMBER.fullmatch(time):
            return None
        if not {user, item} & STR_NA_VALUES:
            users[user].append((float(time), item))
    return [[item for _, item in sorted(pairs, key=lambda pair: pair[0])] for pairs in users.values()]


def sequences_of(dataset):
    """The same of a data set that was accepted."""
    tokens = dataset.id2token("item_id", dataset.flat["item_id"])
    return list(tokens)


def accepted(cases, write, words, capsys, monkeypatch):
    """Run the command on every case; the others must end in one line.

    Args:
        cases (range): numbers of the cases.
        write (Callable): writes the files of a case from its source of choices and returns what is broken.

    Yields:
        tuple: number, what ``write`` returned and :class:`Accepted`, of every case that would train.
    """
    found = {2: 0, "accepted": 0}
    with guarded(monkeypatch):
        for case in cases:
            broken = write(generator(case))
            code, result = outcome(words, capsys)
            found[code] += 1
            if code == "accepted":
                yield case, broken, result
            else:
                assert result.startswith("error: ") and result.count("\n") == 1, (case, result)
    assert min(found.values()) > len(cases) / 10  # both ends are reached


@pytest.mark.parametrize("cases", CASES, ids=["60", "1600"])
def test_broken_atomic_files(cases, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()

    def write(choices):
        content = mutate(TOY, "\t", choices)
        (tmp_path / "mine" / "mine.inter").write_bytes(content)
        assert outcome(["check-data", "mine", f"--data_path={tmp_path}"], capsys)[0] in (0, 2)
        return content

    words = [*WORDS, "--alpha=0", "--beta=0", f"--data_path={tmp_path}"]
    for case, content, result in accepted(cases, write, words, capsys, monkeypatch):
        expected = plain_reading(content)
        assert expected is not None, f"case {case} is broken and was accepted"
        flat = [item for sequence in expected for item in sequence]
        assert sequences_of(result.train_data._dataset) == flat, f"case {case} was read wrongly"


def settings_text(model):
    """The settings of this package, of a model and of a data set in one file, without those that name places."""
    names = ["overall.yaml", f"model/{model}.yaml", "dataset/toy.yaml"]
    lines = [line for name in names for line in (ROOT / "properties" / name).read_text().splitlines(keepends=True)]
    lines = {line.partition(":")[0]: line for line in lines if ":" in line.partition("#")[0]}  # later files win
    places = ("data_path", "checkpoint_dir", "result_file", "expected_counts", "model_settings")
    return "".join(line for key, line in lines.items() if key not in places and not key.startswith(" "))


def _only(value):
    """What stands alone in a list: RecBole makes lists of single words."""
    return value if isinstance(value, list) and len(value) == 1 else []


@pytest.mark.parametrize("model, cases", YAML_CASES, ids=lambda value: value if isinstance(value, str) else str(len(value)))
def test_broken_yaml(model, cases, tmp_path, capsys, monkeypatch):
    text = settings_text(model)
    known = set(yaml.load(text, Loader=YamlLoader))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.inter").write_text(TOY)
    file = tmp_path / "mine.yaml"

    def write(choices):
        content = mutate(text, ":#", choices)
        file.write_bytes(content)
        return content

    words = [f"--model={model}", "--dataset=mine", f"--data_path={tmp_path}", "--use_gpu=False", f"--config_files={file}"]
    for case, content, result in accepted(cases, write, words, capsys, monkeypatch):
        given = yaml.load(content.decode("utf-8"), Loader=YamlLoader) or {}
        assert set(given) <= known, f"case {case}: {set(given) - known} was accepted"
        config = result.trainer.config
        ignored = [key for key, value in given.items() if value not in (None, config[key], *_only(config[key]))]
        assert ignored == [], f"case {case}: not what was given: {ignored}"
        assert works(result), f"case {case} was accepted and does not work"


def split_files():
    """Text of ready-made train, valid and test files: the users of the toy data as sessions."""
    users = plain_reading(TOY.encode())
    ends = {"train": [user[:-2] for user in users], "valid": [u[:-1] for u in users[:20]], "test": users[20:40]}
    return {
        part: "\n".join(["\t".join(SPLIT_COLUMNS), *(f"{part}{n}\t{' '.join(s[:-1])}\t{s[-1]}" for n, s in enumerate(sessions))])
        + "\n"
        for part, sessions in ends.items()
    }


def plain_examples(content):
    """(items, target) of every row; None when the file is broken."""
    rows = plain_rows(content, SPLIT_COLUMNS)
    if not rows or any({session, target} & STR_NA_VALUES for session, _, target in rows):
        return None
    examples = [([word for word in items.split(" ") if word], target) for _, items, target in rows]
    return examples if all(items for items, _ in examples) else None


def examples_of(dataset):
    """The same of a part that was accepted."""
    batch = dataset[range(len(dataset))]
    lengths = batch["item_length"].tolist()
    items = [list(dataset.id2token("item_id", row[:n])) for row, n in zip(batch["item_id_list"].numpy(), lengths)]
    return list(zip(items, dataset.id2token("item_id", batch["item_id"].numpy())))


@pytest.mark.parametrize("cases", SPLIT_CASES, ids=["40", "600"])
def test_broken_split_files(cases, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "split.yaml").write_text(
        "USER_ID_FIELD: session_id\nload_col: {inter: [session_id, item_id_list, item_id]}\n"
        f"alias_of_item_id: [item_id_list]\nbenchmark_filename: [{', '.join(PARTS)}]\n"
    )
    good = split_files()

    def write(choices):
        part = choices.choice(PARTS)
        contents = {**{name: text.encode() for name, text in good.items()}, part: mutate(good[part], "\t", choices)}
        for name, content in contents.items():
            (tmp_path / "mine" / f"mine.{name}.inter").write_bytes(content)
        return part, contents[part]

    words = [*WORDS, "--alpha=0", "--beta=0", "--train_last_only=True", f"--data_path={tmp_path}"]
    words.append(f"--config_files={tmp_path / 'split.yaml'}")
    for case, (part, content), result in accepted(cases, write, words, capsys, monkeypatch):
        expected = plain_examples(content)
        assert expected is not None, f"case {case} is broken and was accepted"
        if part == "train":
            examples = examples_of(result.train_data._dataset)
            assert examples == [(items[-20:], item) for items, item in expected], f"case {case} was read wrongly"


def title_of(dataset, item):
    words = dataset.item_feat["title"][dataset.token2id("item_id", item)]
    return [word for word in dataset.id2token("title", words) if word != "[PAD]"]


@pytest.mark.parametrize("cases", ITEM_CASES, ids=["30", "300"])
def test_broken_item_files(cases, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.inter").write_text(TOY)
    (tmp_path / "item.yaml").write_text("load_col: {inter: [user_id, item_id, timestamp], item: [item_id, title]}\n")
    sequences = [item for sequence in plain_reading(TOY.encode()) for item in sequence]

    def write(choices):
        content = mutate(TOY_ITEMS, "\t", choices)
        (tmp_path / "mine" / "mine.item").write_bytes(content)
        return content

    words = [*WORDS, "--alpha=0", "--beta=0", f"--data_path={tmp_path}", f"--config_files={tmp_path / 'item.yaml'}"]
    for case, content, result in accepted(cases, write, words, capsys, monkeypatch):
        dataset, rows = result.train_data._dataset, plain_rows(content, ["item_id:token", "title:token_seq"])
        assert rows is not None, f"case {case} is broken and was accepted"
        rows = [(item, title) for item, title in rows if item not in STR_NA_VALUES]
        titles = {item: [] if title in STR_NA_VALUES else title.split() for item, title in rows}
        assert len(titles) == len(rows), f"case {case} names an item twice and was accepted"
        # RecBole leaves out the interactions of items that the item file lacks
        assert sequences_of(dataset) == [item for item in sequences if item in titles], case
        for item in titles.keys() & set(sequences):
            assert title_of(dataset, item) == titles[item], (case, item)
