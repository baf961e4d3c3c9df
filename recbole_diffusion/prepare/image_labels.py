"""What GoogLeNet sees in the images of items, as texts or as vectors. torchvision and pillow are imported when they are needed."""

import zlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from tqdm import tqdm

from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.prepare.optional_libraries import optional_library
from recbole_diffusion.prepare.result_cache import file_hash

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABELS_PER_IMAGE = 2
IMAGE_WIDTH = 1024  # of what GoogLeNet pools before it names an image


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
        self._pillow = optional_library("PIL.Image")
        models = optional_library("torchvision").models
        published = models.GoogLeNet_Weights.IMAGENET1K_V1
        self._labels = published.meta["categories"]
        self._transform = published.transforms()
        network = self._download(models, published) if weights is None else self._from_file(models, Path(weights))
        self._network = network.eval().to(device)
        self.identity = f"{published} {published.url}" if weights is None else file_hash(Path(weights))

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

    def encode(self, images):
        """What the network knows of images before it names them, float32 [B, 1024]; images: [B, 3, 224, 224]."""
        pooled = []
        hook = self._network.avgpool.register_forward_hook(lambda *called: pooled.append(called[-1]))
        with torch.inference_mode():
            self._network(images.to(self._device))
        hook.remove()
        return pooled[0].flatten(1).float().cpu().numpy()


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

    def compute(images):
        return [" ".join(labels).encode() for labels in labeler.label(images)]

    found, unreadable = _of_images(paths, labeler, str(LABELS_PER_IMAGE), compute, cache, batch_size, show_progress)
    return {item: labels.decode() for item, labels in found.items()}, unreadable


def encode_images(paths, labeler, cache, batch_size, show_progress=True):
    """Vectors of image files; the arguments are those of :func:`label_images`.

    Returns:
        tuple: {item: float32 [1024]}, and {path: reason} of the files that are no readable images.
    """

    def compute(images):
        return [vector.tobytes() for vector in labeler.encode(images)]

    found, unreadable = _of_images(paths, labeler, "vector", compute, cache, batch_size, show_progress)
    return {item: np.frombuffer(vector, dtype=np.float32) for item, vector in found.items()}, unreadable


def _of_images(paths, labeler, what, compute, cache, batch_size, show_progress):
    """What ``compute`` makes of batches of images, as bytes by item; ``what`` names it in the cache."""
    found, unreadable, batch = {}, {}, []
    bar = tqdm(paths.items(), desc="images", unit="image", disable=not show_progress)
    for item, path in bar:
        try:
            key = cache.key("image", what, labeler.identity, path.read_bytes())
            known = cache.get(key)
            if known is None:
                batch.append((item, key, labeler.load(path)))
            else:
                found[item] = known
        except (OSError, ValueError) as error:
            unreadable[path] = str(error)
        if len(batch) == batch_size:
            found.update(_compute_batch(batch, compute, cache))
            batch = []
    if batch:
        found.update(_compute_batch(batch, compute, cache))
    return found, unreadable


def _compute_batch(batch, compute, cache):
    items, keys, images = zip(*batch)
    results = compute(torch.stack(images))
    cache.put(dict(zip(keys, results)))
    return dict(zip(items, results))
