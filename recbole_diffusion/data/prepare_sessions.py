"""Session data from public raw files: sessions, filter, split, and files with one example per line.

The split files are those of RecBole's ``benchmark_filename``: ``<name>.train.inter``, ``<name>.valid.inter`` and
``<name>.test.inter`` with the columns session_id, item_id_list and item_id.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.data.pickled_sessions import read_pickled
from recbole_diffusion.data.prepare import (
    bad_line,
    check_counts,
    clean_names,
    clean_text,
    dataset_properties,
    metadata_record,
    read_lines,
    target_file,
    write_all,
)
from recbole_diffusion.data.session_sources import read_amazon, read_atomic, read_instacart, read_table, require_columns
from recbole_diffusion.data.sessions import PARTS, drop_unseen, filter_sessions, split_sessions
from recbole_diffusion.errors import UsageError

SESSION_FORMATS = ("amazon-sessions", "instacart-sessions", "atomic-sessions", "pickled-sessions")
FILTERED = ("atomic-sessions", "pickled-sessions")  # whose test part is to stay what it is


# ------------------------------------------------------------------------------------------- item texts


def amazon_items(path, wanted, show_progress=True):
    """Lines of an ``.item`` file: title, brand, categories and image link of the wanted items."""
    texts = {}
    for number, line in read_lines(Path(path), show_progress=show_progress):
        try:
            record = metadata_record(line)
        except ValueError as error:
            raise bad_line(path, number, str(error)) from None
        if record["asin"] in wanted:
            texts[record["asin"]] = (
                clean_text(record.get("title")),
                clean_text(record.get("brand")),
                clean_names(record.get("categories", record.get("category"))),
                _image_link(record),
            )
    return _item_lines(path, wanted, "title:token_seq\tbrand:token_seq\tcategories:token_seq\timage_url:token", texts)


def _image_link(record):
    for key in ("imUrl", "imageURLHighRes", "imageURL"):  # 2014; 2018, which has lists
        link = record.get(key)
        if link:
            return clean_text(link[0] if isinstance(link, list) else link)
    return ""


def instacart_items(folder, wanted):
    """Lines of an ``.item`` file: product name, aisle and department of the wanted items."""
    products = read_table(folder / "products.csv", None, dtype=str, keep_default_na=False)
    require_columns(folder / "products.csv", products, ["product_id", "product_name"])
    categories = [[] for _ in range(len(products))]
    for kind in ("department", "aisle"):
        path = folder / f"{kind}s.csv"
        if path.is_file() and f"{kind}_id" in products:
            names = read_table(path, [f"{kind}_id", kind], dtype=str, keep_default_na=False)
            name_of = dict(zip(names[f"{kind}_id"], names[kind]))
            for row, number in zip(categories, products[f"{kind}_id"]):
                row.append(name_of.get(number, ""))
    texts = {
        product: (clean_text(title), clean_names(names))
        for product, title, names in zip(products["product_id"], products["product_name"], categories)
        if product in wanted
    }
    return _item_lines(folder / "products.csv", wanted, "title:token_seq\tcategories:token_seq", texts)


def _item_lines(path, wanted, header, texts):
    if not texts:
        raise UsageError(f"'{path}' describes none of the {len(wanted)} items, give the metadata of the same data set")
    empty = ("",) * (header.count("\t") + 1)
    return [f"item_id:token\t{header}\n", *("\t".join((item, *texts.get(item, empty))) + "\n" for item in wanted)]


# ------------------------------------------------------------------------------------------- examples


def example_lines(sessions, chosen, prefixes):
    """Lines of a split file: one example per session, or one per prefix, the longest first.

    Args:
        sessions (Sessions): all of them.
        chosen (numpy.ndarray): numbers of the sessions of the part.
        prefixes (bool): whether every item but the first is a target, not only the last one.
    """
    yield "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    names, starts = sessions.session_names(), np.searchsorted(sessions.numbers, np.arange(len(sessions) + 1))
    for number in chosen.tolist():
        tokens = [sessions.item_tokens[item] for item in sessions.items[starts[number] : starts[number + 1]]]
        shortest = 1 if prefixes else max(len(tokens) - 1, 1)
        for end in range(len(tokens) - 1, shortest - 1, -1):
            yield f"{names[number]}\t{' '.join(tokens[:end])}\t{tokens[end]}\n"


def _inter_lines(sessions):
    yield "session_id:token\titem_id:token\ttimestamp:float\n"
    names = sessions.session_names()
    for number, item, time in zip(sessions.numbers.tolist(), sessions.items.tolist(), sessions.times.tolist()):
        yield f"{names[number]}\t{sessions.item_tokens[item]}\t{int(time) if time.is_integer() else time!r}\n"


_SETTINGS = """# How to train on these files: --config_files={path}
USER_ID_FIELD: session_id
ITEM_ID_FIELD: item_id
TIME_FIELD: timestamp
load_col:
  inter: [session_id, item_id_list, item_id]
alias_of_item_id: [item_id_list]
benchmark_filename: [train, valid, test]
MAX_ITEM_LIST_LENGTH: 20
"""


def prepare_sessions(
    name,
    source,
    input_format,
    out_dir="dataset",
    meta=None,
    min_item=None,
    valid_share=0.1,
    test_share=None,
    test_sessions=None,
    prefixes=False,
    shortest=0.2,
    force=False,
    show_progress=True,
):
    """Write the split files of a session data set; for raw data also ``.inter`` and, where texts are known, ``.item``.

    The latest sessions are the test part, those before them the validation part. Raw data are filtered first; items
    that training lacks are then removed from the other parts. Nothing is removed from ``atomic-sessions`` unless
    ``min_item`` says so, and nothing from ``pickled-sessions``: they come filtered, and their test part is to stay what
    it is.

    Args:
        name (str): name of the data set; counts in its yaml must come out.
        source (str or Path): file of Amazon reviews, folder of Instacart, an atomic ``.inter`` file, or the folder of
            ``train.txt`` and ``test.txt``.
        input_format (str): one of ``SESSION_FORMATS``.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        meta (str or Path, optional): Amazon's metadata lines.
        min_item (int, optional): least occurrences of an item, by default 5, for ``atomic-sessions`` 0.
        valid_share (float): share of the sessions before the test part that is for validation.
        test_share (float, optional): share of the sessions that is for test, by default 0.1.
        test_sessions (int, optional): their number, instead of ``test_share``.
        prefixes (bool): make every item but the first of a session a target; otherwise the last one only. Pickled
            files have to hold them already.
        shortest (float): share of the shortest Instacart orders that is kept.
        force (bool): replace existing files.
        show_progress (bool): show bytes read.

    Returns:
        dict: ``users`` (sessions), ``items`` and ``interactions`` (examples) of the split files together, as RecBole
        counts them.

    Raises:
        UsageError: for anything the user can repair. Nothing is written then.
    """
    for option, share in (("valid_share", valid_share), ("test_share", test_share), ("shortest", shortest)):
        if share is not None and not 0 < share < 1 and not (option == "shortest" and share == 1):
            raise UsageError(f"--{option}={share} must lie between 0 and 1")
    if meta is not None and input_format != "amazon-sessions":
        raise UsageError("--meta belongs to --format=amazon-sessions, leave it out")
    if input_format == "pickled-sessions":
        for option, value in (("test_share", test_share), ("test_sessions", test_sessions), ("min_item", min_item)):
            if value is not None:
                raise UsageError(f"pickled sessions come filtered, with their test part: leave out --{option}")
    properties, source = dataset_properties(name), Path(source)
    part_names = properties.get("benchmark_filename", PARTS)
    target = target_file(name, out_dir, force, f".{part_names[0]}.inter")
    if input_format == "pickled-sessions":
        sessions, test_sessions = read_pickled(source, prefixes)
    elif input_format == "atomic-sessions":
        sessions = read_atomic(source, properties)
    elif input_format == "instacart-sessions":
        sessions = read_instacart(source, shortest)
    else:
        sessions = read_amazon(source, show_progress)
    _check_tokens(source, sessions.item_tokens)
    is_filtered = input_format in FILTERED
    min_item = (0 if is_filtered else 5) if min_item is None else min_item
    if min_item or not is_filtered:
        sessions = filter_sessions(sessions, min_item)
    n_test = round(len(sessions) * (0.1 if test_share is None else test_share)) if test_sessions is None else test_sessions
    n_before = len(sessions) - n_test
    parts = split_sessions(sessions, n_before - round(n_before * (1 - valid_share)), n_test)
    if not is_filtered:
        sessions, parts = drop_unseen(sessions, parts)
    counts = _example_counts(sessions, prefixes)
    check_counts(name, counts, properties.get("expected_counts"))

    base = target.with_name(name)
    tables = {
        base.with_name(f"{name}.{part}.inter"): example_lines(sessions, np.flatnonzero(parts == number), prefixes)
        for number, part in enumerate(part_names)
    }
    wanted = [sessions.item_tokens[item] for item in pd.unique(sessions.items)]
    if meta is not None:
        tables[base.with_name(f"{name}.item")] = amazon_items(meta, dict.fromkeys(wanted), show_progress)
    if input_format == "instacart-sessions" and (source / "products.csv").is_file():
        tables[base.with_name(f"{name}.item")] = instacart_items(source, dict.fromkeys(wanted))
    if not is_filtered:
        tables[base.with_name(f"{name}.inter")] = _inter_lines(sessions)
    if not properties:
        tables[base.with_name(f"{name}.yaml")] = [_SETTINGS.format(path=base.with_name(f"{name}.yaml"))]
    write_all(tables)
    return counts


def _check_tokens(path, tokens):
    for token in tokens:
        if token.split() != [token] or '"' in token:
            raise UsageError(f"'{path}': the item {token!r} is empty or holds blanks or quote marks, which lists cannot")


def _example_counts(sessions, prefixes):
    lengths = np.bincount(sessions.numbers)
    several = lengths >= 2
    examples = (lengths[several] - 1).sum() if prefixes else several.sum()
    return {
        "users": int(several.sum()),
        "items": len(np.unique(sessions.items[several[sessions.numbers]])),
        "interactions": int(examples),
    }


# ------------------------------------------------------------------------------------------- command line


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion prepare`` that belong to session formats."""
    group = parser.add_argument_group(f"session data (--format={'|'.join(SESSION_FORMATS)})")
    group.add_argument("--valid_share", type=float, help="share of the sessions before the test part (default: 0.1)")
    group.add_argument("--test_share", type=float, help="share of the latest sessions for test (default: 0.1)")
    group.add_argument("--test_sessions", type=int, help="number of the latest sessions for test, instead of a share")
    group.add_argument("--prefixes", action="store_true", default=None, help="every item but the first is a target")
    group.add_argument("--shortest", type=float, help="share of the shortest Instacart orders to keep (default: 0.2)")


def session_options(args):
    """{name: value} of the options above that were given."""
    names = ("valid_share", "test_share", "test_sessions", "prefixes", "shortest")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
