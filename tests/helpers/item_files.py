"""Item files of small data."""

from pathlib import Path


def write_items(folder, values, column="category:token", name="cycle"):
    """``<folder>/<name>/<name>.item`` with one column: item token -> text."""
    rows = [f"{token}\t{value}" for token, value in values.items()]
    (Path(folder) / name / f"{name}.item").write_text("\n".join([f"item_id:token\t{column}", *rows]) + "\n")


def write_categories(folder, n_values=3, n_items=12):
    """Categories of the items i1, i2, ... in turn."""
    write_items(folder, {f"i{n}": f"c{n % n_values}" for n in range(1, n_items + 1)})
