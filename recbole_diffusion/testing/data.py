"""Small synthetic data whose right answers are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_diffusion.data.features import save_item_features
from recbole_diffusion.settings.config import DiffusionConfig


def cycle_sequences(
    n_users: int = 40, n_items: int = 12, min_length: int = 5, max_length: int = 12, seed: int = 0
) -> list[list[int]]:
    """Every user walks the cycle 1 -> 2 -> ... -> n_items -> 1 from a random start: the next item is known.

    Returns:
        list[list[int]]: the items of each user in order.
    """
    random = np.random.default_rng(seed)
    starts = random.integers(n_items, size=n_users)
    lengths = random.integers(min_length, max_length + 1, size=n_users)
    return [[int((start + step) % n_items) + 1 for step in range(length)] for start, length in zip(starts, lengths)]


def group_sequences(n_users: int = 60, n_groups: int = 3, group_size: int = 5, seed: int = 0) -> list[list[int]]:
    """Every user takes the items of one group in random order: the last one is known from the others.

    For models that know little of the order within a session, with ``mask_history``.

    Returns:
        list[list[int]]: the items of each user in order.
    """
    random = np.random.default_rng(seed)
    groups = random.integers(n_groups, size=n_users)
    return [(random.permutation(group_size) + group * group_size + 1).tolist() for group in groups]


def write_sequences(sequences: Iterable[Iterable[int]], folder: str | Path, name: str) -> str:
    """Write sequences as ``<folder>/<name>/<name>.inter`` and return ``folder`` as a string for ``data_path``."""
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u}\ti{item}\t{t}" for u, items in enumerate(sequences) for t, item in enumerate(items)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n"
    (target / f"{name}.inter").write_text(text, encoding="utf-8")
    return str(folder)


def write_features(folder: str | Path, name: str = "cycle", n_items: int = 12, width: int = 16) -> None:
    """Write random item vectors, ``<folder>/<name>/<name>.features.npz``, for the items of :func:`write_sequences`."""
    vectors = np.random.default_rng(0).normal(size=(n_items, width))
    save_item_features(f"{folder}/{name}/{name}.features.npz", [f"i{i + 1}" for i in range(n_items)], vectors, {})


def make_config(model: str, folder: str | Path, name: str = "cycle", **settings: Any) -> DiffusionConfig:
    """A configuration for data under ``folder`` that keeps its files there."""
    defaults = {"data_path": str(folder), "checkpoint_dir": str(Path(folder) / "saved"), "MAX_ITEM_LIST_LENGTH": 10}
    defaults.update(show_progress=False, use_gpu=False, topk=[1, 5], valid_metric="MRR@5", train_batch_size=16)
    return DiffusionConfig(model, name, config_dict={**defaults, **settings})
