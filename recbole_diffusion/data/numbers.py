"""Numbers in text columns: which words stand for none, and which line holds no number."""

import math

# What pandas, and so RecBole, reads as a missing value besides the empty text.
MISSING = frozenset(
    ["#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", ""]
)


def finite(text):
    """The number a text stands for, nan when it stands for none or for an infinite one."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def find_first_bad_number(path, column_index, separator="\t", skip_header=True, encoding="utf-8"):
    """First value of a column that should be a number and is none, to explain a failed conversion.

    Missing values (empty, NA, nan, ...) and rows without that column are no bad numbers.

    Args:
        path (str or Path): text file.
        column_index (int): column, from 0.
        separator (str): what stands between columns.
        skip_header (bool): whether line 1 is a header.
        encoding (str): of the file.

    Returns:
        tuple[int, str] or None: line number from 1 and the text found there; None when all are finite numbers.
    """
    with open(path, encoding=encoding, errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip("\r\n").split(separator)
            if (skip_header and number == 1) or column_index >= len(parts) or parts[column_index] in MISSING:
                continue
            if math.isnan(finite(parts[column_index])):
                return number, parts[column_index]
    return None
