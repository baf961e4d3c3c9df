"""Recommending for many files, or for the row groups of Parquet files: each process takes its share, each part has a file of its own.

Processes need not talk: the parts are numbered by the sorted names of the input, and process r of n takes every n-th from r on. A part that is
there is whole, since files are written whole or not at all, so that the same command goes on where it was interrupted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.data.kept_files import hash_file
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import make_folder, write_json
from recbole_diffusion.processes import share
from recbole_diffusion.serving.histories import FORMATS, row_groups
from recbole_diffusion.serving.recommend_file import recommend_file

ABOUT = "about.json"


@dataclass(frozen=True)
class Part:
    """A file of histories, or one row group of it, and where its rankings go."""

    source: Path
    group: int  # of a Parquet file, else None
    target: Path


def parts_of(source, target, suffix=None):
    """The parts of a folder.

    Args:
        source (Path): folder with files of histories; others in it are refused, since nothing shall be left out silently.
        target (Path): folder for the rankings.
        suffix (str, optional): ``.csv`` or ``.jsonl``, by default that of each file, of Parquet ``.jsonl``.

    Returns:
        list[Part]: by name and row group.

    Raises:
        UsageError: for an empty folder, a file of another kind, or two that would have one target.
    """
    files = sorted(path for path in Path(source).iterdir() if not path.name.startswith("."))
    parts = []
    for path in files:
        if not path.is_file() or path.suffix.lower() not in FORMATS:
            raise UsageError(f"'{path}' is no file of histories ({', '.join(FORMATS)}): move it out of the folder")
        is_parquet = path.suffix.lower() == ".parquet"
        ending = suffix or (".jsonl" if is_parquet else path.suffix.lower())
        groups = range(row_groups(path)) if is_parquet else [None]
        parts += [Part(path, group, Path(target) / f"{path.stem}{'' if group is None else f'.{group}'}{ending}") for group in groups]
    if not parts:
        raise UsageError(f"folder '{source}' holds no file of histories ({', '.join(FORMATS)})")
    names = [part.target for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two files of '{source}' would be written to '{twice}': rename one")
    return parts


def recommend_folder(recommender, source, target, about, suffix=None, **how):
    """Recommend for this process's share of the files of a folder.

    Args:
        recommender (Recommender): the model.
        source, target (str or Path): folders of histories and of rankings.
        about (dict): JSON values on which rankings depend beside the histories; kept in ``about.json``.
        suffix (str, optional): see :func:`parts_of`.
        how: see :func:`recommend_file`.

    Returns:
        dict: ``parts`` of this process, of those ``kept`` from before, and ``rows``, ``popularity`` and ``unknown`` of the new ones.

    Raises:
        UsageError: see :func:`parts_of`; when the target holds rankings of other histories or by other settings.
    """
    source, target = Path(source), Path(target)
    if target.exists() and source.resolve() == target.resolve():
        raise UsageError(f"input and output are the same folder, '{source}'")
    parts = parts_of(source, target, suffix)
    make_folder(target, "output")
    check_about(target, {**about, "input": {part.source.name: hash_file(part.source) for part in parts}})
    rank, n_ranks = share()
    own = parts[rank::n_ranks]
    missing = [part for part in own if not part.target.is_file()]
    counts = {"parts": len(own), "kept": len(own) - len(missing), "rows": 0, "popularity": 0, "unknown": 0}
    for part in missing:
        for key, value in recommend_file(recommender, part.source, part.target, group=part.group, **how).items():
            counts[key] += value
    return counts


def check_about(folder, about):
    """Keep what the rankings of a folder depend on, or compare it with what is kept. Raises UsageError where it differs."""
    path = Path(folder) / ABOUT
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(about, path)
        return
    except ValueError:
        raise UsageError(f"'{path}' is damaged: use another --output") from None
    other = next((key for key in {**about, **kept} if about.get(key) != kept.get(key)), None)
    if other:
        raise UsageError(f"'{folder}' holds rankings that were made with another {other}: use another --output")
