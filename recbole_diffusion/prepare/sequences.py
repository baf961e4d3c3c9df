"""Atomic files from public raw data: read, filter, check the counts, write.

Only numpy is imported, neither torch nor RecBole.
"""

from pathlib import Path

import numpy as np

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.atomic_files import check_counts, number_text, target_file, write_all
from recbole_diffusion.prepare.interactions import k_core, lower_bound
from recbole_diffusion.prepare.item_texts import item_lines
from recbole_diffusion.prepare.raw_lines import require_format
from recbole_diffusion.prepare.raw_rows import FORMATS, detect_format, raw_file, read_rows
from recbole_diffusion.settings.properties import dataset_properties


def _inter_table(data):
    """Lines of the .inter file."""
    header = "user_id:token\titem_id:token\ttimestamp:float"
    columns = [data.users, data.items, data.timestamps]
    if data.ratings is not None:
        header, columns = header + "\trating:float", columns + [data.ratings]
    yield header + "\n"
    for user, item, *numbers in zip(*(column.tolist() for column in columns)):
        yield "\t".join((data.user_tokens[user], data.item_tokens[item], *map(number_text, numbers))) + "\n"


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
    if input_format is not None:
        require_format(input_format, FORMATS)
    properties = dataset_properties(name)
    min_user = _minimum(min_user, properties.get("user_inter_num_interval"), "--min_user")
    min_item = _minimum(min_item, properties.get("item_inter_num_interval"), "--min_item")
    path = raw_file(source)
    input_format = input_format or detect_format(path)
    data = _filtered(read_rows(path, input_format, show_progress), min_user, min_item)
    counts = data.counts()
    check_counts(name, counts, properties.get("expected_counts"))
    tables = {target: _inter_table(data)}
    if meta is None:
        meta = _texts_beside(path, FORMATS[input_format])
    if meta is not None:
        items = [data.item_tokens[item] for item in np.unique(data.items)]
        header, texts = FORMATS[input_format].read_texts(Path(meta), set(items), show_progress)
        tables[target.with_suffix(".item")] = item_lines(meta, items, header, texts)
    write_all(tables)
    return counts


def _texts_beside(path, kind):
    """Metadata that come in the folder of the raw file (Path), None where there are none."""
    beside = path.parent / kind.texts_beside if kind.texts_beside else None
    return beside if beside and beside.is_file() else None
