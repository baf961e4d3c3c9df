"""Small ready-made session files."""


def write_split(folder, train, valid, test, name="shop"):
    """Ready-made files of (items, target) sessions."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    number = 0
    for part, sessions in (("train", train), ("valid", valid), ("test", test)):
        rows = ["session_id:token\titem_id_list:token_seq\titem_id:token"]
        for items in sessions:
            number += 1
            rows.append(f"{number}\t{' '.join(map(str, items[:-1]))}\t{items[-1]}")
        (target / f"{name}.{part}.inter").write_text("\n".join(rows) + "\n")
    return str(folder)


SPLIT = {
    "USER_ID_FIELD": "session_id",
    "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
    "benchmark_filename": ["train", "valid", "test"],
}
TRAIN = [[1, 2, 3], [2, 3, 4], [4, 5], [1, 5, 6], [3, 6, 2], [6, 1]]
