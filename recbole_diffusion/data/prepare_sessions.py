"""Session data from public raw files: sessions, filter, split, and files with one example per line.

The split files are those of RecBole's ``benchmark_filename``: ``<name>.train.inter``, ``<name>.valid.inter`` and
``<name>.test.inter`` with the columns session_id, item_id_list and item_id.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.data.prepare import (
    bad_line,
    check_counts,
    clean_names,
    clean_text,
    dataset_properties,
    k_core,
    metadata_record,
    read_lines,
    read_rows,
    target_file,
    write_all,
)
from recbole_diffusion.errors import UsageError, did_you_mean

SESSION_FORMATS = ("amazon-sessions", "instacart-sessions", "atomic-sessions")
PARTS = ("train", "valid", "test")
SECONDS_PER_DAY = 86400
_ROWS_PER_READ = 1_000_000


@dataclass
class Sessions:
    """Items of sessions; the arrays have shape [rows] and the rows of a session stand together, in their order.

    Attributes:
        item_tokens (list[str]): name of each item number.
        numbers (numpy.ndarray): session of each row, ascending from 0 without gaps. The order is that of time.
        items (numpy.ndarray): item numbers.
        times (numpy.ndarray): float64, in the unit of the source.
        names (numpy.ndarray, optional): name of each session, [sessions]; without it they are counted from 1.
    """

    item_tokens: list
    numbers: np.ndarray
    items: np.ndarray
    times: np.ndarray
    names: np.ndarray = None

    def __len__(self):
        return int(self.numbers[-1]) + 1 if len(self.numbers) else 0

    def take(self, rows):
        """The same data with only ``rows`` (a mask or ascending row numbers), sessions numbered again."""
        remaining, numbers = np.unique(self.numbers[rows], return_inverse=True)
        names = None if self.names is None else self.names[remaining]
        return Sessions(self.item_tokens, numbers, self.items[rows], self.times[rows], names)

    def session_names(self):
        """Names of all sessions as a list of texts."""
        return [str(n) for n in (range(1, len(self) + 1) if self.names is None else self.names)]


def filter_sessions(sessions, min_item):
    """Drop items with fewer than ``min_item`` rows and sessions of one item until nothing changes.

    Raises:
        UsageError: when nothing is left.
    """
    rows = k_core(sessions.numbers, sessions.items, 2, min_item)
    if not len(rows):
        raise UsageError(
            f"no session of two or more items is left of {len(sessions)} with {len(np.unique(sessions.items))} items "
            f"when items need {min_item} occurrences: lower --min_item or give another source"
        )
    return sessions.take(rows)


def split_sessions(sessions, n_valid, n_test):
    """Part of every session, in order of time: 0 training, then 1 validation, then 2 test; [sessions].

    Raises:
        UsageError: when a part would be empty.
    """
    n_train = len(sessions) - n_valid - n_test
    if min(n_train, n_valid, n_test) < 1:
        raise UsageError(
            f"{len(sessions)} sessions cannot be split with {n_test} for test and {max(n_valid, 0)} for validation: "
            f"every part needs at least one"
        )
    return np.repeat([0, 1, 2], [n_train, n_valid, n_test])


def drop_unseen(sessions, parts):
    """Remove items that training sessions lack from the other sessions, and sessions of which one item is left.

    Args:
        sessions (Sessions): all of them.
        parts (numpy.ndarray): 0, 1 or 2 per session.

    Returns:
        tuple: the sessions that remain and their parts.

    Raises:
        UsageError: when a part has nothing left.
    """
    seen = np.zeros(len(sessions.item_tokens), dtype=bool)
    seen[sessions.items[parts[sessions.numbers] == 0]] = True
    known = seen[sessions.items]
    keep = known & (np.bincount(sessions.numbers, weights=known)[sessions.numbers] >= 2)
    parts = parts[np.unique(sessions.numbers[keep])]
    for part, name in enumerate(PARTS):
        if not (parts == part).any():
            raise UsageError(f"no session of the {name} part has two items that occur in training: give another source")
    return sessions.take(keep), parts


# ------------------------------------------------------------------------------------------- sources


def read_amazon(path, show_progress=True):
    """Sessions of Amazon reviews (JSON lines): what one user bought on one day, days in order.

    Purchases of a day have no order of their own; they keep that of the time, then of the file.
    """
    data = read_rows(path, "amazon-5core", show_progress)
    days = np.floor_divide(data.timestamps, SECONDS_PER_DAY)
    order = np.lexsort((data.timestamps, data.users, days))  # stable: equal times keep the order of the file
    days, users = days[order], data.users[order]
    opens = np.append(True, (days[1:] != days[:-1]) | (users[1:] != users[:-1]))
    return Sessions(data.item_tokens, opens.cumsum() - 1, data.items[order], data.timestamps[order])


def read_atomic(path, properties):
    """Sessions of an atomic ``.inter`` file, in the order in which the file begins them."""
    fields = [properties.get(key, default) for key, default in _ATOMIC_FIELDS.items()]
    frame = _read_table(path, None, sep="\t", dtype=str, keep_default_na=False)
    frame.columns = [cell.partition(":")[0] for cell in frame.columns]
    _require_columns(path, frame, fields)
    times = pd.to_numeric(frame[fields[2]], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(times).all():
        raise bad_line(path, int(np.isfinite(times).argmin()) + 2, f"'{fields[2]}' is not a number")
    numbers, names = pd.factorize(frame[fields[0]])
    items, tokens = pd.factorize(frame[fields[1]])
    order = np.lexsort((times, numbers))
    return Sessions(list(tokens), numbers[order], items[order], times[order], np.asarray(names, dtype=object))


_ATOMIC_FIELDS = {"USER_ID_FIELD": "session_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"}


def read_instacart(folder, shortest=0.2):
    """Sessions of Instacart's CSV files: the shortest orders, items in the order in which they went into the cart.

    Instacart publishes no dates. The time of an order is the number of days since the first order of its user.
    Order sizes are counted first, so that only the rows of short orders are ever held.

    Args:
        folder (Path): holds orders.csv and order_products__*.csv.
        shortest (float): share of the orders that is kept at least: all orders up to the smallest size that
            reaches it.

    Raises:
        UsageError: for missing and broken files.
    """
    files = sorted(folder.glob("order_products__*.csv"))
    if not files:
        raise UsageError(f"'{folder}' holds no order_products__*.csv, give the folder of Instacart's files")
    sizes = np.zeros(0, dtype=np.int64)
    for chunk in _chunks(files, ["order_id"]):
        counts = np.bincount(chunk["order_id"])
        sizes = np.pad(sizes, (0, max(0, len(counts) - len(sizes))))
        sizes[: len(counts)] += counts
    short = (sizes > 0) & (sizes <= np.quantile(sizes[sizes > 0], shortest, method="inverted_cdf"))
    columns = ["order_id", "product_id", "add_to_cart_order"]
    rows = pd.concat([chunk[short[chunk["order_id"]]] for chunk in _chunks(files, columns)], ignore_index=True)
    days = _days_of_orders(folder / "orders.csv")
    absent = np.setdiff1d(rows["order_id"], days.index)
    if len(absent):
        raise UsageError(f"'{folder / 'orders.csv'}' lacks {len(absent)} orders, the first is {absent[0]}")
    times = days.loc[rows["order_id"]].to_numpy(np.float64)
    orders, carts = rows["order_id"].to_numpy(), rows["add_to_cart_order"].to_numpy()
    order = np.lexsort((carts, orders, times))
    items, tokens = pd.factorize(rows["product_id"].to_numpy()[order])
    orders = orders[order]
    opens = np.append(True, orders[1:] != orders[:-1])
    return Sessions([str(token) for token in tokens], opens.cumsum() - 1, items, times[order])


def _days_of_orders(path):
    """Days since the first order of its user, by order_id (pandas.Series)."""
    columns = ["order_id", "user_id", "order_number", "days_since_prior_order"]
    orders = _read_table(path, columns, dtype={name: np.int64 for name in columns[:3]})
    if orders["order_id"].duplicated().any():
        raise UsageError(f"'{path}' holds order {orders['order_id'][orders['order_id'].duplicated()].iloc[0]} twice")
    gaps = pd.to_numeric(orders["days_since_prior_order"], errors="coerce").fillna(0)  # empty for a first order
    orders = orders.assign(gap=gaps).sort_values(["user_id", "order_number"], kind="stable")
    return orders.groupby("user_id")["gap"].cumsum().set_axis(orders["order_id"])


def _chunks(files, columns):
    """Frames of int64 columns of several CSV files, a million rows at a time."""
    for path in files:
        try:
            for chunk in _read_table(path, columns, dtype=np.int64, chunksize=_ROWS_PER_READ):
                if (chunk < 0).to_numpy().any():
                    raise UsageError(f"'{path}' holds negative numbers, give Instacart's own files")
                yield chunk
        except (ValueError, pd.errors.ParserError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from None


def _read_table(path, columns, **settings):
    try:
        return pd.read_csv(path, usecols=columns, **settings)
    except FileNotFoundError:
        raise UsageError(f"file '{path}' does not exist, give the path of the raw data") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:  # ValueError: columns, numbers, encoding
        raise UsageError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from None


def _require_columns(path, frame, names):
    for name in names:
        if name not in frame:
            raise UsageError(f"'{path}' has no column '{name}'{did_you_mean(name, frame)}, it has {', '.join(frame)}")


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
    products = _read_table(folder / "products.csv", None, dtype=str, keep_default_na=False)
    _require_columns(folder / "products.csv", products, ["product_id", "product_name"])
    categories = [[] for _ in range(len(products))]
    for kind in ("department", "aisle"):
        path = folder / f"{kind}s.csv"
        if path.is_file() and f"{kind}_id" in products:
            names = _read_table(path, [f"{kind}_id", kind], dtype=str, keep_default_na=False)
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
    test_share=0.1,
    test_sessions=None,
    prefixes=False,
    shortest=0.2,
    force=False,
    show_progress=True,
):
    """Write the split files of a session data set; for raw data also ``.inter`` and, where texts are known, ``.item``.

    The latest sessions are the test part, those before them the validation part. Raw data are filtered first; items
    that training lacks are then removed from the other parts. Nothing is removed from ``atomic-sessions`` unless
    ``min_item`` says so: they come filtered, and their test part is to stay what it is.

    Args:
        name (str): name of the data set; counts in its yaml must come out.
        source (str or Path): file of Amazon reviews, folder of Instacart, or an atomic ``.inter`` file.
        input_format (str): one of ``SESSION_FORMATS``.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        meta (str or Path, optional): Amazon's metadata lines.
        min_item (int, optional): least occurrences of an item, by default 5, for ``atomic-sessions`` 0.
        valid_share (float): share of the sessions before the test part that is for validation.
        test_share (float): share of the sessions that is for test.
        test_sessions (int, optional): their number, instead of ``test_share``.
        prefixes (bool): make every item but the first of a session a target; otherwise the last one only.
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
        if not 0 < share < 1 and not (option == "shortest" and share == 1):
            raise UsageError(f"--{option}={share} must lie between 0 and 1")
    target, source = target_file(name, out_dir, force, ".train.inter"), Path(source)
    properties = dataset_properties(name)
    atomic = input_format == "atomic-sessions"
    if meta is not None and input_format != "amazon-sessions":
        raise UsageError("--meta belongs to --format=amazon-sessions, leave it out")
    if atomic:
        sessions = read_atomic(source, properties)
    elif input_format == "instacart-sessions":
        sessions = read_instacart(source, shortest)
    else:
        sessions = read_amazon(source, show_progress)
    _check_tokens(source, sessions.item_tokens)
    min_item = (0 if atomic else 5) if min_item is None else min_item
    if not atomic or min_item:
        sessions = filter_sessions(sessions, min_item)
    n_test = round(len(sessions) * test_share) if test_sessions is None else test_sessions
    parts = split_sessions(sessions, round((len(sessions) - n_test) * valid_share), n_test)
    if not atomic:
        sessions, parts = drop_unseen(sessions, parts)
    counts = _example_counts(sessions, prefixes)
    check_counts(name, counts, properties.get("expected_counts"))

    base = target.with_name(name)
    tables = {
        base.with_name(f"{name}.{part}.inter"): example_lines(sessions, np.flatnonzero(parts == number), prefixes)
        for number, part in enumerate(PARTS)
    }
    wanted = [sessions.item_tokens[item] for item in pd.unique(sessions.items)]
    if meta is not None:
        tables[base.with_name(f"{name}.item")] = amazon_items(meta, dict.fromkeys(wanted), show_progress)
    if input_format == "instacart-sessions" and (source / "products.csv").is_file():
        tables[base.with_name(f"{name}.item")] = instacart_items(source, dict.fromkeys(wanted))
    if not atomic:
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
