"""Reading by columns gives what pandas gives, and leaves to pandas what is not plain."""

import importlib

import numpy as np
import pandas as pd
import pytest
from recbole.utils import FeatureType

from recbole_diffusion.data import atomic_reader, columnar_reader
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.columnar_reader import is_plain, read_plain_text
from recbole_diffusion.data.numbers import MISSING
from recbole_diffusion.testing import make_config

CELLS = ["user_id:token", "item_id:token", "timestamp:float", "words:token_seq"]
KINDS = {cell: FeatureType(cell.partition(":")[2]) for cell in CELLS}
NUMBERS = ["1", "-2.5", "1e3", "0.1", "1.4000000000000001", "123456789012345678", "1478012345.678901", ".5", "7.", "-0", "+1"]


def random_rows(seed):
    random = np.random.default_rng(seed)
    words = ["a", "b", "ä", "東京", "x y", " lead", "trail ", "'", "1", "01", "1.0", "NAN", "inf", "-", *sorted(MISSING)]
    for _ in range(int(random.integers(1, 60))):
        yield [*random.choice(words, 2), random.choice(NUMBERS + ["", "NA"]), " ".join(random.choice(words[:4], 2))]


def write(path, rows, ending="\n", cells=CELLS):
    path.write_text(ending.join("\t".join(row) for row in [cells, *rows]) + ending, encoding="utf-8", newline="")
    return path


def as_text(frame):
    """Names instead of categories, and one sign for what is missing."""
    frame = frame.astype({name: object for name in frame if frame[name].dtype != float})
    return frame.where(frame.notna(), np.nan)


@pytest.mark.parametrize("seed", range(30))
def test_frames_are_those_of_pandas(tmp_path, seed):
    path = write(tmp_path / "a.inter", random_rows(seed), "\r\n" if seed % 3 == 0 else "\n")
    assert is_plain(path, "utf-8")
    fast = read_plain_text(path, "\t", CELLS, KINDS)
    slow = atomic_reader._read_strictly(path, KINDS, "\t", "utf-8", False)
    pd.testing.assert_frame_equal(as_text(fast), as_text(slow), check_exact=True)
    assert isinstance(fast["user_id:token"].dtype, pd.CategoricalDtype)
    some = {cell: KINDS[cell] for cell in CELLS[1:3]}
    pd.testing.assert_frame_equal(as_text(read_plain_text(path, "\t", CELLS, some)), as_text(slow[CELLS[1:3]]), check_exact=True)


def test_many_blocks_are_one_column(tmp_path, monkeypatch):
    monkeypatch.setattr(columnar_reader, "BLOCK", 512)
    rows = [[f"u{n * 8 % 301}", f"ü{n % 50}", str(n / 3), ""] for n in range(2000)]
    path = write(tmp_path / "a.inter", rows)
    fast = read_plain_text(path, "\t", CELLS, KINDS) if is_plain(path, None) else None
    pd.testing.assert_frame_equal(as_text(fast), as_text(atomic_reader._read_strictly(path, KINDS, "\t", "utf-8", False)))
    assert fast["user_id:token"].cat.categories.is_unique and len(fast["user_id:token"].cat.categories) == 301


@pytest.mark.parametrize(
    "content", [b'a\t"b', b"a\0b", "ä".encode("latin-1"), b"\xef\xbb\xbfa", b"a\rb\n", b"a\xc3", b"x" * 2**22 + b"\r"]
)
def test_what_is_not_plain(tmp_path, content):
    path = tmp_path / "a.inter"
    path.write_bytes(content)
    assert not is_plain(path, "utf-8")


def test_a_sign_between_two_blocks_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.inter"
    for size in range(1, 8):
        monkeypatch.setattr(columnar_reader, "BLOCK", size)
        path.write_text("aä東\r\nb\r\n", encoding="utf-8", newline="")
        assert is_plain(path, "utf-8") and not is_plain(path, "latin-1") and not is_plain(path, "ascii")


@pytest.mark.parametrize(
    "row", ["u\ti", "u\ti\t1\tw\tmore", "u\ti\tx\tw", "u\ti\tNAN\tw", "u\ti\tinf\tw", "u\ti\t1e999\tw"]
)
def test_odd_rows_are_left_to_pandas(tmp_path, row):
    path = write(tmp_path / "a.inter", [["u", "i", "1", "w"], row.split("\t"), ["u", "i", "1", "w"]])
    assert read_plain_text(path, "\t", CELLS, KINDS) is None


def test_odd_headers_are_left_to_pandas(tmp_path):
    path = write(tmp_path / "a.inter", [["u", "u", "1", "w"]], cells=["a:token", "a:token", "b:float", "c:token"])
    assert read_plain_text(path, "\t", ["a:token", "a:token", "b:float", "c:token"], {"a:token": FeatureType.TOKEN}) is None
    assert read_plain_text(write(tmp_path / "b.inter", [["u"]], cells=["a:token"]), "\t", ["a:token"], {"a:token": FeatureType.TOKEN}) is None
    assert read_plain_text(path, "\t", CELLS, {}) is None


def everything(data):
    """Tensors and names of a data set and its parts."""
    names = {field: (tokens.tolist(), data.field2token_id[field]) for field, tokens in data.field2id_token.items()}
    parts = [{name: column.tolist() for name, column in part.inter_feat.interaction.items()} for part in data.build()]
    return names, parts, {name: column.tolist() for name, column in data.flat.items()}


def test_without_pyarrow_the_data_are_the_same(tmp_path, monkeypatch):
    random = np.random.default_rng(3)
    rows = [[f"u{n}", f"i{m}", str(t), "w"] for n, m, t in zip(random.zipf(1.5, 900) % 60, random.integers(0, 25, 900), random.random(900))]
    (tmp_path / "cycle").mkdir()
    write(tmp_path / "cycle" / "cycle.inter", rows)
    settings = {"user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "[3,inf)"}
    made = []
    read = atomic_reader.read_plain_text
    monkeypatch.setattr(atomic_reader, "read_plain_text", lambda *words: made.append(read(*words)) or made[-1])
    found = [everything(create_dataset(make_config("SimDiffRec", str(tmp_path), **settings)))]
    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported("no_such_module" if name.startswith("pyarrow") else name))
    found.append(everything(create_dataset(make_config("SimDiffRec", str(tmp_path), **settings))))
    assert made[0] is not None and made[1] is None
    assert found[0] == found[1]
