"""Sessions of public raw files: Amazon reviews, Instacart's tables, atomic files."""

import numpy as np
import pandas as pd

from recbole_diffusion.errors import UsageError, did_you_mean, one_line
from recbole_diffusion.prepare.item_texts import clean_names, clean_text
from recbole_diffusion.prepare.raw_formats import amazon_reviews_format
from recbole_diffusion.prepare.raw_lines import bad_line
from recbole_diffusion.prepare.raw_rows import read_rows
from recbole_diffusion.prepare.sessions import Sessions

SECONDS_PER_DAY = 86400
_ROWS_PER_READ = 1_000_000


def read_amazon(path, show_progress=True):
    """Sessions of Amazon reviews (JSON lines): what one user bought on one day, days in order.

    Purchases of a day have no order of their own; they keep that of the time, then of the file.

    Args:
        path (Path): plain or .gz.
        show_progress (bool): show bytes read.

    Returns:
        Sessions

    Raises:
        UsageError: when the file is missing or empty, and with the number of a line that cannot be used.
    """
    data = read_rows(path, amazon_reviews_format(path), show_progress)
    days = np.floor_divide(data.timestamps, SECONDS_PER_DAY)
    order = np.lexsort((data.timestamps, data.users, days))  # stable: equal times keep the order of the file
    days, users = days[order], data.users[order]
    opens = np.append(True, (days[1:] != days[:-1]) | (users[1:] != users[:-1]))
    return Sessions(data.item_tokens, opens.cumsum() - 1, data.items[order], data.timestamps[order])


def read_atomic(path, properties):
    """Sessions of an atomic ``.inter`` file, in the order in which the file begins them.

    Args:
        path (Path): tab separated.
        properties (dict): settings of the data set, for the names of the columns.

    Returns:
        Sessions

    Raises:
        UsageError: when the file is missing or broken or lacks a column, and for a time that is no number.
    """
    fields = [properties.get(key, default) for key, default in _ATOMIC_FIELDS.items()]
    frame = read_table(path, None, sep="\t", dtype=str, keep_default_na=False)
    frame.columns = [cell.partition(":")[0] for cell in frame.columns]
    require_columns(path, frame, fields)
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

    Returns:
        Sessions

    Raises:
        UsageError: for missing and broken files.
    """
    files = sorted(folder.glob("order_products__*.csv"))
    if not files:
        raise UsageError(f"'{folder}' holds no order_products__*.csv, give the folder of Instacart's files")
    short = _short_orders(files, shortest)
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


def _short_orders(files, shortest):
    """Whether each order_id is one of the shortest orders, [largest order_id + 1] of bool."""
    sizes = np.zeros(0, dtype=np.int64)
    for chunk in _chunks(files, ["order_id"]):
        counts = np.bincount(chunk["order_id"])
        sizes = np.pad(sizes, (0, max(0, len(counts) - len(sizes))))
        sizes[: len(counts)] += counts
    return (sizes > 0) & (sizes <= np.quantile(sizes[sizes > 0], shortest, method="inverted_cdf"))


def read_instacart_texts(path, wanted):
    """Product name, aisle and department of the wanted products.

    Args:
        path (Path): products.csv; aisles.csv and departments.csv beside it may be missing.
        wanted (Container[str]): product numbers as texts.

    Returns:
        tuple: header of the columns besides the item, and {item: fields}.

    Raises:
        UsageError: for missing and broken files.
    """
    products = read_table(path, None, dtype=str, keep_default_na=False)
    require_columns(path, products, ["product_id", "product_name"])
    categories = [[] for _ in range(len(products))]
    for kind in ("department", "aisle"):
        names_file = path.with_name(f"{kind}s.csv")
        if names_file.is_file() and f"{kind}_id" in products:
            names = read_table(names_file, [f"{kind}_id", kind], dtype=str, keep_default_na=False)
            name_of = dict(zip(names[f"{kind}_id"], names[kind]))
            for row, number in zip(categories, products[f"{kind}_id"]):
                row.append(name_of.get(number, ""))
    texts = {
        product: (clean_text(title), clean_names(names))
        for product, title, names in zip(products["product_id"], products["product_name"], categories)
        if product in wanted
    }
    return "title:token_seq\tcategories:token_seq", texts


def _days_of_orders(path):
    """Days since the first order of its user, by order_id (pandas.Series)."""
    columns = ["order_id", "user_id", "order_number", "days_since_prior_order"]
    orders = read_table(path, columns, dtype={name: np.int64 for name in columns[:3]})
    if orders["order_id"].duplicated().any():
        raise UsageError(f"'{path}' holds order {orders['order_id'][orders['order_id'].duplicated()].iloc[0]} twice")
    gaps = pd.to_numeric(orders["days_since_prior_order"], errors="coerce").fillna(0)  # empty for a first order
    orders = orders.assign(gap=gaps).sort_values(["user_id", "order_number"], kind="stable")
    return orders.groupby("user_id")["gap"].cumsum().set_axis(orders["order_id"])


def _chunks(files, columns):
    """Frames of int64 columns of several CSV files, a million rows at a time."""
    for path in files:
        try:
            for chunk in read_table(path, columns, dtype=np.int64, chunksize=_ROWS_PER_READ):
                if (chunk < 0).to_numpy().any():
                    raise UsageError(f"'{path}' holds negative numbers, give Instacart's own files")
                yield chunk
        except (ValueError, pd.errors.ParserError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"'{path}' cannot be read: {one_line(error)}") from None


def read_table(path, columns, **settings):
    """A text file as a table.

    Args:
        path (Path): the file.
        columns (list[str] or None): those to read, None for all.
        settings: of :func:`pandas.read_csv`.

    Returns:
        pandas.DataFrame, or an iterator of them with ``chunksize``.

    Raises:
        UsageError: when the file is missing or cannot be read like this.
    """
    try:
        return pd.read_csv(path, usecols=columns, **settings)
    except FileNotFoundError:
        raise UsageError(f"file '{path}' does not exist, give the path of the raw data") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:  # ValueError: columns, numbers, encoding
        raise UsageError(f"'{path}' cannot be read: {one_line(error)}") from None


def require_columns(path, frame, names):
    """Raise UsageError for the first of some columns that the table of a file lacks."""
    for name in names:
        if name not in frame:
            raise UsageError(f"'{path}' has no column '{name}'{did_you_mean(name, frame)}, it has {', '.join(frame)}")
