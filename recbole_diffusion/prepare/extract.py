"""Item features from texts and images: one text per item, encoded, averaged over its tokens and reduced by PCA.

The text of an item is made of columns of the ``.item`` file and of the labels that GoogLeNet sees in its image.
Nothing here reads interactions.
"""

import sqlite3
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import recbole_diffusion
from recbole_diffusion.data.features import features_file, save_item_features
from recbole_diffusion.data.item_table import item_file, read_item_table, require_column
from recbole_diffusion.devices import own_gpu, usable_device
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.prepare.arguments import DEFAULT_TEXT_MODEL
from recbole_diffusion.prepare.image_labels import IMAGE_WIDTH, ImageLabeler, encode_images, find_images, label_images
from recbole_diffusion.prepare.result_cache import Cache
from recbole_diffusion.prepare.text_vectors import TextEncoder, encode_texts
from recbole_diffusion.processes import share as own_share
from recbole_diffusion.settings.properties import settings_of_data

DEFAULT_COLUMNS = ("title", "brand")
MADE_OF = {"text": "text", "images": "images", "labels": "pseudo_text"}  # word of the command -> kind of features


def read_item_texts(path, item_field, columns=None):
    """Text of every item of an ``.item`` file.

    Args:
        path (Path): atomic file, tab separated or Parquet.
        item_field (str): name of the column of item tokens.
        columns (Sequence[str], optional): columns whose texts are joined by a space; by default those of
            ``DEFAULT_COLUMNS`` that exist.

    Returns:
        tuple: {item token: text}, the first row of an item counts, and the list of columns that were used.

    Raises:
        UsageError: when the file is missing or broken or lacks a column.
    """
    frame = read_item_table(path, item_field)
    used = [name for name in DEFAULT_COLUMNS if name in frame] if columns is None else list(columns)
    for name in used:
        require_column(path, frame, name)
    rows = zip(*(frame[name] for name in used)) if used else [()] * len(frame)
    texts = [" ".join(" ".join(row).split()) for row in rows]
    return dict(zip(frame[item_field], texts)), used


def reduce_by_pca(vectors, dims):
    """Coordinates on the principal axes, largest variance first.

    Written out because scikit-learn's choice of signs differs between its versions: here the largest entry of every
    axis is positive.

    Args:
        vectors (numpy.ndarray): [n, d].
        dims (int): number of axes, less than n and at most d.

    Returns:
        tuple: float32 [n, dims], and the share of the variance that they hold.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = variances[::-1], axes[:, ::-1][:, :dims]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])
    total = variances.sum()
    return (centred @ axes).astype(np.float32), float(variances[:dims].sum() / total) if total else 1.0


@dataclass(frozen=True)
class Sources:
    """Texts and images of items, and what turns them into vectors.

    Attributes:
        of (str): what the vectors are of, see :func:`build_features`.
        texts (dict[str, str]): of every item.
        images (dict[str, Path]): of the items that have one.
        encoder (TextEncoder | None), labeler (ImageLabeler | None): the networks.
        batch_size, max_length, show_progress: see :func:`build_features`.
    """

    of: str
    texts: dict
    images: dict
    encoder: object
    labeler: object
    batch_size: int
    max_length: int
    show_progress: bool

    def share(self, rank, n_ranks):
        """Those of every n-th item."""
        own = list(self.texts)[rank::n_ranks]
        images = {item: self.images[item] for item in own if item in self.images}
        return replace(self, texts={item: self.texts[item] for item in own}, images=images, show_progress=self.show_progress and not rank)

    def described(self, store):
        """What is to be encoded of every item that has something, ``{item: text or vector}``, what was seen in the images, and
        which could not be read."""
        read = encode_images if self.of == "images" else label_images
        seen, unreadable = read(self.images, self.labeler, store, self.batch_size, self.show_progress) if self.images else ({}, {})
        return (seen if self.of == "images" else _joined(self.texts, seen)), seen, unreadable

    def vectors(self, described, store):
        """Vectors of what was described: [n, width]."""
        if self.of == "images":
            return np.stack(list(described.values()))
        return encode_texts(list(described.values()), self.encoder, store, self.batch_size, self.max_length, self.show_progress)


def build_features(
    dataset,
    data_path="dataset",
    columns=None,
    text_model=DEFAULT_TEXT_MODEL,
    image_weights=None,
    dims=100,
    max_length=128,
    batch_size=32,
    device=None,
    output=None,
    cache=None,
    show_progress=True,
    of="text",
    share=(0, 1),
):
    """Write the feature file of a data set; what an earlier run left in the cache is not computed again.

    Args:
        dataset (str): name of the data set; ``<data_path>/<dataset>/<dataset>.item`` holds its items, ``images/``
            beside it, where it exists, their images.
        data_path (str or Path): folder that holds the folder of the data set.
        columns (Sequence[str], optional): columns of the item file; by default title and brand where they exist.
        text_model (str): folder or hub name of a BERT-family encoder.
        image_weights (str or Path, optional): state dict of GoogLeNet; by default torchvision's own download.
        dims (int): values per item after PCA; 0 keeps those of the encoder.
        max_length (int): tokens of a text that are read.
        batch_size (int): texts or images per step.
        device (str, optional): by default cuda where there is one, else cpu.
        output (str or Path, optional): file to write, by default ``<data_path>/<dataset>/<dataset>.features.npz`` or what
            is usual for another kind, see :data:`recbole_diffusion.data.features.KINDS`.
        cache (str or Path, optional): SQLite file, by default ``<output>.cache``.
        show_progress (bool): show bars.
        of (str): what the vectors are of: ``text`` of the columns and of the labels that images get; ``labels`` for these
            labels alone; ``images`` for what GoogLeNet knows of an image before it names it.
        share (tuple[int, int]): number of this process and how many there are. Each computes what belongs to its items, the first
            one waits for the others and writes the file.

    Returns:
        dict: None but in the first process. ``file``; counts of ``items``, of them ``without_text`` or image (left out), with ``images``; ``extra_images``;
        ``unreadable_images`` as {path: reason}; ``dims`` and the ``explained_variance`` of the PCA.

    Raises:
        UsageError: for anything the user can repair.
    """
    for name, value, least in (("dims", dims, 0), ("max_length", max_length, 3), ("batch_size", batch_size, 1)):
        if value < least:
            raise UsageError(f"--{name}={value} is too small, it must be at least {least}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = usable_device(device, f"--device={device}")
    folder = Path(data_path) / dataset
    output = Path(output) if output else features_file(data_path, dataset, _kind(of))
    item_field = settings_of_data(dataset, data_path).get("ITEM_ID_FIELD", "item_id")
    texts, columns = read_item_texts(item_file(folder, dataset), item_field, columns if of == "text" else [])
    images, extra = find_images(folder / "images", texts)
    _require_something(of, folder, columns, images)
    encoder = TextEncoder(text_model, device, max_length) if of != "images" else None
    width, made_with = (encoder.width, f"--text_model '{text_model}'") if encoder else (IMAGE_WIDTH, "an image")
    if dims > width:
        raise UsageError(f"--dims={dims} is more than the {width} values of {made_with}")
    labeler = ImageLabeler(image_weights, device) if images else None
    sources = Sources(of, texts, images, encoder, labeler, batch_size, max_length, show_progress)
    place = Path(cache) if cache else output.with_name(output.name + ".cache")
    if share[0]:
        return fill_part(place, sources, *share)
    store = Cache(place)
    try:
        if share[1] > 1:
            compute(sources.share(*share), store)
            store.absorb(wait_for(part_path(place, rank) for rank in range(1, share[1])))
        described, seen, unreadable = sources.described(store)
        _check_dims(dims, len(described), output, "an image" if of == "images" else "a text")
        vectors = sources.vectors(described, store)
    except sqlite3.Error as error:
        raise UsageError(f"cache '{store.path}' cannot be used ({error}): delete it or name another --cache") from None
    finally:
        store.close()
    vectors, explained = reduce_by_pca(vectors, dims) if dims else (vectors, 1.0)
    report = {
        "file": str(output),
        "items": len(texts),
        "without_text": len(texts) - len(described),
        "images": len(seen),
        "extra_images": extra,
        "unreadable_images": {str(path): reason for path, reason in unreadable.items()},
        "dims": vectors.shape[1],
        "explained_variance": round(explained, 4),
    }
    made_by = {
        "made_by": f"recbole_diffusion {recbole_diffusion.__version__}",
        "dataset": dataset,
        "of": of,
        "columns": columns,
        "text_model": encoder and {"name": Path(text_model).name, "identity": encoder.identity, "max_length": max_length},
        "image_weights": labeler.identity if labeler else None,
        **{key: report[key] for key in ("items", "without_text", "images", "dims", "explained_variance")},
    }
    save_item_features(output, described, vectors, made_by)
    return report


def compute(sources, store):
    """Leave all that belongs to some sources in a cache."""
    described, _, _ = sources.described(store)
    if described:
        sources.vectors(described, store)


def fill_part(place, sources, rank, n_ranks):
    """The share of a process that is not the first: a cache of its own, which takes its name when it is complete."""
    done = part_path(place, rank)
    working = done.with_name(done.name + ".tmp")
    if done.is_file():  # of an earlier run that the first process did not end
        done.replace(working)
    store = Cache(working)
    try:
        compute(sources.share(rank, n_ranks), store)
    except (UsageError, sqlite3.Error) as error:
        print(f"error: process {rank}: {error}", file=sys.stderr)  # the first process alone speaks, which knows nothing of it
        raise UsageError(str(error)) from None
    finally:
        store.close()
    working.replace(done)


def part_path(place, rank):
    """The cache of one of several processes, beside the one of all."""
    return place.with_name(f"{place.name}.{rank}")


def wait_for(paths):
    """The paths, once all of them are there; a process that fails ends the others, as ``torchrun`` has it."""
    paths = list(paths)
    while not all(path.is_file() for path in paths):
        time.sleep(0.2)
    return paths


def _kind(of):
    """Kind of features that the command makes; raises UsageError for an unknown word."""
    if of not in MADE_OF:
        raise UsageError(f"--of must be one of {', '.join(MADE_OF)}, got '{of}'{did_you_mean(of, MADE_OF)}")
    return MADE_OF[of]


def _require_something(of, folder, columns, images):
    """Raise UsageError when there is nothing to read."""
    if of != "text" and not images:
        raise UsageError(f"'{folder / 'images'}' holds no image of an item, such as ITEM.jpg: --of={of} reads images")
    if not columns and not images:
        raise UsageError(
            f"'{folder}' has neither a column {' or '.join(DEFAULT_COLUMNS)} in {folder.name}.item nor images/: name other "
            f"columns with --columns="
        )


def _joined(texts, labels):
    """{item: text and labels} of the items that have either."""
    joined = {item: f"{text} {labels.get(item, '')}".strip() for item, text in texts.items()}
    return {item: text for item, text in joined.items() if text}


def _check_dims(dims, items, output, what):
    if items < 2 or dims >= items:
        raise UsageError(
            f"'{output}' cannot be made: {items} item(s) have {what}, --dims={dims} needs more than {max(dims, 1)}"
        )


# ------------------------------------------------------------------------------------------- command line


def main(args):
    """Run ``recbole-diffusion features`` with parsed arguments; returns the exit code 0, raises UsageError."""
    columns = [name.strip() for name in args.columns.split(",") if name.strip()] if args.columns is not None else None
    report = build_features(
        args.dataset, args.data_path, columns, args.text_model, args.image_weights, args.dims, args.max_length,
        args.batch_size, args.device or own_gpu(), args.output, args.cache, of=args.of, share=own_share(),
    )  # fmt: skip
    if report is None:
        return 0
    unreadable = report.pop("unreadable_images")
    for path, reason in unreadable.items():
        print(f"skipped: '{path}' is no readable image ({reason})")
    for key, value in {**report, "unreadable_images": len(unreadable)}.items():
        print(f"{key}: {value}")
    return 0
