"""Small item files with categories and prices, and vectors of items."""

from pathlib import Path

import numpy as np

from recbole_diffusion.data.features import features_file, save_item_features


def write_item_file(folder, lines, name="cycle"):
    """An item file of some lines."""
    (Path(folder) / name / f"{name}.item").write_text("\n".join(lines) + "\n")


def write_items(folder, values, column="category:token", name="cycle"):
    """``<folder>/<name>/<name>.item`` with one column: item token -> text."""
    write_item_file(folder, [f"item_id:token\t{column}", *(f"{token}\t{value}" for token, value in values.items())], name)


def write_categories(folder, n_values=3, n_items=12):
    """Categories of the items i1, i2, ... in turn."""
    write_items(folder, {f"i{n}": f"c{n % n_values}" for n in range(1, n_items + 1)})


def write_sides(folder, name="cycle", n_items=12, width=16, seed=1):
    """Prices, categories and image vectors of the items i1, i2, ..., beside the sequences of a data set."""
    random = np.random.default_rng(seed)
    prices = random.uniform(1, 90, n_items).round(2)
    rows = [f"i{i + 1}\t{price}\tall kind{i % 3}" for i, price in enumerate(prices)]
    write_item_file(folder, ["item_id:token\tprice:float\tcategories:token_seq", *rows], name)
    write_vectors(folder, "images", name, n_items, width, seed)


def write_vectors(folder, kind, name="cycle", n_items=12, width=16, seed=1):
    """Random vectors of a kind for the items i1, i2, ..."""
    vectors = np.random.default_rng(seed).normal(size=(n_items, width))
    save_item_features(features_file(folder, name, kind), [f"i{i + 1}" for i in range(n_items)], vectors, {})
