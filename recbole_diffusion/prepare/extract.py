"""Item features from texts and images: one text per item, encoded, averaged over its tokens and reduced by PCA.

The text of an item is made of columns of the ``.item`` file and of the labels that GoogLeNet sees in its image.
Nothing here reads interactions. transformers, torchvision and pillow are imported when they are needed.
"""

import hashlib
import importlib
import importlib.util
import sqlite3
import zlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import recbole_diffusion
from recbole_diffusion.data.features import features_file, save_item_features
from recbole_diffusion.devices import usable_device
from recbole_diffusion.errors import UsageError, did_you_mean, one_line
from recbole_diffusion.settings.properties import dataset_properties

DEFAULT_COLUMNS = ("title", "brand")
DEFAULT_TEXT_MODEL = "bert-base-uncased"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABELS_PER_IMAGE = 2
_BLOCK = 1 << 20


# ------------------------------------------------------------------------------------------- optional libraries


def _library(name):
    """Import an optional library. Raises UsageError when it is missing or does not fit the installed torch."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise UsageError(f"{name} is not installed, run: pip install transformers torchvision pillow")
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision built for another torch raises any of them
        advice = "install it again"
        if name == "torchvision":
            advice = (
                f"install the build that fits torch {torch.__version__} as pytorch.org/get-started says; "
                f"for texts alone uninstall torchvision"
            )
        raise UsageError(f"{name} cannot be imported ({one_line(error, 120)}): {advice}") from None


def _transformers():
    if importlib.util.find_spec("torchvision"):
        _library("torchvision")  # transformers imports it too, and would not say what is wrong with it
    return _library("transformers")


# ------------------------------------------------------------------------------------------- items and their texts


def read_item_texts(path, item_field, columns=None):
    """Text of every item of an ``.item`` file.

    Args:
        path (Path): atomic file, tab separated.
        item_field (str): name of the column of item tokens.
        columns (Sequence[str], optional): columns whose texts are joined by a space; by default those of
            ``DEFAULT_COLUMNS`` that exist.

    Returns:
        tuple: {item token: text}, the first row of an item counts, and the list of columns that were used.

    Raises:
        UsageError: when the file is missing or broken or lacks a column.
    """
    if not path.is_file():
        raise UsageError(f"'{path}' does not exist: features need an item file with an '{item_field}:token' column")
    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' cannot be read as a table: {one_line(error)}") from None
    frame.columns = [cell.partition(":")[0] for cell in frame.columns]
    used = [name for name in DEFAULT_COLUMNS if name in frame] if columns is None else list(columns)
    for name in (item_field, *used):
        if name not in frame:
            raise UsageError(f"'{path}' has no column '{name}'{did_you_mean(name, frame)}, it has {', '.join(frame)}")
    frame = frame.drop_duplicates(item_field)
    rows = zip(*(frame[name] for name in used)) if used else [()] * len(frame)
    texts = [" ".join(" ".join(row).split()) for row in rows]
    return dict(zip(frame[item_field], texts)), used


def find_images(folder, items):
    """Image files of the items.

    Args:
        folder (Path): holds ``<item>.jpg``, ``.jpeg`` or ``.png``; of several the first in this order is taken.
        items (Iterable[str]): item tokens.

    Returns:
        tuple: {item token: path} in the order of the items, and the number of image files of other items.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES] if folder.is_dir() else []
    files.sort(key=lambda path: (IMAGE_SUFFIXES.index(path.suffix.lower()), path.name))
    paths = {path.stem: path for path in reversed(files)}
    found = {item: paths[item] for item in items if item in paths}
    return found, len(paths) - len(found)


# ------------------------------------------------------------------------------------------- cache


class Cache:
    """Results by a hash of all that they depend on, in one SQLite file; every batch is on disk when it is done.

    Args:
        path (Path): the file; its folder is made.

    Raises:
        UsageError: when the file cannot be used.
    """

    def __init__(self, path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path)
            self._connection.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"cache '{path}' cannot be used ({error}): delete it or name another --cache") from None

    @staticmethod
    def key(*parts):
        """Hash of texts and bytes, in which their borders count."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def get(self, key):
        """The bytes kept under a key, or None."""
        row = self._connection.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
        return row and row[0]

    def put(self, values):
        """Keep {key: bytes}, all or none of them."""
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", values.items())

    def close(self):
        """Close the file."""
        self._connection.close()


def _file_hash(*paths):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- images


class ImageLabeler:
    """The most likely ImageNet labels of images by torchvision's GoogLeNet.

    Args:
        weights (str or Path, optional): file of a state dict of GoogLeNet; by default torchvision's own download.
        device (torch.device): where it runs.

    Raises:
        UsageError: when torchvision or pillow is missing, or the weights cannot be had or do not fit.
    """

    def __init__(self, weights, device):
        self._device = device
        self._pillow = _library("PIL.Image")
        models = _library("torchvision").models
        published = models.GoogLeNet_Weights.IMAGENET1K_V1
        self._labels = published.meta["categories"]
        self._transform = published.transforms()
        network = self._download(models, published) if weights is None else self._from_file(models, Path(weights))
        self._network = network.eval().to(device)
        self.identity = f"{published} {published.url}" if weights is None else _file_hash(Path(weights))

    @staticmethod
    def _download(models, published):
        try:
            return models.googlenet(weights=published)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the checksum is wrong
            place = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
            raise UsageError(
                f"the weights of GoogLeNet cannot be downloaded ({one_line(error)}): fetch "
                f"{published.url} elsewhere and put it to {place}, or name the file with --image_weights"
            ) from None

    @staticmethod
    def _from_file(models, path):
        if not path.is_file():
            raise UsageError(f"--image_weights '{path}' does not exist, give a state dict of torchvision's GoogLeNet")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            auxiliary = any(name.startswith("aux1.") for name in state)
            network = models.googlenet(weights=None, init_weights=False, aux_logits=auxiliary, transform_input=True)
            network.load_state_dict(state)
        except Exception:  # torch raises many types for damaged and foreign files
            raise UsageError(f"--image_weights '{path}' is no state dict of torchvision's GoogLeNet") from None
        return network

    def load(self, path):
        """One image as the network wants it, float32 [3, 224, 224]; raises ValueError when it is unreadable."""
        try:
            with self._pillow.open(path) as image:
                return self._transform(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, EOFError, zlib.error, self._pillow.DecompressionBombError) as error:
            raise ValueError(one_line(error)) from None

    def label(self, images):
        """``LABELS_PER_IMAGE`` labels per image, likeliest first; images has shape [B, 3, 224, 224]."""
        with torch.inference_mode():
            best = self._network(images.to(self._device)).topk(LABELS_PER_IMAGE).indices
        return [[self._labels[number] for number in row] for row in best.tolist()]


def label_images(paths, labeler, cache, batch_size, show_progress=True):
    """Labels of image files, from the cache where it has them.

    Args:
        paths (dict): {item: path}.
        labeler (ImageLabeler): the network.
        cache (Cache): where labels are kept, by the bytes of the image and the weights.
        batch_size (int): images per step.
        show_progress (bool): show a bar.

    Returns:
        tuple: {item: labels as one text}, and {path: reason} of the files that are no readable images.
    """
    labels, unreadable, batch = {}, {}, []
    bar = tqdm(paths.items(), desc="images", unit="image", disable=not show_progress)
    for item, path in bar:
        try:
            key = cache.key("image", str(LABELS_PER_IMAGE), labeler.identity, path.read_bytes())
            known = cache.get(key)
            if known is None:
                batch.append((item, key, labeler.load(path)))
            else:
                labels[item] = known.decode()
        except (OSError, ValueError) as error:
            unreadable[path] = str(error)
        if len(batch) == batch_size:
            labels.update(_label_batch(batch, labeler, cache))
            batch = []
    if batch:
        labels.update(_label_batch(batch, labeler, cache))
    return labels, unreadable


def _label_batch(batch, labeler, cache):
    items, keys, images = zip(*batch)
    texts = [" ".join(labels) for labels in labeler.label(torch.stack(images))]
    cache.put({key: text.encode() for key, text in zip(keys, texts)})
    return dict(zip(items, texts))


# ------------------------------------------------------------------------------------------- texts


class TextEncoder:
    """Mean of the last hidden states over the real tokens of a text.

    Args:
        name (str): folder of a saved model, or its name on the Hugging Face hub.
        device (torch.device): where it runs.
        max_length (int): tokens of a text that are read.

    Raises:
        UsageError: when transformers is missing, the model cannot be had, is no encoder or reads fewer tokens.
    """

    def __init__(self, name, device, max_length):
        self._device, self._max_length = device, max_length
        self._tokenizer, self._network = self._load(_transformers(), name)
        config = self._network.config
        if config.is_encoder_decoder or self._tokenizer.pad_token is None:
            raise UsageError(f"--text_model '{name}' is no encoder of the BERT family (it is a {config.model_type})")
        longest = min(self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", max_length))
        if max_length > longest:
            raise UsageError(f"--max_length={max_length} is more than '{name}' reads, at most {longest}")
        self._network.eval().to(device)
        self.width = config.hidden_size
        files = sorted(path for path in Path(name).iterdir() if path.is_file()) if Path(name).is_dir() else []
        self.identity = _file_hash(*files) if files else f"{name} {getattr(config, '_commit_hash', None)}"

    @staticmethod
    def _load(transformers, name):
        local = Path(name).is_dir()
        if not local and Path(name).is_absolute():
            raise UsageError(f"--text_model folder '{name}' does not exist")
        if local:
            transformers.utils.logging.disable_progress_bar()  # a file is read at once; downloads keep their bar
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)
            return tokenizer, transformers.AutoModel.from_pretrained(name, local_files_only=local)
        except Exception as error:  # a dozen types, depending on the file that is missing or broken
            reason = one_line(error, 200)
            what = (
                "the folder must hold config.json, the tokenizer's files and model.safetensors of one encoder"
                if local
                else "check the name, or fetch config.json, the tokenizer's files and model.safetensors of "
                f"https://huggingface.co/{name} elsewhere and give their folder"
            )
            raise UsageError(f"--text_model '{name}' cannot be loaded ({reason}): {what}") from None
        finally:
            transformers.utils.logging.enable_progress_bar()

    def encode(self, texts):
        """Vectors of texts, float32 [B, hidden size] on the CPU."""
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            hidden = self._network(**tokens).last_hidden_state
        return mean_of_real_tokens(hidden, tokens["attention_mask"]).float().cpu().numpy()


def mean_of_real_tokens(hidden, mask):
    """Mean over the tokens whose mask is 1.

    Args:
        hidden (torch.Tensor): [B, L, d].
        mask (torch.Tensor): [B, L] of 0 and 1, at least one 1 per row.

    Returns:
        torch.Tensor: [B, d].
    """
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def encode_texts(texts, encoder, cache, batch_size, max_length, show_progress=True):
    """Vectors of texts, from the cache where it has them; equal texts are encoded once.

    Args:
        texts (Sequence[str]): [n].
        encoder (TextEncoder): the network.
        cache (Cache): where vectors are kept, by the text and the model.
        batch_size (int): texts per step.
        max_length (int): tokens of a text that are read.
        show_progress (bool): show a bar.

    Returns:
        numpy.ndarray: float32 [n, hidden size].
    """
    keys = {text: cache.key("text", encoder.identity, str(max_length), text) for text in texts}
    vectors = {text: cache.get(key) for text, key in keys.items()}
    todo = sorted((text for text, vector in vectors.items() if vector is None), key=lambda text: (len(text), text))
    cached = len(keys) - len(todo)
    with tqdm(total=len(keys), initial=cached, desc="texts", unit="text", disable=not show_progress) as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]  # of similar length, so that little is padding
            found = dict(zip(batch, (row.tobytes() for row in encoder.encode(batch))))
            cache.put({keys[text]: vector for text, vector in found.items()})
            vectors.update(found)
            bar.update(len(batch))
    return np.stack([np.frombuffer(vectors[text], dtype=np.float32) for text in texts])


# ------------------------------------------------------------------------------------------- reduction


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


# ------------------------------------------------------------------------------------------- all of it


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
        output (str or Path, optional): file to write, by default ``<data_path>/<dataset>/<dataset>.features.npz``.
        cache (str or Path, optional): SQLite file, by default ``<output>.cache``.
        show_progress (bool): show bars.

    Returns:
        dict: ``file``; counts of ``items``, of them ``without_text`` (left out), with ``images``; ``extra_images``;
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
    output = Path(output) if output else features_file(data_path, dataset)
    item_field = dataset_properties(dataset).get("ITEM_ID_FIELD", "item_id")
    texts, columns = read_item_texts(folder / f"{dataset}.item", item_field, columns)
    images, extra = find_images(folder / "images", texts)
    if not columns and not images:
        raise UsageError(
            f"'{folder}' has neither a column {' or '.join(DEFAULT_COLUMNS)} in {dataset}.item nor images/: name other "
            f"columns with --columns="
        )
    encoder = TextEncoder(text_model, device, max_length)
    if dims > encoder.width:
        raise UsageError(f"--dims={dims} is more than the {encoder.width} values of --text_model '{text_model}'")
    labeler = ImageLabeler(image_weights, device) if images else None
    store = Cache(Path(cache) if cache else output.with_name(output.name + ".cache"))
    try:
        labels, unreadable = label_images(images, labeler, store, batch_size, show_progress) if images else ({}, {})
        joined = {item: f"{text} {labels.get(item, '')}".strip() for item, text in texts.items()}
        described = {item: text for item, text in joined.items() if text}
        _check_dims(dims, len(described), output)
        vectors = encode_texts(list(described.values()), encoder, store, batch_size, max_length, show_progress)
    except sqlite3.Error as error:
        raise UsageError(f"cache '{store.path}' cannot be used ({error}): delete it or name another --cache") from None
    finally:
        store.close()
    vectors, explained = reduce_by_pca(vectors, dims) if dims else (vectors, 1.0)
    report = {
        "file": str(output),
        "items": len(texts),
        "without_text": len(texts) - len(described),
        "images": len(labels),
        "extra_images": extra,
        "unreadable_images": {str(path): reason for path, reason in unreadable.items()},
        "dims": vectors.shape[1],
        "explained_variance": round(explained, 4),
    }
    made_by = {
        "made_by": f"recbole_diffusion {recbole_diffusion.__version__}",
        "dataset": dataset,
        "columns": columns,
        "text_model": {"name": Path(text_model).name, "identity": encoder.identity, "max_length": max_length},
        "image_weights": labeler.identity if labeler else None,
        **{key: report[key] for key in ("items", "without_text", "images", "dims", "explained_variance")},
    }
    save_item_features(output, described, vectors, made_by)
    return report


def _check_dims(dims, items, output):
    if items < 2 or dims >= items:
        raise UsageError(
            f"'{output}' cannot be made: {items} item(s) have a text, --dims={dims} needs more than {max(dims, 1)}"
        )


# ------------------------------------------------------------------------------------------- command line


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion features`` to an argparse parser."""
    parser.add_argument("--dataset", required=True, help="name of the data set, e.g. games-session")
    parser.add_argument("--data_path", default="dataset", help="folder of the data sets (default: dataset)")
    parser.add_argument(
        "--columns", help="columns of the item file, joined by commas (default: title,brand where they exist)"
    )
    parser.add_argument(
        "--text_model",
        default=DEFAULT_TEXT_MODEL,
        help=f"folder or Hugging Face name of a BERT-family encoder (default: {DEFAULT_TEXT_MODEL})",
    )
    parser.add_argument("--image_weights", help="state dict of GoogLeNet (default: torchvision's own download)")
    parser.add_argument("--dims", type=int, default=100, help="values per item after PCA, 0: no PCA (default: 100)")
    parser.add_argument("--max_length", type=int, default=128, help="tokens read of a text (default: 128)")
    parser.add_argument("--batch_size", type=int, default=32, help="texts or images per step (default: 32)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--output", help="file to write (default: DATA_PATH/NAME/NAME.features.npz)")
    parser.add_argument("--cache", help="file of finished work (default: the output's name and .cache)")


def main(args):
    """Run ``recbole-diffusion features`` with parsed arguments; returns the exit code 0, raises UsageError."""
    columns = [name.strip() for name in args.columns.split(",") if name.strip()] if args.columns is not None else None
    report = build_features(
        args.dataset, args.data_path, columns, args.text_model, args.image_weights, args.dims, args.max_length,
        args.batch_size, args.device, args.output, args.cache,
    )  # fmt: skip
    unreadable = report.pop("unreadable_images")
    for path, reason in unreadable.items():
        print(f"skipped: '{path}' is no readable image ({reason})")
    for key, value in {**report, "unreadable_images": len(unreadable)}.items():
        print(f"{key}: {value}")
    return 0
