"""prepare from tables with a header: separators, quotes, encodings, kinds of times, columns that are guessed, Parquet."""

import gzip
import importlib

import pandas as pd
import pytest
from raw_files import message, table, write

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import table_files
from recbole_diffusion.prepare.sequences import prepare
from recbole_diffusion.prepare.table_header import TableOptions

HEADER = ["user_id:token", "item_id:token", "timestamp:float"]
ROWS = [["u1", "i1", "1500000000"], ["u1", "i2", "1500000001"], ["u2", "i1", "1500000000"]]


def prepared(tmp_path, text, notes=None, **options):
    """Rows of the .inter file that comes of a CSV text; what was said goes into ``notes``."""
    source = text if hasattr(text, "suffix") else write(tmp_path / "raw.csv", text)
    say = notes.append if notes is not None else None
    prepare("mine", source, tmp_path, force=True, show_progress=False, options=TableOptions(**options), say=say)
    return table(tmp_path, "mine")


def refused(tmp_path, text, **options):
    with pytest.raises(UsageError) as error:
        prepared(tmp_path, text, **options)
    assert not (tmp_path / "mine").exists()
    return message(error)


# ------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("mark, name", [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar"), (" ", "space")])
def test_any_separator_is_guessed_and_said(tmp_path, mark, name):
    lines = ["userId,movieId,timestamp", "u1,i2,1500000001", "u2,i1,1500000000", "u1,i1,1500000000"]
    notes = []
    assert prepared(tmp_path, "\n".join(lines).replace(",", mark), notes) == [HEADER, *ROWS]
    assert notes[0] == f"separator: {name} (guessed)"
    assert notes[1] == "columns: user 'userId' (guessed), item 'movieId' (guessed), time 'timestamp' (guessed), no rating"
    assert notes[2] == "time: seconds since 1970, 2017-07-14 to 2017-07-14"


def test_movielens_header_with_ratings(tmp_path):
    rows = prepared(tmp_path, "userId,movieId,rating,timestamp\n0,7,4.5,1500000000\n0,8,3,1500000001\n")
    assert rows[0][3] == "rating:float" and rows[1:] == [["0", "7", "1500000000", "4.5"], ["0", "8", "1500000001", "3"]]


def test_films_of_movielens_come_from_the_file_beside(tmp_path):
    folder = tmp_path / "ml-latest"
    folder.mkdir()
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp\n0,7,4.5,1500000000\n0,8,3,1500000001\n")
    write(folder / "movies.csv", 'movieId,title,genres\n7,"Misérables, Les (1995)",Drama|War\n9,Other (2000),War\n')
    prepare("mine", folder, tmp_path, show_progress=False)
    assert table(tmp_path, "mine", "item")[1:] == [["7", "Misérables, Les", "1995", "Drama War"], ["8", "", "", ""]]
    write(folder / "movies.csv", "id,film\n7,Other\n")  # a file of that name, but no films of MovieLens
    prepare("other", folder, tmp_path, show_progress=False)
    assert not (tmp_path / "other" / "other.item").exists()


def test_quoted_fields_blank_lines_and_named_columns(tmp_path):
    text = 'when;who;what;note\r\n1;"a;b";x;"two\r\nlines"\r\n\r\n2;"a;b"; y;""\r\n'
    given = {"user": "who", "item": "what", "time": "when"}
    notes = []
    assert prepared(tmp_path, text, notes, columns=given)[1:] == [["a;b", "x", "1"], ["a;b", "y", "2"]]
    assert notes[1] == "columns: user 'who', item 'what', time 'when', no rating"


def test_a_separator_inside_a_name_is_not_taken(tmp_path):
    text = '"user id";item;"date, time"\nu1;i1;1\n'
    assert prepared(tmp_path, text, columns={"time": "date, time"})[1] == ["u1", "i1", "1"]


def test_ids_stay_texts(tmp_path):
    rows = prepared(tmp_path, "user,item,time\n007,1.0,5\n007,1e3,6\n")
    assert [row[:2] for row in rows[1:]] == [["007", "1.0"], ["007", "1e3"]]


def test_byte_order_mark_gzip_and_other_encodings(tmp_path):
    text = "user,item,time\nu1,café,1\n"
    for encoding, said in (("utf-8-sig", "utf-8"), ("latin-1", "latin-1"), ("utf-16", "utf-16")):
        source = write(tmp_path / f"{encoding}.csv", text, encoding)
        assert prepared(tmp_path, source, encoding=said)[1] == ["u1", "café", "1"]
    packed = tmp_path / "raw.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert prepared(tmp_path, packed)[1] == ["u1", "café", "1"]


def test_pieces_are_one_table(tmp_path, monkeypatch):
    text = "user,item,time\n" + "".join(f"u{n % 3},i{n % 4},{n}\n" for n in range(20))
    whole = prepared(tmp_path, text)
    monkeypatch.setattr(table_files, "_ROWS_PER_READ", 3)
    assert prepared(tmp_path, text) == whole and len(whole) == 21
    with pytest.raises(UsageError, match="line 22: the time is empty"):
        prepared(tmp_path, text + "u1,i1,\n")


def test_rows_without_ids_are_left_out_and_counted(tmp_path):
    notes = []
    rows = prepared(tmp_path, "user,item,time\nu1,i1,1\n,i2,\nu1,NA,3\nu1, ,4\nu1,i3,5\n", notes)
    assert [row[1] for row in rows[1:]] == ["i1", "i3"]
    assert "warning: 1 row(s) without user ('user') are left out" in notes
    assert "warning: 2 row(s) without item ('item') are left out" in notes


def test_a_guessed_rating_without_numbers_is_left_out(tmp_path):
    text, notes = "user,item,time,rating\nu1,i1,1,5\nu1,i2,2,good\n", []
    assert prepared(tmp_path, text, notes)[0] == HEADER
    assert "rating: 'rating' is not a number in every row, it is left out" in notes
    with pytest.raises(UsageError, match="line 3: the rating 'good' is not a number"):
        prepared(tmp_path, text, columns={"rating": "rating"})


# ------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    "times, seconds, said",
    [
        (["1500000000000", "1500000000250"], ["1500000000", "1500000000.25"], "milliseconds since 1970"),
        (["1500000000000000", "1500000001000000"], ["1500000000", "1500000001"], "microseconds since 1970"),
        (["1.5e9", "1500000001.5"], ["1500000000", "1500000001.5"], "seconds since 1970"),
        (["2017-07-14 02:40:00", "2017-07-14T02:40:01.5Z"], ["1500000000", "1500000001.5"], "dates, 2017-07-14"),
        (["2017-07-14T04:40:00+02:00", "2017-07-14 02:40:01 UTC"], ["1500000000", "1500000001"], "dates, 2017-07-14"),
        (["1970-01-02", "1970/01/03"], ["86400", "172800"], "dates, 1970-01-02 to 1970-01-03"),
        (["1", "20240131"], ["1", "20240131"], "numbers as they stand, 1 to 20240131"),
        (["1960-01-01", "1969-12-31"], ["-315619200", "-86400"], "dates, 1960-01-01 to 1969-12-31"),
    ],
)
def test_kinds_of_times(tmp_path, times, seconds, said):
    text, notes = "user,item,time\n" + "".join(f"u,i{n},{time}\n" for n, time in enumerate(times)), []
    assert [row[2] for row in prepared(tmp_path, text, notes)[1:]] == seconds
    assert any(said in note for note in notes), notes


def test_other_dates_need_their_format(tmp_path):
    text = "user,item,time\nu,a,03/04/2024\nu,b,13/01/2024\n"
    assert "line 2: the time '03/04/2024' is neither a number nor an ISO date" in refused(tmp_path, text)
    rows = prepared(tmp_path, text, time_format="%d/%m/%Y")
    assert [row[1] for row in rows[1:]] == ["b", "a"] and rows[1][2] == "1705104000"
    with pytest.raises(UsageError, match="line 3: the time '13/01/2024' is neither .* of the format '%m/%d/%Y'"):
        prepared(tmp_path, text, time_format="%m/%d/%Y")


def test_seconds_and_milliseconds_side_by_side(tmp_path):
    text = "user,item,time\nu,a,1500000000\nu,b,1500000000000\n"
    assert "line 3: the time 1500000000000 looks like milliseconds since 1970, others like" in refused(tmp_path, text)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "text, options, expected",
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("user,item,time\n", {}, "holds a header but no rows"),
        ("usr,item,time\nu,i,1\n", {}, "no column is surely the user, name it with --user=COLUMN; it has usr, item, time"),
        ("user,item,time\nu,i,1\n", {"columns": {"user": "usre"}}, "no column 'usre', did you mean 'user'?"),
        ("user_id,asin,parent_asin,time\n", {}, "asin or parent_asin may be the item, name it with --item=COLUMN"),
        ("user,item,time\nu,i,1\n", {"separator": ";"}, "holds no ';', it seems separated by comma: --separator=comma"),
        ("user,item,time\nu,i,1\n", {"separator": "xx"}, "--separator='xx' must be one character, or tab, comma"),
        ("a;b,c\n1;2,3\n", {"columns": {"user": "a"}}, "what separates the columns? Name it with --separator, one of: comma"),
        ("user,item,time\nu,i,soon\n", {}, "line 2: the time 'soon' is neither a number nor an ISO date"),
        ("user,item,time\nu,i,1\nu,i,soon\n", {}, "line 3: the time 'soon' is not a number, unlike those before it"),
        ("user,item,item,time\nu,i,i,1\n", {}, "the header names the column 'item' twice"),
        ("user,item,time\nu,i,1\nu,i,1,7\n", {}, "Expected 3 fields in line 3, saw 4"),
        ("user,item,time\nu,i,1,7\nu,i,1,7\n", {}, "line 2 has 4 field(s) and the header 3"),
        ("user,item,time\nu,i,1\nu,i", {}, "line 3: the time is empty"),
        ("u1,i1,7\nu1,i2,8\n", {"separator": ","}, "line 1 (u1, i1, 7) looks like a row: write a header"),
        ('user,item,time\nu,"a ""b""",1\n', {}, "line 2: the item 'a \"b\"' holds a quote mark"),
        ('user,item,time\nu,"i,1\nu,i,2\n', {}, "line 2 has 2 field(s) and the header 3"),
        ('user,item,time\nu,j,1\nu,"i,1\nu,i,2\n', {}, "cannot be read as a table: EOF inside string"),
        ("user,item,time\nNA,i,1\n", {}, "every row lacks its user or its item"),
        ("user,item,time\nu,i,1\n", {"columns": {"user": "user", "item": "user"}}, "'user' cannot be two things"),
        ("user,item,time\nu,i,1\n", {"encoding": "utf-88"}, "--encoding=utf-88 is unknown"),
        ("user\nu\n", {"columns": {"user": "user"}}, "the header 'user' is one column only"),
        ("user,item,time\nu,i\0,1\n", {}, "is no text: it holds a zero byte"),
    ],
)
def test_wrong_tables(tmp_path, text, options, expected):
    assert expected in refused(tmp_path, text, **options)


def test_bytes_of_another_encoding_are_named(tmp_path):
    source = write(tmp_path / "raw.csv", "user,item,time\nu1,café,1\n", "latin-1")
    assert "raw.csv' line 2 is not utf-8 text: name the --encoding" in refused(tmp_path, source)
    long = write(tmp_path / "long.csv", "user,item,time\n" + "u1,i1,1\n" * 20000 + "u1,café,1\n", "latin-1")
    assert "long.csv' is not utf-8 text: name the --encoding" in refused(tmp_path, long)
    assert "is UTF-16 text, say so with --encoding=utf-16" in refused(
        tmp_path, write(tmp_path / "wide.csv", "user,item,time\nu,i,1\n", "utf-16")
    )


def test_options_of_tables_for_other_formats(tmp_path, capsys):
    source = write(tmp_path / "s.txt", "7 a b\n")
    words = ["prepare", "mine", f"--source={source}", f"--out={tmp_path}"]
    assert main([*words, "--format=sequences", "--user=x"]) == 2
    assert "are those of a table" in capsys.readouterr().err
    assert main([*words, "--format=atomic-sessions", "--user=x"]) == 2
    assert "has columns of its own" in capsys.readouterr().err


def test_command(tmp_path, capsys):
    source = write(tmp_path / "raw.csv", "kunde;artikel;zeit\n" + "".join(f"k1;a{n};2024-01-0{n}\n" for n in range(1, 6)))
    words = ["prepare", "mine", f"--source={source}", f"--out={tmp_path}", "--format=csv"]
    assert main([*words, "--user=kunde", "--item=artikel", "--time=zeit"]) == 0
    out, err = capsys.readouterr()
    assert "columns: user 'kunde', item 'artikel', time 'zeit', no rating" in out and "1 users, 5 items" in out
    assert f"train: recbole-diffusion run --model=SASRec --dataset=mine --data_path={tmp_path}" in out
    assert err == "", "no bar where no terminal is"


def test_swapped_columns_are_noticed(tmp_path, capsys):
    rows = "".join(f"{user},{item},{user + item}\n" for user in range(5) for item in range(5))
    source = write(tmp_path / "raw.csv", "userId,movieId,timestamp\n" + rows)
    words = ["prepare", "mine", f"--source={source}", f"--out={tmp_path}", "--force"]
    assert main(words) == 0 and capsys.readouterr().err == ""
    assert main([*words, "--user=movieId", "--item=userId"]) == 0
    assert capsys.readouterr().err == (
        "warning: users and items seem to be swapped: the users are to come from 'movieId', which sounds like items\n"
    )


# ------------------------------------------------------------------------------------------- Parquet


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"user_id": [7, 7, 8], "sku": ["a", "b", "a"], "stars": [5.0, 4.5, 3.0]})
    frame["time"] = pd.to_datetime([1500000000, 1500000001, 1500000000], unit="s")
    frame.to_parquet(tmp_path / "raw.parquet")
    return tmp_path / "raw.parquet"


def test_parquet(tmp_path, parquet, monkeypatch):
    expected = [[*HEADER, "rating:float"], ["7", "a", "1500000000", "5"], ["7", "b", "1500000001", "4.5"]]
    assert prepared(tmp_path, parquet)[:3] == expected
    monkeypatch.setattr(table_files, "_ROWS_PER_READ", 1)
    assert prepared(tmp_path, parquet)[:3] == expected
    with pytest.raises(UsageError, match="no column 'usr', did you mean 'user_id'"):
        prepared(tmp_path, parquet, columns={"user": "usr"})


def test_broken_parquet_and_a_missing_library(tmp_path, parquet, monkeypatch):
    parquet.write_bytes(parquet.read_bytes()[:200])
    assert "raw.parquet' cannot be read as Parquet" in refused(tmp_path, parquet)
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["i", "j"], "time": [1.0, None]})
    frame.to_parquet(parquet)
    assert "raw.parquet' row 2: the time is empty" in refused(tmp_path, parquet)
    read_any = importlib.import_module

    def without_pyarrow(name, *more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return read_any(name, *more)

    monkeypatch.setattr(importlib, "import_module", without_pyarrow)
    assert "Parquet files need pyarrow: pip install pyarrow" in refused(tmp_path, parquet)
