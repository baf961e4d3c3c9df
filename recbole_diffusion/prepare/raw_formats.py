"""Which format a raw file has, told from its first lines. Neither torch, RecBole, numpy nor pandas is imported."""

import json
import re
from itertools import islice
from pathlib import Path

from recbole_diffusion.data.numbers import finite
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.raw_lines import read_lines
from recbole_diffusion.prepare.swapped import is_amazon_item_first
from recbole_diffusion.prepare.table_header import TableOptions, could_be_header

TABLE_FORMATS = ("csv", "parquet")
_PARQUET = b"PAR1"
_LINES = 1000  # of pairs or sequences that are looked at


def detect_format(path, options=None):
    """Name of the input format of a raw file, told from its first lines.

    Args:
        path (Path): plain or .gz.
        options (TableOptions, optional): what the user said about a table; whoever names columns has one.

    Raises:
        UsageError: when the lines fit none of the formats; the message says what is read.
    """
    options = options or TableOptions()
    if is_parquet(path):
        return "parquet"
    if options:
        return "csv"
    lines = [line for _, line in islice(read_lines(path, "latin-1"), _LINES)]
    if not lines:
        raise UsageError(f"file '{path}' is empty, give a raw file with at least one line")
    found = _of_known_source(lines[0]) or ("csv" if could_be_header(path, options) else _of_words(lines))
    if found:
        return found
    raise UsageError(
        f"the format of '{path}' is not recognised: name it with --format=, one of: amazon-ratings, amazon-5core, "
        f"amazon-2023, movielens, sequences, pairs, or name the columns of a table with --user=, --item= and --time="
    )


def is_parquet(path):
    """Whether a file is Parquet, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError:  # said by whoever reads it
        return False


def amazon_reviews_format(path):
    """``amazon-5core`` (2014 and 2018) or ``amazon-2023``, by the keys of the first line of a file of reviews."""
    first = next((line for _, line in read_lines(path, "latin-1")), "")
    try:
        keys = json.loads(first)
    except ValueError:
        keys = ()
    return "amazon-2023" if isinstance(keys, dict) and {"parent_asin", "user_id"} <= keys.keys() else "amazon-5core"


def _of_known_source(line):
    """Formats without a header; numbers at the end tell their lines from one."""
    if line.lstrip().startswith("{"):
        return "amazon-2023" if re.search(r'"parent_asin"\s*:', line) else "amazon-5core"
    for separator, name in (("::", "movielens"), ("\t", "movielens"), (",", "amazon-ratings")):
        parts = line.split(separator)
        if len(parts) == 4 and all(finite(part) == finite(part) for part in parts[2:]):
            first_is_item = name == "amazon-ratings" and is_amazon_item_first(*parts[:2])
            return "amazon-ratings-2018" if first_is_item else name
    return None


def _of_words(lines):
    """``pairs`` where every line has two words and a user comes again, else ``sequences``."""
    if "," in lines[0] or len(lines[0].split()) < 2:
        return None
    words = [line.split() for line in lines]
    if all(len(line) == 2 for line in words) and len({line[0] for line in words}) < len(words):
        return "pairs"
    return "sequences"


def raw_file(source):
    """The file to read (Path): ``source`` itself, or the ratings inside a MovieLens folder.

    Raises:
        UsageError: for any other folder.
    """
    source = Path(source)
    if not source.is_dir():
        return source
    for name in ("ratings.dat", "u.data", "ratings.csv"):
        if (source / name).is_file():
            return source / name
    raise UsageError(f"folder '{source}' holds neither ratings.dat nor u.data nor ratings.csv, give the path of a raw file")
