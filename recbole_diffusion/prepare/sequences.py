"""Atomic files from public raw data: read, filter, check the counts, write.

Only numpy is imported, neither torch nor RecBole.
"""

from pathlib import Path

import numpy as np

from recbole_diffusion.data.atomic_files import PARQUET
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.atomic_files import SPLIT_MARK, check_counts, number_text, target_file, write_all
from recbole_diffusion.prepare.interactions import k_core, lower_bound
from recbole_diffusion.prepare.item_texts import item_lines, read_movies
from recbole_diffusion.prepare.parquet_files import require_pyarrow
from recbole_diffusion.prepare.raw_formats import TABLE_FORMATS, detect_format, raw_file
from recbole_diffusion.prepare.raw_lines import require_format
from recbole_diffusion.prepare.raw_rows import FORMATS, RowFormat, read_rows
from recbole_diffusion.prepare.swapped import SWAPPED, swapped_by_shape
from recbole_diffusion.prepare.table_header import TableOptions
from recbole_diffusion.settings.properties import dataset_properties


def inter_lines(data, names=("user_id", "item_id", "timestamp", "rating")):
    """Lines of an .inter file whose columns have these names."""
    user, item, time, rating = names
    header = f"{user}:token\t{item}:token\t{time}:float"
    columns = [data.users, data.items, data.timestamps]
    if data.ratings is not None:
        header, columns = f"{header}\t{rating}:float", columns + [data.ratings]
    yield header + "\n"
    for user, item, *numbers in zip(*(column.tolist() for column in columns)):
        yield "\t".join((data.user_tokens[user], data.item_tokens[item], *map(number_text, numbers))) + "\n"


def _minimum(given, interval, option):
    value = lower_bound(interval) if given is None else given
    if value < 0:
        raise UsageError(f"{option}={value} must not be negative, 0 filters nothing")
    return value


def ordered(data, rows):
    """The rows of users in order of first appearance, in order of time and, for equal times, as they were."""
    return data.take(rows[np.lexsort((data.timestamps[rows], data.users[rows]))])  # lexsort is stable


def _filtered(data, min_user, min_item):
    """k-core of the data, in order."""
    rows = k_core(data.users, data.items, min_user, min_item)
    if not len(rows):
        before = ", ".join(f"{count} {what}" for what, count in data.counts().items())
        raise UsageError(
            f"the filter min_user={min_user}, min_item={min_item} leaves 0 of {before}, lower --min_user or --min_item"
        )
    return ordered(data, rows)


def all_notes(data, notes):
    """Lines on the data: those of the reader, whether users and items seem to be swapped, whether one can train."""
    notes = list(notes)
    if not any(SWAPPED in line for line in notes):
        reason = swapped_by_shape(data.user_tokens, data.item_tokens, data.users, data.items, data.timestamps)
        notes += [f"warning: {SWAPPED}: {reason}"] if reason else []
    if np.bincount(data.users).max() < _ROWS_TO_TRAIN:
        notes.append(f"warning: no user has {_ROWS_TO_TRAIN} rows, which leave-one-out with a validation part needs")
    return notes


_ROWS_TO_TRAIN = 4


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
    options=None,
    say=None,
    parquet=False,
):
    """Write ``<out_dir>/<name>/<name>.inter`` (and ``.item`` where texts are known) from public raw files.

    Blank lines are passed over. The rows of a user stand together, in order of time and, for equal times, of the
    file. Rows are filtered until every user and item has enough of them (k-core).

    Args:
        name (str): name of the data set. ``properties/dataset/<name>.yaml``, where it exists, gives the filter and
            the counts that must come out.
        source (str or Path): raw file, plain or .gz, or the folder of MovieLens.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        input_format (str): one of ``FORMATS`` and ``TABLE_FORMATS``; None tells it from the first lines.
            ``csv`` and ``parquet``: tables with named columns. ``amazon-ratings``: user,item,rating,timestamp without
            header; ``amazon-ratings-2018``: item,user,rating,timestamp. ``amazon-5core``: JSON lines with
            reviewerID, asin, overall, unixReviewTime; ``amazon-2023``: with user_id, parent_asin, rating, timestamp.
            ``movielens``: user::item::rating::timestamp, or the same with tabs. ``sequences``: user item item ..., one
            line per user; ``pairs``: user item, lines in order of time. The timestamp of these two is the position
            from 0.
        meta (str or Path): Amazon metadata lines (JSON or Python literals) with asin, title, brand, categories; for
            MovieLens movies.dat or movies.csv, which is found by itself in the folder.
        min_user (int): least number of rows of a user; None takes it from the yaml, else no filter.
        min_item (int): least number of rows of an item.
        force (bool): replace existing files.
        show_progress (bool): show bytes read.
        options (TableOptions, optional): columns, separator, encoding and format of dates of a table.
        say (callable, optional): takes lines on what was guessed; one that begins with "warning: " is one.
        parquet (bool): write the interactions as ``.inter.parquet``, with the same columns.

    Returns:
        dict: ``users``, ``items``, ``interactions`` that were written.

    Raises:
        UsageError: for a missing, empty or malformed file (with its line number), an unknown format, a filter that
            leaves nothing, counts other than expected, an existing target. Nothing is written then.
    """
    if parquet:
        require_pyarrow()
    target = target_file(name, out_dir, force)
    forget_split_settings = _split_settings(target.with_suffix(".yaml"), force)
    if input_format is not None:
        require_format(input_format, (*FORMATS, *TABLE_FORMATS))
    properties = dataset_properties(name)
    min_user = _minimum(min_user, properties.get("user_inter_num_interval"), "--min_user")
    min_item = _minimum(min_item, properties.get("item_inter_num_interval"), "--min_item")
    path = raw_file(source)
    input_format = input_format or detect_format(path, options)
    data, notes = _read(path, input_format, options, show_progress)
    for line in all_notes(data, notes) if say else ():
        say(line)
    data = _filtered(data, min_user, min_item)
    counts = data.counts()
    check_counts(name, counts, properties.get("expected_counts"))
    items = [data.item_tokens[item] for item in np.unique(data.items)]
    texts = _item_texts(path, meta, FORMATS.get(input_format), items, show_progress)
    inter = target.with_name(target.name + PARQUET) if parquet else target
    write_all({inter: inter_lines(data), **({target.with_suffix(".item"): texts} if texts else {})})
    forget_split_settings()
    return counts


def _split_settings(path, force):
    """What removes the settings of a split that ``prepare`` wrote under this name: they would hide the new rows."""
    if not (path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(SPLIT_MARK)):
        return lambda: None
    if not force:
        raise UsageError(f"'{path}' belongs to sessions of this name: choose another name, or add --force to replace them")
    return path.unlink


def _read(path, input_format, options, show_progress):
    """Interactions of a raw file, and lines on what was guessed."""
    if input_format not in TABLE_FORMATS:
        if options:
            raise UsageError(f"columns, separator and encoding are those of a table, '{path}' is {input_format}: leave them out")
        return read_rows(path, input_format, show_progress), []
    from recbole_diffusion.prepare.table_files import read_table_file  # pandas takes a second to import

    return read_table_file(path, input_format, options or TableOptions(), show_progress)


def _item_texts(path, meta, kind, items, show_progress):
    """Lines of the .item file, None where there are no texts; ``kind`` is that of a format of rows."""
    if meta is None:
        beside = [path.parent / name for name in (kind.texts_beside if kind else _MOVIES)]
        meta = next((file for file in beside if file.is_file() and (kind or _is_movies(path, file))), None)
        if meta is None:
            return None
    reader = read_movies if Path(meta).name in ("movies.dat", *_MOVIES) else (kind or RowFormat).read_texts
    header, texts = reader(Path(meta), set(items), show_progress)
    return item_lines(meta, items, header, texts)


_MOVIES = ("movies.csv",)  # MovieLens since 2015


def _is_movies(ratings, movies):
    """Whether a table comes from MovieLens, with its films beside it."""
    with open(movies, encoding="utf-8", errors="replace") as file:
        return ratings.name.startswith("ratings.csv") and file.readline().startswith("movieId,title")
