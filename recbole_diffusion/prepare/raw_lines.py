"""Lines of raw text files, and the errors that name a line or a format. Only tqdm is imported besides Python's own."""

import gzip
import os
import re
import zlib

from tqdm import tqdm

from recbole_diffusion.errors import UsageError, did_you_mean

# Control characters, line separators and halves of surrogate pairs: none of them survives a tab separated UTF-8 file.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINES_PER_UPDATE = 20000


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


def fields(line, separator, expected):
    """Parts of a line. Raises ValueError with a reason when there are more or fewer than expected."""
    parts = line.split(separator)
    if len(parts) != expected:
        what = "words" if separator is None else f"fields separated by {separator!r}"
        raise ValueError(f"{expected} {what} are expected, it has {len(parts)}")
    return parts


def require_format(name, known):
    """Raise UsageError for the name of a format that is not among the known ones."""
    if name not in known:
        raise UsageError(f"format '{name}' is unknown{did_you_mean(name, known)}, use one of: {', '.join(known)}")
