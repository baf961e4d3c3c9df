"""Small synthetic data whose right answers are known."""

from pathlib import Path

import numpy as np

from recbole_diffusion.data.features import save_item_features
from recbole_diffusion.settings.config import DiffusionConfig


def cycle_sequences(n_users=40, n_items=12, min_length=5, max_length=12, seed=0):
    """Every user walks the cycle 1 -> 2 -> ... -> n_items -> 1 from a random start: the next item is known.

    Returns:
        list[list[int]]: the items of each user in order.
    """
    random = np.random.default_rng(seed)
    starts = random.integers(n_items, size=n_users)
    lengths = random.integers(min_length, max_length + 1, size=n_users)
    return [[int((start + step) % n_items) + 1 for step in range(length)] for start, length in zip(starts, lengths)]


def group_sequences(n_users=60, n_groups=3, group_size=5, seed=0):
    """Every user takes the items of one group in random order: the last one is known from the others.

    For models that know little of the order within a session, with ``mask_history``.

    Returns:
        list[list[int]]: the items of each user in order.
    """
    random = np.random.default_rng(seed)
    groups = random.integers(n_groups, size=n_users)
    return [(random.permutation(group_size) + group * group_size + 1).tolist() for group in groups]


def write_sequences(sequences, folder, name):
    """Write sequences as ``<folder>/<name>/<name>.inter`` and return ``folder`` as a string for ``data_path``."""
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u}\ti{item}\t{t}" for u, items in enumerate(sequences) for t, item in enumerate(items)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n"
    (target / f"{name}.inter").write_text(text, encoding="utf-8")
    return str(folder)


def write_features(folder, name="cycle", n_items=12, width=16):
    """Write random item vectors, ``<folder>/<name>/<name>.features.npz``, for the items of :func:`write_sequences`."""
    vectors = np.random.default_rng(0).normal(size=(n_items, width))
    save_item_features(f"{folder}/{name}/{name}.features.npz", [f"i{i + 1}" for i in range(n_items)], vectors, {})


def make_config(model, folder, name="cycle", **settings):
    """A configuration for data under ``folder`` that keeps its files there."""
    defaults = {"data_path": str(folder), "checkpoint_dir": str(Path(folder) / "saved"), "MAX_ITEM_LIST_LENGTH": 10}
    defaults.update(show_progress=False, use_gpu=False, topk=[1, 5], valid_metric="MRR@5", train_batch_size=16)
    return DiffusionConfig(model, name, config_dict={**defaults, **settings})
