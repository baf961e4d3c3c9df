"""Atomic files from public raw data: read, filter, check the counts, write.

Rows are held as numbers (24 bytes each) and every user and item name once, so that the largest
public sets fit into memory. Only numpy is imported, neither torch nor RecBole.
"""

import ast
import gzip
import hashlib
import html
import importlib.util
import json
import math
import os
import re
import shlex
import stat
import tempfile
import zipfile
import zlib
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
from tqdm import tqdm

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import flush_to_disk, make_folder, replacing
from recbole_diffusion.properties import load_yaml, property_file

FORMATS = ("amazon-ratings", "amazon-5core", "movielens", "sequences")

# Our names of RecBole's published archives; other names are looked up as they are.
ARCHIVE_NAMES = {"beauty": "amazon-beauty", "toys": "amazon-toys-games", "sports": "amazon-sports-outdoors"}

# Known checksums of archives by url. Empty: RecBole publishes none and no archive could be fetched to take one.
SHA256 = {}

ATOMIC_SUFFIXES = (".inter", ".item", ".user", ".kg", ".link", ".net")

# Control characters, line separators and halves of surrogate pairs: none of them survives a tab separated UTF-8 file.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINES_PER_UPDATE = 20000
_BLOCK = 1 << 16


# ------------------------------------------------------------------------------------------- rows and their filter


@dataclass
class Interactions:
    """Rows of one data set; all arrays have shape [rows].

    Attributes:
        user_tokens (list[str]): name of each user number, in order of first appearance.
        item_tokens (list[str]): name of each item number, in order of first appearance.
        users (numpy.ndarray): user numbers, int32.
        items (numpy.ndarray): item numbers, int32.
        timestamps (numpy.ndarray): float64, in the unit of the source (seconds, or positions 0, 1, 2, ...).
        ratings (numpy.ndarray or None): float64, None where the source has no ratings.
    """

    user_tokens: list
    item_tokens: list
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray = None

    def counts(self):
        """Numbers of different users and items and of rows, as a dict."""
        return {
            "users": len(np.unique(self.users)),
            "items": len(np.unique(self.items)),
            "interactions": len(self.users),
        }

    def take(self, rows):
        """The same data with only ``rows`` (a mask or row numbers), in that order."""
        ratings = None if self.ratings is None else self.ratings[rows]
        return Interactions(
            self.user_tokens, self.item_tokens, self.users[rows], self.items[rows], self.timestamps[rows], ratings
        )


def k_core(users, items, min_user, min_item):
    """Which rows remain when users and items with too few rows are dropped until nothing changes.

    Args:
        users (numpy.ndarray): user numbers, [rows].
        items (numpy.ndarray): item numbers, [rows].
        min_user (int): least number of rows of a user; 0 and 1 filter nothing.
        min_item (int): least number of rows of an item.

    Returns:
        numpy.ndarray: row numbers that remain, ascending.
    """
    rows = np.arange(len(users))
    while len(rows):
        enough_user = np.bincount(users[rows])[users[rows]] >= min_user
        enough_item = np.bincount(items[rows])[items[rows]] >= min_item
        keep = enough_user & enough_item
        if keep.all():
            break
        rows = rows[keep]
    return rows


def lower_bound(interval):
    """Least count that an interval like ``"[5,inf)"`` or ``"(4,inf)"`` admits; 0 for None.

    Raises:
        UsageError: when the text is no interval. Upper bounds are left to RecBole, which applies them at load.
    """
    if interval is None:
        return 0
    match = re.match(r"\s*([\[(])\s*(\d+(?:\.\d+)?|-?inf)\s*,", str(interval))
    if not match:
        raise UsageError(f"interval '{interval}' is not understood, write it like '[5,inf)'")
    bracket, text = match.groups()
    low = float(text)
    if not math.isfinite(low):
        return 0
    return math.floor(low) + 1 if bracket == "(" else math.ceil(low)


# ------------------------------------------------------------------------------------------- reading raw files


class _Rows:
    """Collects rows; every name is checked once and kept once."""

    def __init__(self):
        self.user_ids, self.item_ids = {}, {}
        self.users, self.items = array("i"), array("i")
        self.timestamps, self.ratings = array("d"), array("d")

    def add(self, user, item, timestamp, rating=None):
        """Add one row; raises ValueError with a reason when a value cannot be used."""
        user, item = _number_of(user, self.user_ids, "user"), _number_of(item, self.item_ids, "item")
        if not math.isfinite(timestamp):
            raise ValueError("the timestamp is not a finite number")
        if rating is not None:
            if not math.isfinite(rating):
                raise ValueError("the rating is not a finite number")
            self.ratings.append(rating)
        self.users.append(user)
        self.items.append(item)
        self.timestamps.append(timestamp)

    def finish(self):
        """The collected rows as Interactions."""
        return Interactions(
            list(self.user_ids),
            list(self.item_ids),
            np.frombuffer(self.users, dtype=np.int32),
            np.frombuffer(self.items, dtype=np.int32),
            np.frombuffer(self.timestamps, dtype=np.float64),
            np.frombuffer(self.ratings, dtype=np.float64) if self.ratings else None,
        )


def _number_of(token, known, kind):
    number = known.get(token)
    if number is None:
        if not isinstance(token, str) or not token.strip():
            raise ValueError(f"the {kind} is empty or not text")
        if _CONTROL.search(token) or '"' in token:
            raise ValueError(f"the {kind} {token!r} holds a quote mark or a control character")
        number = known[token] = len(known)
    return number


def _fields(line, separator, expected):
    parts = line.split(separator)
    if len(parts) != expected:
        raise ValueError(f"{expected} fields separated by {separator!r} are expected, it has {len(parts)}")
    return parts


def _add_ratings_line(rows, line, separator):
    user, item, rating, timestamp = _fields(line, separator, 4)
    rows.add(user, item, float(timestamp), float(rating))


def _add_csv_line(rows, line):
    _add_ratings_line(rows, line, ",")


def _add_movielens_line(rows, line):
    _add_ratings_line(rows, line, "::" if "::" in line else "\t")


def _add_review_line(rows, line):
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a JSON object in braces is expected")
    missing = [key for key in ("reviewerID", "asin", "overall", "unixReviewTime") if key not in record]
    if missing:
        raise ValueError(f"the key '{missing[0]}' is missing")
    rows.add(record["reviewerID"], record["asin"], float(record["unixReviewTime"]), float(record["overall"]))


def _add_sequence_line(rows, line):
    user, *items = line.split()
    if not items:
        raise ValueError("a user and at least one item are expected")
    if user in rows.user_ids:
        raise ValueError(f"the user '{user}' already has a line, there must be one line per user")
    for position, item in enumerate(items):
        rows.add(user, item, position)


_ADD_LINE = {
    "amazon-ratings": _add_csv_line,
    "amazon-5core": _add_review_line,
    "movielens": _add_movielens_line,
    "sequences": _add_sequence_line,
}


def bad_line(path, number, reason):
    """UsageError about one line of a raw file."""
    return UsageError(f"'{path}' line {number}: {reason}; mend or remove the line")


def read_lines(path, encoding="utf-8", show_progress=False):
    """Yield (line number from 1, text without its end) of a plain or .gz file; blank lines are passed over.

    Raises:
        UsageError: when the file is missing, is no valid gzip file or holds bytes outside the encoding.
    """
    try:
        with open(path, "rb") as raw, tqdm(
            total=os.path.getsize(path), unit="B", unit_scale=True, desc=path.name, disable=not show_progress
        ) as bar:
            file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(file, 1):
                if number % _LINES_PER_UPDATE == 0:
                    bar.update(raw.tell() - bar.n)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # the mark some editors put before UTF-8 text
                try:
                    text = line.decode(encoding).rstrip("\r\n")
                except UnicodeDecodeError:
                    raise bad_line(path, number, f"it is not {encoding} text") from None
                if text.strip():
                    yield number, text
            bar.update(raw.tell() - bar.n)
    except FileNotFoundError:
        raise UsageError(f"file '{path}' does not exist, give the path of a downloaded raw file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"file '{path}' cannot be read ({error}), download it again") from None


def read_rows(path, input_format, show_progress):
    """All rows of a raw file as Interactions. Raises UsageError with the number of the line that cannot be used."""
    add_line, rows = _ADD_LINE[input_format], _Rows()
    encoding = "latin-1" if input_format == "movielens" else "utf-8"
    for number, line in read_lines(path, encoding, show_progress):
        try:
            add_line(rows, line)
        except (ValueError, TypeError, OverflowError) as error:
            raise bad_line(path, number, f"not in the format {input_format}, {error}") from None
    if not rows.users:
        raise UsageError(f"file '{path}' is empty, give a raw file with at least one line")
    return rows.finish()


def detect_format(path):
    """Name of the input format of a raw file, told from its first line.

    Raises:
        UsageError: when the line fits none of the formats; the message lists them.
    """
    first = next((line for _, line in read_lines(path, "latin-1")), None)
    if first is None:
        raise UsageError(f"file '{path}' is empty, give a raw file with at least one line")
    if first.lstrip().startswith("{"):
        return "amazon-5core"
    if len(first.split("::")) == 4 or len(first.split("\t")) == 4:
        return "movielens"
    if len(first.split(",")) == 4:
        return "amazon-ratings"
    if "," not in first and len(first.split()) > 1:
        return "sequences"
    raise UsageError(f"the format of '{path}' is not recognised, name it with --format=, one of: {', '.join(FORMATS)}")


def _raw_file(source):
    """The file to read: ``source`` itself, or the ratings inside a MovieLens folder."""
    source = Path(source)
    if not source.is_dir():
        return source
    for name in ("ratings.dat", "u.data"):
        if (source / name).is_file():
            return source / name
    raise UsageError(f"folder '{source}' holds neither ratings.dat nor u.data, give the path of a raw file")


# ------------------------------------------------------------------------------------------- item texts


def clean_text(text):
    """Text that can stand in an atomic file: entities decoded, control characters and blanks to one space,
    ``"`` to ``''`` because RecBole's reader takes it for a quote. None becomes an empty text."""
    if text is None:
        return ""
    return " ".join(_CONTROL.sub(" ", html.unescape(str(text))).split()).replace('"', "''")


def clean_names(names):
    """Names (lists may be nested) as one text: ``_`` inside a name, spaces between names, each name once."""
    if names is None:
        return ""
    if isinstance(names, (list, tuple)):
        words = [word for name in names for word in clean_names(name).split()]
        return " ".join(dict.fromkeys(words))
    return clean_text(names).replace(" ", "_")


def metadata_record(line):
    """One line of Amazon's metadata as a dict with the text 'asin'. Raises ValueError with a reason."""
    try:
        record = json.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line)  # the metadata of 2014 are Python literals; never evaluated as code
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise ValueError("neither JSON nor a Python literal") from None
    if not isinstance(record, dict) or not isinstance(record.get("asin"), str):
        raise ValueError("an object with the text 'asin' is expected")
    return record


def _read_amazon_texts(path, wanted, show_progress):
    """Header and {item: fields} of the wanted items of an Amazon metadata file."""
    texts = {}
    for number, line in read_lines(path, show_progress=show_progress):
        try:
            record = metadata_record(line)
        except ValueError as error:
            raise bad_line(path, number, str(error)) from None
        if record["asin"] in wanted:
            categories = clean_names(record.get("categories", record.get("category")))
            texts[record["asin"]] = (clean_text(record.get("title")), clean_text(record.get("brand")), categories)
    return "title:token_seq\tbrand:token_seq\tcategories:token_seq", texts


def _read_movies(path, wanted, show_progress):
    """Header and {item: fields} of the wanted items of MovieLens' movies.dat (``1::Toy Story (1995)::Comedy``)."""
    texts = {}
    for number, line in read_lines(path, "latin-1", show_progress):
        try:
            item, title, genres = _fields(line, "::", 3)
        except ValueError as error:
            raise bad_line(path, number, str(error)) from None
        if item in wanted:
            title, year = re.fullmatch(r"(.*?)\s*(?:\((\d{4})\))?", clean_text(title)).groups()
            texts[item] = (title, year or "", clean_names(genres.split("|")))
    return "title:token_seq\trelease_year:token\tgenre:token_seq", texts


def _item_table(meta, input_format, wanted, show_progress):
    """Lines of the .item file; items that the metadata do not know get empty fields."""
    read = _read_movies if input_format == "movielens" else _read_amazon_texts
    header, texts = read(Path(meta), set(wanted), show_progress)
    if not texts:
        raise UsageError(f"'{meta}' describes none of the {len(wanted)} items, give the metadata of the same data set")
    empty = ("",) * (header.count("\t") + 1)
    yield f"item_id:token\t{header}\n"
    for item in wanted:
        yield "\t".join((item, *texts.get(item, empty))) + "\n"


# ------------------------------------------------------------------------------------------- writing


def _plain(number):
    """Shortest text of a number: 5 rather than 5.0."""
    return str(int(number)) if number.is_integer() else repr(number)


def _inter_table(data):
    """Lines of the .inter file."""
    header = "user_id:token\titem_id:token\ttimestamp:float"
    columns = [data.users, data.items, data.timestamps]
    if data.ratings is not None:
        header, columns = header + "\trating:float", columns + [data.ratings]
    yield header + "\n"
    for user, item, *numbers in zip(*(column.tolist() for column in columns)):
        yield "\t".join((data.user_tokens[user], data.item_tokens[item], *map(_plain, numbers))) + "\n"


def write_all(tables):
    """Write {path: iterable of lines}; no file appears, or changes, before all of them are complete on disk."""
    try:
        with ExitStack() as stack:  # renames them when the block has ended
            for path, lines in tables.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(replacing(path, encoding="utf-8", newline="\n"))
                file.writelines(lines)
                flush_to_disk(file)
    except OSError as error:
        raise UsageError(f"'{error.filename or path}' cannot be written: {error.strerror}; use another --out") from None


def target_file(name, out_dir, force, suffix=".inter"):
    """Path of a file to write; refuses odd names and, without ``force``, an existing file."""
    if not re.fullmatch(r"[\w+-][\w.+-]*", str(name)):
        raise UsageError(f"data set name '{name}' cannot be a folder, use letters, digits, '.', '-' and '_'")
    target = Path(out_dir) / name / f"{name}{suffix}"
    if target.exists() and not force:
        raise UsageError(f"'{target}' exists already, add --force to replace it")
    return target


def dataset_properties(name):
    """Content of properties/dataset/<name>.yaml, empty where there is none."""
    path = property_file("dataset", name)
    return load_yaml(path) if path.is_file() else {}


def _minimum(given, interval, option):
    value = lower_bound(interval) if given is None else given
    if value < 0:
        raise UsageError(f"{option}={value} must not be negative, 0 filters nothing")
    return value


def _filtered(data, min_user, min_item):
    """k-core of the data, users in order of first appearance, their rows in order of time, then of the file.

    lexsort is stable, so rows of equal time keep the order of the file.
    """
    rows = k_core(data.users, data.items, min_user, min_item)
    if not len(rows):
        before = ", ".join(f"{count} {what}" for what, count in data.counts().items())
        raise UsageError(
            f"the filter min_user={min_user}, min_item={min_item} leaves 0 of {before}, lower --min_user or --min_item"
        )
    return data.take(rows[np.lexsort((data.timestamps[rows], data.users[rows]))])


def check_counts(name, counts, expected):
    """Raise UsageError when the counts are not those of the data set's yaml."""
    if expected and counts != expected:
        shown = [", ".join(f"{key} {c.get(key)}" for key in counts) for c in (counts, expected)]
        raise UsageError(
            f"'{name}' would have {shown[0]} but {shown[1]} are expected: take the source and filter named in "
            f"dataset/README.md, or give the data set another name; nothing was written"
        )


def prepare(
    name,
    source,
    out_dir="dataset",
    input_format=None,
    meta=None,
    min_user=None,
    min_item=None,
    force=False,
    show_progress=True,
):
    """Write ``<out_dir>/<name>/<name>.inter`` (and ``.item`` where texts are known) from public raw files.

    Blank lines are passed over. The rows of a user stand together, in order of time and, for equal times, of the
    file. Rows are filtered until every user and item has enough of them (k-core).

    Args:
        name (str): name of the data set. ``properties/dataset/<name>.yaml``, where it exists, gives the filter and
            the counts that must come out.
        source (str or Path): raw file, plain or .gz, or the folder of MovieLens.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        input_format (str): one of ``FORMATS``; None tells it from the first line.
            ``amazon-ratings``: user,item,rating,timestamp without header. ``amazon-5core``: JSON lines with
            reviewerID, asin, overall, unixReviewTime. ``movielens``: user::item::rating::timestamp, or the same
            with tabs. ``sequences``: user item item ..., one line per user; the timestamp is the position from 0.
        meta (str or Path): Amazon metadata lines (JSON or Python literals) with asin, title, brand, categories; for
            MovieLens movies.dat, which is found by itself in the folder.
        min_user (int): least number of rows of a user; None takes it from the yaml, else no filter.
        min_item (int): least number of rows of an item.
        force (bool): replace existing files.
        show_progress (bool): show bytes read.

    Returns:
        dict: ``users``, ``items``, ``interactions`` that were written.

    Raises:
        UsageError: for a missing, empty or malformed file (with its line number), an unknown format, a filter that
            leaves nothing, counts other than expected, an existing target. Nothing is written then.
    """
    target = target_file(name, out_dir, force)
    if input_format is not None and input_format not in FORMATS:
        from recbole_diffusion.data.prepare_sessions import SESSION_FORMATS

        known = (*FORMATS, *SESSION_FORMATS)
        raise UsageError(
            f"format '{input_format}' is unknown{did_you_mean(input_format, known)}, use one of: {', '.join(known)}"
        )
    properties = dataset_properties(name)
    min_user = _minimum(min_user, properties.get("user_inter_num_interval"), "--min_user")
    min_item = _minimum(min_item, properties.get("item_inter_num_interval"), "--min_item")
    path = _raw_file(source)
    input_format = input_format or detect_format(path)
    if meta is None and input_format == "movielens" and (path.parent / "movies.dat").is_file():
        meta = path.parent / "movies.dat"

    data = _filtered(read_rows(path, input_format, show_progress), min_user, min_item)
    counts = data.counts()
    check_counts(name, counts, properties.get("expected_counts"))
    tables = {target: _inter_table(data)}
    if meta is not None:
        wanted = [data.item_tokens[item] for item in np.unique(data.items)]
        tables[target.with_suffix(".item")] = list(_item_table(meta, input_format, wanted, show_progress))
    write_all(tables)
    return counts


# ------------------------------------------------------------------------------------------- published archives


def recbole_folder():
    """Folder of the installed RecBole, found without importing it. Raises UsageError when it is not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None:
        raise UsageError("RecBole is not installed, run: pip install recbole==1.2.1")
    return Path(next(iter(spec.submodule_search_locations)))


def archive_url(name):
    """Address of RecBole's published archive of a data set. Raises UsageError for a name not in RecBole's list."""
    known = load_yaml(recbole_folder() / "properties" / "dataset" / "url.yaml")
    theirs = ARCHIVE_NAMES.get(name, name)
    if theirs not in known:
        hint = did_you_mean(name, [*known, *ARCHIVE_NAMES])
        raise UsageError(f"RecBole publishes no archive named '{name}'{hint}; name its address with --url=")
    return known[theirs]


def _fetch(url, path, timeout, show_progress):
    """Stream ``url`` to ``path``; returns its sha256 in hexadecimal. Raises OSError or HTTPException."""
    digest = hashlib.sha256()
    with urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=url, disable=not show_progress) as bar:
            for block in iter(lambda: response.read(_BLOCK), b""):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
            received = file.tell()
    if received < size:  # urllib ends a broken transfer silently
        raise OSError(f"only {received} of {size} bytes arrived")
    return digest.hexdigest()


def _members(archive, url):
    """The atomic files of an open zip archive. Raises UsageError when a member would land outside its folder."""
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise UsageError(f"the archive of {url} holds '{member.filename}', outside its folder: it is not unpacked")
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.suffix in ATOMIC_SUFFIXES and not hidden and not member.is_dir():
            yield member, path.name


def _new_name(file_name, stem, name):
    """``<stem>.train.inter`` becomes ``<name>.train.inter``; of any other file only the suffix is kept."""
    rest = file_name[len(stem) :] if file_name.startswith(stem + ".") else PurePosixPath(file_name).suffix
    return name + rest


def _unpack(zip_path, folder, name, url):
    """Unpack the atomic files as ``<folder>/<name>.*``; returns their paths, .inter last."""
    stem = PurePosixPath(urlsplit(url).path).stem
    with zipfile.ZipFile(zip_path) as archive:
        paths = []
        for member, file_name in list(_members(archive, url)):
            path = folder / _new_name(file_name, stem, name)
            if path in paths:
                raise UsageError(f"the archive of {url} holds more than one file for '{path.name}', unzip it by hand")
            with archive.open(member) as packed, open(path, "wb") as file:
                for block in iter(lambda: packed.read(_BLOCK), b""):
                    file.write(block)
            paths.append(path)
    if not any(path.suffix == ".inter" for path in paths):
        raise UsageError(f"the archive of {url} holds no .inter file, use another --url or `prepare` on the raw files")
    return sorted(paths, key=lambda path: path.suffix == ".inter")


def download(name, out_dir="dataset", url=None, sha256=None, force=False, timeout=60, show_progress=True):
    """Fetch RecBole's published archive and unpack it to ``<out_dir>/<name>/<name>.*``.

    The archives of beauty, toys and sports are the unfiltered ratings: the filter in
    ``properties/dataset/<name>.yaml`` is applied each time the data are loaded.

    Args:
        name (str): name of the data set, ours or RecBole's.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        url (str): address of a zip archive; None takes it from RecBole's list.
        sha256 (str): checksum that the archive must have, hexadecimal; None checks only against ``SHA256``.
        force (bool): replace existing files.
        timeout (float): seconds without an answer after which the attempt ends.
        show_progress (bool): show bytes received.

    Returns:
        list[pathlib.Path]: the files written.

    Raises:
        UsageError: when the name is unknown, the network refuses, the checksum differs, the archive is broken or
            would write outside its folder, or the target exists. Existing files are left as they were.
    """
    target = target_file(name, out_dir, force)
    url = url or archive_url(name)
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"url '{url}' must start with http:// or https://")
    expected = sha256 or SHA256.get(url)
    make_folder(out_dir, "--out")
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as folder:
        folder = Path(folder)
        zip_path = folder / "archive.zip"
        try:
            found = _fetch(url, zip_path, timeout, show_progress)
        except (OSError, HTTPException) as error:
            raise UsageError(
                f"{url} cannot be downloaded ({error or type(error).__name__}): download it by hand elsewhere and "
                f"unzip it to {target.parent}/ as {name}.*, or use `prepare {name} --source=` on the raw files"
            ) from None
        if expected and found != expected.lower():
            raise UsageError(f"{url} has the sha256 {found} but {expected} is expected: download it again or ask why")
        try:
            unpacked = _unpack(zip_path, folder, name, url)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise UsageError(f"{url} is not a zip archive that can be read ({error}), try another --url") from None
        make_folder(target.parent, "--out")
        written = [target.parent / path.name for path in unpacked]
        for path, final in zip(unpacked, written):
            os.replace(path, final)
        return written


# ------------------------------------------------------------------------------------------- command line


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion prepare`` to an argparse parser."""
    from recbole_diffusion.data import prepare_sessions

    formats = (*FORMATS, *prepare_sessions.SESSION_FORMATS)
    parser.add_argument("name", help="name of the data set, e.g. beauty")
    parser.add_argument("--source", help="raw file (plain or .gz), or the folder of MovieLens, Instacart or pickled sessions")
    parser.add_argument("--format", dest="input_format", help=f"one of {', '.join(formats)} (default: recognised)")
    parser.add_argument("--meta", help="metadata of the items: Amazon's JSON lines or movies.dat")
    parser.add_argument("--out", "--data_path", dest="out", default="dataset", help="folder of the data sets (default: dataset)")
    parser.add_argument("--min_user", type=int, help="least number of rows of a user (default: the data set's yaml)")
    parser.add_argument("--min_item", type=int, help="least number of rows of an item (default: the data set's yaml)")
    parser.add_argument("--download", action="store_true", help="fetch RecBole's published archive instead")
    parser.add_argument("--url", help="address of a zip archive of atomic files, with --download")
    parser.add_argument("--sha256", help="checksum that the archive must have, with --download")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    prepare_sessions.add_arguments(parser)


def main(args):
    """Run ``recbole-diffusion prepare`` with parsed arguments; returns the exit code 0, raises UsageError."""
    folder = Path(args.out) / args.name
    if args.download:
        if args.source:
            raise UsageError("--source and --download exclude each other, give one of them")
        download(args.name, args.out, args.url, args.sha256, args.force)
    else:
        if not args.source:
            raise UsageError(f"prepare {args.name} needs --source=PATH of a raw file, or --download")
        if args.url or args.sha256:
            raise UsageError("--url and --sha256 belong to --download, add it or leave them out")
        counts = _prepare_rows_or_sessions(args)
        print(f"{args.name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    files = sorted(path.name for path in folder.glob(f"{args.name}.*"))
    print(f"files in {folder}: {', '.join(files)}")
    place = "" if args.out == "dataset" else f" --data_path={shlex.quote(args.out)}"
    if (folder / f"{args.name}.yaml").is_file():
        settings = shlex.quote(str(folder / f"{args.name}.yaml"))
        print(f"next: recbole-diffusion run --model=SASRec --dataset={args.name} --config_files={settings}{place}")
    else:
        print(f"next: recbole-diffusion check-data {args.name}{place}")
    return 0


def _prepare_rows_or_sessions(args):
    from recbole_diffusion.data import prepare_sessions

    options = prepare_sessions.session_options(args)
    if args.input_format not in prepare_sessions.SESSION_FORMATS:
        if options:
            formats = ", ".join(prepare_sessions.SESSION_FORMATS)
            raise UsageError(f"--{next(iter(options))} belongs to session data, name the --format: one of {formats}")
        return prepare(
            args.name, args.source, args.out, args.input_format, args.meta, args.min_user, args.min_item, args.force
        )
    if args.min_user is not None:
        raise UsageError("--min_user is for other formats: sessions of one item are always left out")
    return prepare_sessions.prepare_sessions(
        args.name, args.source, args.input_format, args.out, args.meta, args.min_item, force=args.force, **options
    )
