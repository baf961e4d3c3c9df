"""What a data set knows of its items beside who took them: vectors of features, prices and categories.

Prices and categories are columns of the item file, which is read here and not by RecBole: it would fill a missing price
with the mean of the others, and join both to every batch.
"""

import math
from pathlib import Path

import numpy as np
import torch

from recbole_diffusion.data.features import features_file, load_item_features
from recbole_diffusion.data.item_table import item_file, read_item_table
from recbole_diffusion.data.numbers import MISSING, finite
from recbole_diffusion.errors import UsageError, did_you_mean

USUAL_NAMES = {"price": ("price",), "category": ("category", "categories")}


class ItemSides:
    """The part of a data set that knows its items, to be mixed in before RecBole's class."""

    def item_features(self, choice, missing, width, kind="text"):
        """Vectors of the items from a feature file, see :func:`recbole_diffusion.data.features.load_item_features`.

        Args:
            choice (str): the file, or ``auto`` for the usual one of the kind beside the atomic files, if there is one.
            missing (str): ``error``, ``mean`` or ``zero`` for items that the file lacks.
            width (int | None): d, None for what the file has.
            kind (str): a key of :data:`recbole_diffusion.data.features.KINDS`.

        Returns:
            torch.FloatTensor | None: [V, d], or None when ``auto`` finds no file.

        Raises:
            UsageError: when the file cannot be used.
        """
        usual = features_file(Path(self.config["data_path"]).parent, self.dataset_name, kind)
        path = usual if choice == "auto" else choice
        if choice == "auto" and not path.is_file():
            return None
        return load_item_features(path, self.field2id_token[self.iid_field], missing, width)[0]

    def item_prices(self, price, category, n_levels):
        """Prices by level, and categories, from the item file.

        A level is one of ``n_levels`` bins of equal width between the lowest and the highest price of the item's
        category, or of all items without categories.

        Args:
            price, category (str): name of the column; ``auto`` for a usual one (``price``; ``category`` or
                ``categories``) where the file has it; ``none``.
            n_levels (int): how many bins.

        Returns:
            tuple: levels [V] from 1 on, 0 for padding and items without a price, and categories [V] from 1 on, 0 for
            padding and items without one; LongTensors, each None where there is no such column or without prices.

        Raises:
            UsageError: when a column that is named does not exist, a price is no number, or none is given.
        """
        path = item_file(self.config["data_path"], self.dataset_name)
        prices = self._item_column(path, "price", price)
        if prices is None:
            return None, None
        prices = _as_numbers(path, *prices)
        categories = self._item_column(path, "category", category)
        groups = None if categories is None else _numbered(categories[1])
        levels = _levels(prices, np.ones(len(prices), int) if groups is None else groups, n_levels)
        return torch.from_numpy(levels), None if groups is None else torch.from_numpy(groups)

    def _item_column(self, path, role, choice):
        """Name of a column and its text for every item number ("" where there is none), or None."""
        if choice == "none" or choice == "auto" and not path.is_file():
            return None
        if not path.is_file():
            raise UsageError(f"{role}_column: {choice}: {missing_column(self.dataset_name, path, role, choice)}")
        forms = self.config["field_separator"], self.config["encoding"] or "utf-8", self.config["seq_separator"]
        frame = read_item_table(path, self.iid_field, *forms)
        known = [name for name in (USUAL_NAMES[role] if choice == "auto" else [choice]) if name in frame]
        if not known and choice == "auto":
            return None
        if not known:
            hint = did_you_mean(choice, frame)
            raise UsageError(f"{role}_column: {choice}{hint}: {missing_column(self.dataset_name, path, role, choice)}")
        text = dict(zip(frame[self.iid_field], frame[known[0]].str.strip()))
        found = ["", *(text.get(str(token), "") for token in self.field2id_token[self.iid_field][1:])]
        if frame.attrs[known[0]].endswith("seq"):  # of a list the last one counts, in most data the narrowest category
            found = [words.split(self.config["seq_separator"])[-1] for words in found]
        return known[0], found


def missing_column(dataset, path, role="price", name="price"):
    """A text that says which column of an item file is missing, and what makes it."""
    kind = "float" if role == "price" else "token_seq"
    return (
        f"'{path}' has no column '{name}:{kind}': write it there, or make the file with 'recbole-diffusion prepare {dataset} "
        f"--source=RAW_FILE --meta=METADATA'"
    )


def _as_numbers(path, name, texts):
    """Prices [V], NaN where there is no text."""
    prices = np.array([math.nan if text in MISSING else finite(text) for text in texts])
    bad = next((text for text, price in zip(texts, prices) if math.isnan(price) and text not in MISSING), None)
    if bad is not None:
        raise UsageError(f"'{path}': '{bad[:40]}' is no price (column '{name}'): write numbers, or nothing where it is unknown")
    if np.isnan(prices).all():
        raise UsageError(f"'{path}' has no price of any item of the data (column '{name}'): set price_column: none")
    return prices


def _numbered(names):
    """Numbers of categories [V], from 1 on in the order of their names; 0 where there is none."""
    numbers = {name: number for number, name in enumerate(sorted({*names} - {""}), 1)}
    return np.array([numbers.get(name, 0) for name in names])


def _levels(prices, groups, n_levels):
    """Levels [V] from 1 to ``n_levels`` within each group, the middle one where all prices are equal; 0 without a price."""
    known = ~np.isnan(prices)
    lowest, highest = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(lowest, groups[known], prices[known])
    np.maximum.at(highest, groups[known], prices[known])
    low, high = lowest[groups[known]] / 2, highest[groups[known]] / 2  # halves, whose difference never overflows
    place = np.where(high > low, (prices[known] / 2 - low) / np.where(high > low, high - low, 1), 0.5)
    levels = np.zeros(len(prices), dtype=np.int64)
    levels[known] = 1 + np.minimum((place * n_levels).astype(np.int64), n_levels - 1)
    return levels
