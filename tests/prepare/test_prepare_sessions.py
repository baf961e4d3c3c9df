"""prepare for session data: what a session is, the filter, the split, the files, and the refusals."""

import functools
import json

import numpy as np
import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import session_sources
from recbole_diffusion.prepare.session_splits import prepare_sessions
from recbole_diffusion.prepare.sessions import Sessions, drop_unseen, filter_sessions, split_sessions
from recbole_diffusion.settings.config import DiffusionConfig

DAY = 86400
quiet = functools.partial(prepare_sessions, show_progress=False)


def table(folder, name, part):
    return [line.split("\t") for line in (folder / name / f"{name}.{part}").read_text("utf-8").splitlines()]


def examples(folder, name="mine"):
    return [[(row[1], row[2]) for row in table(folder, name, f"{part}.inter")[1:]] for part in ("train", "valid", "test")]


def reviews(path, rows):
    """Amazon 5-core lines from (user, item, time)."""
    keys = ("reviewerID", "asin", "unixReviewTime")
    path.write_text("".join(json.dumps({**dict(zip(keys, row)), "overall": 5.0}) + "\n" for row in rows))
    return path


def sessions_of(lists):
    """Sessions of small item numbers, one after the other in time."""
    items = np.array([item for row in lists for item in row])
    numbers = np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    return Sessions([f"i{n}" for n in range(items.max() + 1)], numbers, items, np.arange(len(items), dtype=float))


def lists_of(sessions):
    return [sessions.items[sessions.numbers == number].tolist() for number in range(len(sessions))]


# ------------------------------------------------------------------------------------------- steps


def test_filter_is_repeated_until_nothing_changes():
    # item 3 occurs once; without it the second session has one item; without that, item 2 occurs once as well
    sessions = sessions_of([[0, 1], [2, 3], [0, 1, 2], [1, 0]])
    assert lists_of(filter_sessions(sessions, 2)) == [[0, 1], [0, 1], [1, 0]]
    with pytest.raises(UsageError, match="items need 4 occurrences: lower --min_item"):
        filter_sessions(sessions, 4)


def test_split_is_by_order_and_no_part_is_empty():
    sessions = sessions_of([[0, 1]] * 5)
    assert split_sessions(sessions, 1, 2).tolist() == [0, 0, 1, 2, 2]
    with pytest.raises(UsageError, match="5 sessions cannot be split with 4 for test and 1 for validation"):
        split_sessions(sessions, 1, 4)


def test_items_that_training_lacks_leave_the_other_parts():
    sessions = sessions_of([[0, 1], [2, 0, 1], [1, 3], [0, 1, 3, 1]])
    kept, parts = drop_unseen(sessions, np.array([0, 1, 2, 2]))
    assert lists_of(kept) == [[0, 1], [0, 1], [0, 1, 1]] and parts.tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="no session of the test part"):
        drop_unseen(sessions_of([[0, 1], [0, 1], [2, 3]]), np.array([0, 1, 2]))


# ------------------------------------------------------------------------------------------- Amazon


@pytest.fixture
def amazon(tmp_path):
    """Ten days; each day a user buys a, b and c, in the order that the times say. A second user on day 2 buys one."""
    rows = []
    for day in range(10):
        order = "abc" if day % 2 else "cba"
        rows += [(f"u{day % 3}", item, day * DAY + place * 60) for place, item in enumerate(order)]
    rows += [("alone", "a", 2 * DAY), ("u9", "rare", 3 * DAY), ("u9", "a", 3 * DAY), ("u9", "b", 3 * DAY)]
    rows += [("u1", "a", 10 * DAY - 1)]  # u1 buys again late on the last but one day: no session of its own
    return reviews(tmp_path / "reviews.json", rows[::-1])  # the file is in no order of time


def test_sessions_are_the_purchases_of_a_user_and_a_day(tmp_path, amazon):
    counts = quiet("mine", amazon, "amazon-sessions", tmp_path)
    train, valid, test = examples(tmp_path)
    assert train[:4] == [("c b", "a"), ("a b", "c"), ("c b", "a"), ("b", "a")], "u9 lost its rare item"
    assert train[4] == ("a b", "c")
    assert len(train) == 9 and valid == [("c b", "a")] and test == [("a b", "c")]
    assert counts == {"users": 11, "items": 3, "interactions": 11}
    assert [row[0] for row in table(tmp_path, "mine", "test.inter")[1:]] == ["11"], "later sessions have later numbers"
    inter = table(tmp_path, "mine", "inter")
    assert inter[0] == ["session_id:token", "item_id:token", "timestamp:float"] and inter[1] == ["1", "c", "0"]
    assert len(inter) == 1 + 10 * 3 + 2


def test_reviews_of_2023_have_days_too(tmp_path, amazon):
    of_2014 = [json.loads(line) for line in amazon.read_text().splitlines()]
    keys = {"reviewerID": "user_id", "asin": "parent_asin", "overall": "rating", "unixReviewTime": "timestamp"}
    of_2023 = [{keys[key]: value for key, value in record.items()} for record in of_2014]
    lines = [json.dumps({**record, "timestamp": record["timestamp"] * 1000}) for record in of_2023]
    newer = tmp_path / "newer.jsonl"
    newer.write_text("\n".join(lines) + "\n")
    quiet("mine", amazon, "amazon-sessions", tmp_path)
    quiet("newer", newer, "amazon-sessions", tmp_path)
    assert examples(tmp_path, "newer") == examples(tmp_path, "mine")


def test_day_of_a_user_ends_at_midnight(tmp_path):
    rows = [(f"u{day}", item, day * DAY + DAY - 1) for day in range(4) for item in "ab"]
    rows += [("u0", "a", DAY), ("u0", "b", DAY + 1)]  # one second after the first session
    quiet("mine", reviews(tmp_path / "r.json", rows), "amazon-sessions", tmp_path, min_item=2, valid_share=0.3, test_share=0.2)
    assert sum(map(len, examples(tmp_path))) == 5


def test_prefixes_make_every_item_a_target(tmp_path, amazon):
    counts = quiet("mine", amazon, "amazon-sessions", tmp_path, prefixes=True)
    train, _, test = examples(tmp_path)
    assert test == [("a b", "c"), ("a", "b")] and train[:2] == [("c b", "a"), ("c", "b")]
    assert counts["users"] == 11 and counts["interactions"] == 10 * 2 + 1
    assert len({row[0] for row in table(tmp_path, "mine", "test.inter")[1:]}) == 1, "prefixes share their session"


def test_texts_and_image_links_are_kept(tmp_path, amazon):
    meta = tmp_path / "meta.json"
    meta.write_text(
        "{'asin': 'a', 'title': 'A &amp; \"B\"', 'brand': 'X', 'categories': [['Cell Phones']], 'imUrl': 'http://x/a.jpg'}\n"
        + json.dumps({"asin": "b", "title": "B", "category": ["Cases"], "imageURLHighRes": ["http://x/b.jpg", "two"]})
        + '\n{"asin": "rare", "title": "not written"}\n'
    )
    quiet("mine", amazon, "amazon-sessions", tmp_path, meta=meta)
    header, *rows = table(tmp_path, "mine", "item")
    assert header == ["item_id:token", "title:token_seq", "brand:token_seq", "categories:token_seq", "image_url:token"]
    assert sorted(rows) == [
        ["a", "A & ''B''", "X", "Cell_Phones", "http://x/a.jpg"],
        ["b", "B", "", "Cases", "http://x/b.jpg"],
        ["c", "", "", "", ""],
    ]


def test_written_settings_load_the_files(tmp_path, amazon):
    quiet("mine", amazon, "amazon-sessions", tmp_path)
    own = {"data_path": str(tmp_path), "topk": [1, 2], "valid_metric": "MRR@2"}
    config = DiffusionConfig("SASRec", "mine", config_dict=own)
    data = create_dataset(config)
    assert data.item_num == 4 and len(data) == 11 and config["MAX_ITEM_LIST_LENGTH"] == 20


# ------------------------------------------------------------------------------------------- Instacart


@pytest.fixture
def instacart(tmp_path):
    """Twelve orders of two users; the two longest hold products that nobody else bought."""
    folder = tmp_path / "instacart"
    folder.mkdir()
    orders, prior, train = [], [], []
    for number in range(1, 13):
        user, place = (number - 1) % 2 + 1, (number + 1) // 2
        gap = "" if place == 1 else "7.0"
        last = place == 6
        orders.append(f"{number},{user},{'train' if last else 'prior'},{place},3,10,{gap}")
        products = [1, 2, 3] if number < 11 else [1, 2, 3, 90, 91, 92]
        rows = [f"{number},{product},{cart},0" for cart, product in zip(range(len(products), 0, -1), products)]
        (train if last else prior).extend(rows)
    header = "order_id,product_id,add_to_cart_order,reordered"
    (folder / "orders.csv").write_text(
        "\n".join(["order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,days_since_prior_order", *orders[::-1]])
    )
    (folder / "order_products__prior.csv").write_text("\n".join([header, *prior]))
    (folder / "order_products__train.csv").write_text("\n".join([header, *train]))
    (folder / "products.csv").write_text(
        'product_id,product_name,aisle_id,department_id\n1,"Milk, ""whole""",7,2\n2,Bread,8,2\n3,Eggs,7,2\n90,Soap,9,4\n'
    )
    (folder / "aisles.csv").write_text("aisle_id,aisle\n7,dairy\n8,baked goods\n9,soap\n")
    return folder


def test_instacart_keeps_the_shortest_orders(tmp_path, instacart, monkeypatch):
    monkeypatch.setattr(session_sources, "_ROWS_PER_READ", 4)  # orders reach over the borders of the pieces
    counts = quiet("mine", instacart, "instacart-sessions", tmp_path, shortest=0.5)
    train, valid, test = examples(tmp_path)
    assert counts == {"users": 10, "items": 3, "interactions": 10}
    assert set(train + valid + test) == {("3 2", "1")}, "the order in the cart, not of the file"
    times = [float(row[2]) for row in table(tmp_path, "mine", "inter")[1:]]
    assert times == sorted(times) and times[-1] == 28, "days since the first order of the user"
    assert table(tmp_path, "mine", "item") == [
        ["item_id:token", "title:token_seq", "categories:token_seq"],
        ["3", "Eggs", "dairy"],
        ["2", "Bread", "baked_goods"],
        ["1", "Milk, ''whole''", "dairy"],
    ]
    everything = quiet("all", instacart, "instacart-sessions", tmp_path, shortest=1, min_item=2)
    assert everything["users"] == 12


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("orders.csv", None, "orders.csv' does not exist"),
        ("orders.csv", "order_id,user_id\n1,1\n", "orders.csv' cannot be read: .*order_number"),
        ("orders.csv", "order_id,user_id,order_number,days_since_prior_order\n1,1,1,\n", "lacks 9 orders, the first is 2"),
        ("orders.csv", "order_id,user_id,order_number,days_since_prior_order\n1,1,1,\n1,1,2,3\n", "holds order 1 twice"),
        ("order_products__prior.csv", "order_id,product_id\n1,2\n", "prior.csv' cannot be read: .*add_to_cart_order"),
        ("order_products__prior.csv", "order_id,product_id,add_to_cart_order\n1,x,1\n", "prior.csv' cannot be read"),
        ("order_products__prior.csv", "order_id,product_id,add_to_cart_order\n-1,2,1\n", "holds negative numbers"),
        ("products.csv", "id,name\n1,Milk\n", "products.csv' has no column 'product_id'"),
        ("products.csv", "product_id,product_name\n77,Milk\n", "describes none of the 3 items"),
    ],
)
def test_broken_instacart_files(tmp_path, instacart, name, text, expected):
    (instacart / name).unlink()
    if text is not None:
        (instacart / name).write_text(text)
    with pytest.raises(UsageError, match=expected) as error:
        quiet("mine", instacart, "instacart-sessions", tmp_path, shortest=0.5, min_item=1)
    assert "\n" not in str(error.value) and not (tmp_path / "mine").exists()


def test_folder_without_orders(tmp_path):
    with pytest.raises(UsageError, match="holds no order_products__"):
        quiet("mine", tmp_path, "instacart-sessions", tmp_path)


# ------------------------------------------------------------------------------------------- atomic files


@pytest.fixture
def atomic(tmp_path):
    rows = [f"s{s}\t{item}\t{t}" for s in range(8) for t, item in enumerate(["x", f"y{s}", "x"][: 1 + s % 3])]
    path = tmp_path / "raw.inter"
    path.write_text("\n".join(["session_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    return path


def test_atomic_sessions_keep_their_names_and_all_their_items(tmp_path, atomic):
    counts = quiet("mine", atomic, "atomic-sessions", tmp_path, test_sessions=2, valid_share=0.4, prefixes=True)
    parts = [table(tmp_path, "mine", f"{part}.inter")[1:] for part in ("train", "valid", "test")]
    assert parts[0] == [["s1", "x", "y1"], ["s2", "x y2", "x"], ["s2", "x", "y2"]], "s0 and s3 have one item"
    assert parts[1] == [["s4", "x", "y4"], ["s5", "x y5", "x"], ["s5", "x", "y5"]]
    assert parts[2] == [["s7", "x", "y7"]], "an item that training lacks stays: the test part is given"
    assert counts == {"users": 5, "items": 6, "interactions": 7}
    assert not (tmp_path / "mine" / "mine.inter").exists()


def test_rows_of_a_session_may_be_scattered(tmp_path):
    path = tmp_path / "raw.inter"
    rows = ["b\t1\t1", "a\t2\t0", "b\t3\t0", "a\t1\t5", "c\t1\t0", "c\t2\t1"]
    path.write_text("\n".join(["session_id:token\titem_id:token\ttimestamp:float", *rows]))
    quiet("mine", path, "atomic-sessions", tmp_path, test_sessions=1, valid_share=0.5)
    assert examples(tmp_path) == [[("3", "1")], [("2", "1")], [("1", "2")]]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("user_id:token\titem_id:token\ttimestamp:float\na\t1\t0\n", "has no column 'session_id'"),
        ("session_id:token\titem_id:token\ttimestamp:float\na\t1\t0\na\t2\tsoon\n", "line 3: 'timestamp' is not a number"),
        ("session_id:token\titem_id:token\ttimestamp:float\na\t1 2\t0\n", "the item '1 2' is empty or holds blanks"),
        ("", "cannot be read"),
        (None, "raw.inter' does not exist"),
    ],
)
def test_unusable_atomic_files(tmp_path, text, expected):
    path = tmp_path / "raw.inter"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=expected) as error:
        quiet("mine", path, "atomic-sessions", tmp_path)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- command and refusals


def test_command(tmp_path, amazon, capsys):
    words = ["prepare", "mine", f"--source={amazon}", "--format=amazon-sessions", f"--out={tmp_path}"]
    assert main([*words, "--test_share=0.2", "--prefixes"]) == 0
    out = capsys.readouterr().out
    assert "11 users, 3 items, 21 interactions" in out and "--config_files" not in out
    assert main(words) == 2
    assert "mine.train.inter' exists already, add --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--test_share=0.2"], "--test_share belongs to session data, name the --format"),
        (["--format=amazon-5core", "--prefixes"], "--prefixes belongs to session data"),
        (["--format=amazon-session"], "'amazon-session' is unknown, did you mean 'amazon-sessions'?"),
        (["--format=amazon-sessions", "--test_share=1.5"], "--test_share=1.5 must lie between 0 and 1"),
        (["--format=amazon-sessions", "--min_user=3"], "--min_user is for other formats"),
        (["--format=amazon-sessions", "--min_item=99"], "items need 99 occurrences"),
        (["--format=amazon-sessions", "--test_sessions=40"], "cannot be split"),
        (["--format=instacart-sessions", "--meta=m.json"], "--meta belongs to --format=amazon-sessions"),
    ],
)
def test_refusals(tmp_path, amazon, capsys, words, expected):
    assert main(["prepare", "mine", f"--source={amazon}", f"--out={tmp_path}", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error.splitlines()[-1] and error.count("error: ") == 1
    assert not (tmp_path / "mine").exists()


def test_bad_lines_are_named(tmp_path, amazon):
    with open(amazon, "a") as file:
        file.write("{broken\n")
    with pytest.raises(UsageError, match="line 36: not in the format amazon-5core"):
        quiet("mine", amazon, "amazon-sessions", tmp_path)
    meta = tmp_path / "meta.json"
    meta.write_text("{'title': 'no asin'}\n")
    amazon.write_text("".join(amazon.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="meta.json' line 1: an object with the text 'asin'"):
        quiet("mine", amazon, "amazon-sessions", tmp_path, meta=meta)
    meta.write_text("{'asin': 'zzz'}\n")
    with pytest.raises(UsageError, match="describes none of the 3 items"):
        quiet("mine", amazon, "amazon-sessions", tmp_path, meta=meta)


def test_rows_of_the_same_name_replace_the_settings_of_the_parts(tmp_path, amazon, capsys):
    quiet("mine", amazon, "amazon-sessions", tmp_path)
    (tmp_path / "mine" / "mine.inter").unlink()  # as with formats that write none
    words = ["prepare", "mine", f"--source={amazon}", f"--out={tmp_path}"]
    assert main(words) == 2
    assert "mine.yaml' belongs to sessions of this name: choose another name, or add --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert not (tmp_path / "mine" / "mine.yaml").exists()
    (tmp_path / "mine" / "mine.yaml").write_text("MAX_ITEM_LIST_LENGTH: 7\n")
    assert main([*words, "--force"]) == 0
    assert (tmp_path / "mine" / "mine.yaml").exists(), "a user's own settings stay"


def test_counts_of_the_yaml_must_come_out(tmp_path, amazon):
    with pytest.raises(UsageError, match="users 11, items 3, interactions 11 but users .* are expected"):
        quiet("diginetica", amazon, "amazon-sessions", tmp_path)
    assert not (tmp_path / "diginetica").exists()
