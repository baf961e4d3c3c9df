"""Item features from outside the interactions: one vector per item, kept in a file and joined by item token.

There may be several kinds of them: of the text, of the images, and of what one says about the other. The file is a NumPy archive (``.npz``) without pickle, with the arrays ``tokens`` (text, [n]), ``vectors`` (float32,
[n, d]) and ``meta`` (a JSON text that says what made it). ``recbole-diffusion features`` writes such files.
"""

import json
import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import written_whole

SUFFIX = ".features.npz"
MISSING_POLICIES = ("error", "mean", "zero")
# Kind of features -> setting that names their file, what stands before SUFFIX in its usual name, words that make it.
KINDS = {
    "text": ("item_features", "", ""),
    "images": ("image_features", ".images", " --of=images"),
    "pseudo_text": ("pseudo_text_features", ".pseudo_text", " --of=labels"),
    "pseudo_images": ("pseudo_image_features", ".pseudo_images", None),
}


def features_file(data_path, dataset, kind="text"):
    """Default place of a data set's features of a kind (pathlib.Path); the file need not exist."""
    return Path(data_path) / dataset / f"{dataset}{KINDS[kind][1]}{SUFFIX}"


def how_to_make(dataset, kind="text"):
    """What makes the features of a data set: a text that follows on "make them with"."""
    words = KINDS[kind][2]
    if words is None:
        return "save_item_features, from a network that draws what a text says (docs/features.md)"
    return f"'recbole-diffusion features --dataset={dataset}{words}'"


def save_item_features(path, tokens, vectors, meta):
    """Write a feature file, whole or not at all.

    Args:
        path (str or Path): file to write; its folder is made when it is missing.
        tokens (Sequence[str]): item tokens as in the atomic files, [n].
        vectors (array-like): one row per token, [n, d], written as float32.
        meta (dict): JSON values that say what made the vectors.

    Raises:
        UsageError: when tokens and vectors do not fit together, for NaN and infinite values, and when the file
            cannot be written.
    """
    path, tokens = Path(path), np.asarray(list(tokens), dtype=np.str_)
    vectors = _checked(path, tokens, np.asarray(vectors))
    with written_whole(path, binary=True) as file:
        np.savez(file, tokens=tokens, vectors=vectors, meta=np.str_(json.dumps(meta)))


def load_item_features(path, item_tokens, missing="error", width=None):
    """Vectors of the items of a data set, in the order of its item numbers.

    Args:
        path (str or Path): feature file.
        item_tokens (Sequence[str]): token of each item number after filtering, [V]; number 0 is padding.
        missing (str): what happens to items without a vector: ``error``, ``mean`` (of the vectors that were found)
            or ``zero``.
        width (int, optional): number of columns that the vectors must have.

    Returns:
        tuple: a float32 tensor [V, d], whose row 0 is zero, and a dict with the numbers of items that were
        ``matched``, that are ``missing`` from the file, and of ``extra`` ones in the file.

    Raises:
        UsageError: when the file is missing, is no feature file, holds NaN, infinite values or a token twice, has
            another width, or describes none or, under ``error``, not all of the items.
    """
    if missing not in MISSING_POLICIES:
        hint = did_you_mean(missing, MISSING_POLICIES)
        raise UsageError(f"missing '{missing}' is unknown{hint}, use one of: {', '.join(MISSING_POLICIES)}")
    path = Path(path)
    tokens, vectors = _read(path)
    if width is not None and vectors.shape[1] != width:
        raise UsageError(f"feature file '{path}' has {vectors.shape[1]} values per item, {width} are expected")
    items = [str(token) for token in item_tokens][1:]
    row_of = {token: row for row, token in enumerate(tokens.tolist())}
    rows = np.array([row_of.get(token, -1) for token in items], dtype=np.int64)
    found = rows >= 0
    report = {"matched": int(found.sum()), "missing": int((~found).sum()), "extra": len(tokens) - int(found.sum())}
    if not report["matched"]:
        raise UsageError(
            f"feature file '{path}' describes none of the {len(items)} items of the data set (it has "
            f"{_shown(tokens[:3])}, the data set {_shown(items[:3])}): give the file of the same data set"
        )
    if report["missing"] and missing == "error":
        first = items[int(np.argmin(found))]
        raise UsageError(
            f"feature file '{path}' lacks {report['missing']} of {len(items)} items, the first is '{first}': build it "
            f"from all of them, or choose mean or zero for missing ones"
        )
    table = np.zeros((len(items) + 1, vectors.shape[1]), dtype=np.float32)
    table[1:][found] = vectors[rows[found]]
    if missing == "mean":
        table[1:][~found] = vectors[rows[found]].mean(axis=0)
    logging.getLogger().info(
        f"item features of {path}: {report['matched']} items matched, {report['missing']} missing ({missing}), "
        f"{report['extra']} extra, {vectors.shape[1]} values each"
    )
    return torch.from_numpy(table), report


def features_of(dataset, config, needed_for=None):
    """Vectors of the items for a model that can do without: [V, d], or None without a file or with ``item_features: none``.

    Args:
        dataset (SequenceDataset): whose items.
        config (DiffusionConfig): ``item_features``, ``missing_features`` and ``hidden_size``, which is d.
        needed_for (str, optional): the setting that cannot do without.

    Raises:
        UsageError: when that setting finds no file, and see :func:`load_item_features`.
    """
    if config["item_features"] == "none":
        return None
    features, name = features_of_kind(dataset, config, "text", config["hidden_size"]), config["dataset"]
    if features is None and needed_for:
        raise UsageError(
            f"{needed_for} needs item features, which dataset '{name}' lacks: make them with {how_to_make(name)}"
        )
    if features is None:
        logging.getLogger().warning(f"no item features: {config['model']} runs on IDs alone, without a modality")
    return features


def features_of_kind(dataset, config, kind, width=None):
    """Vectors of one kind of the items: [V, width], or None where there is no file, or ``none`` is chosen.

    Args:
        dataset (SequenceDataset): whose items.
        config (DiffusionConfig): ``missing_features``, and the setting of the kind in place of ``item_features``.
        kind (str): a key of :data:`KINDS`.
        width (int, optional): number of columns that the vectors must have.

    Raises:
        UsageError: see :func:`load_item_features`.
    """
    choice = config[KINDS[kind][0]]
    return None if choice == "none" else dataset.item_features(choice, config["missing_features"], width, kind)


def _read(path):
    """Checked tokens [n] and vectors [n, d] of a file."""
    if not path.is_file():
        name = path.name[: -len(SUFFIX)] if path.name.endswith(SUFFIX) else "NAME"
        kind = next((kind for kind, (_, infix, _) in KINDS.items() if infix and name.endswith(infix)), "text")
        made = how_to_make(name.removesuffix(KINDS[kind][1]), kind)
        raise UsageError(f"feature file '{path}' does not exist: build it with {made}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            tokens, vectors = archive["tokens"], archive["vectors"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise UsageError(
            f"'{path}' is no feature file: it must be a .npz archive of tokens (texts) and vectors (numbers)"
        ) from None
    return tokens, _checked(path, tokens, vectors)


def _checked(path, tokens, vectors):
    """The vectors as float32 [n, d]; raises UsageError when they or the tokens cannot be used."""
    if tokens.dtype.kind != "U" or tokens.ndim != 1:
        raise UsageError(f"feature file '{path}': tokens must be one list of texts, not {_kind(tokens)}")
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2 or not vectors.shape[1]:
        raise UsageError(f"feature file '{path}': vectors must be a table of numbers, not {_kind(vectors)}")
    if len(tokens) != len(vectors):
        raise UsageError(f"feature file '{path}' has {len(tokens)} tokens for {len(vectors)} vectors: build it again")
    unique, counts = np.unique(tokens, return_counts=True)
    if (counts > 1).any():
        raise UsageError(f"feature file '{path}' holds the item '{unique[counts.argmax()]}' {counts.max()} times")
    with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite, which is reported
        vectors = vectors.astype(np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"feature file '{path}' has NaN or infinite values for {int((~finite).sum())} item(s), the first is "
            f"'{tokens[finite.argmin()]}': build it again"
        )
    return vectors


def _kind(array):
    return f"{array.dtype} of shape {list(array.shape)}"


def _shown(tokens):
    return ", ".join(f"'{token}'" for token in tokens) or "nothing"
