"""Atomic files as they are written: where to, whether their counts are right, and all of them or none."""

import re
from contextlib import ExitStack
from pathlib import Path

from recbole_diffusion.data.atomic_files import PARQUET, is_parquet, stem_of
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import flush_to_disk, replacing
from recbole_diffusion.prepare.parquet_files import write_parquet

# First line of the settings that prepare writes beside a split.
SPLIT_MARK = "# Settings of these ready-made parts, written by prepare and read by every command"


def number_text(number):
    """Shortest text of a number: 5 rather than 5.0."""
    return str(int(number)) if number.is_integer() else repr(number)


def write_all(tables):
    """Write {path: iterable of lines}; no file appears, or changes, before all of them are complete on disk.

    What a path ending in ``.parquet`` gets are the columns of its lines. Where the same file was there in the other form,
    that one is deleted.
    """
    try:
        with ExitStack() as stack:  # renames them when the block has ended
            for path, lines in tables.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                if is_parquet(path):
                    file = stack.enter_context(replacing(path, binary=True))
                    write_parquet(file, lines)
                else:
                    file = stack.enter_context(replacing(path, encoding="utf-8", newline="\n"))
                    file.writelines(lines)
                flush_to_disk(file)
        for path in tables:
            _other_form(path).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"'{error.filename or path}' cannot be written: {error.strerror}; use another --out") from None


def _other_form(path):
    """The path of the same atomic file as text, or as Parquet."""
    return path.with_name(stem_of(path)) if is_parquet(path) else path.with_name(path.name + PARQUET)


def target_file(name, out_dir, force, suffix=".inter"):
    """Path of a file to write; refuses odd names and, without ``force``, an existing file."""
    if not re.fullmatch(r"[\w+-][\w.+-]*", str(name)):
        raise UsageError(f"data set name '{name}' cannot be a folder, use letters, digits, '.', '-' and '_'")
    target = Path(out_dir) / name / f"{name}{suffix}"
    for path in (target, _other_form(target)):
        if path.exists() and not force:
            raise UsageError(f"'{path}' exists already, add --force to replace it")
    return target


def check_counts(name, counts, expected):
    """Raise UsageError when the counts are not those of the data set's yaml."""
    if expected and counts != expected:
        shown = [", ".join(f"{key} {c.get(key)}" for key in counts) for c in (counts, expected)]
        raise UsageError(
            f"'{name}' would have {shown[0]} but {shown[1]} are expected: take the source and filter named in "
            f"dataset/README.md, or give the data set another name; nothing was written"
        )
