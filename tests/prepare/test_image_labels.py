"""Labels of images: drawn on the spot, damaged, of other items, and weights that do not fit."""

from pathlib import Path

import pytest
import torch
from feature_inputs import build, draw, needs_images, refused, vectors_of

from recbole_diffusion.cli import main
from recbole_diffusion.prepare.image_labels import ImageLabeler, find_images


@needs_images
def test_labels_join_the_text(shop, text_model, image_weights, encoded):
    draw(shop / "images" / "i1.jpg", "red")
    draw(shop / "images" / "i5.png", "blue")
    draw(shop / "images" / "unknown.png", "green")
    (shop / "images" / "i2.jpg").write_bytes(b"no image")
    report = build(text_model, image_weights=image_weights, batch_size=4)
    assert (report["images"], report["extra_images"], report["without_text"]) == (2, 1, 0)
    assert list(report["unreadable_images"]) == [str(Path("dataset") / "shop" / "images" / "i2.jpg")]
    texts = sum(encoded, [])
    labeler = ImageLabeler(image_weights, torch.device("cpu"))
    labels = labeler.label(torch.stack([labeler.load(shop / "images" / name) for name in ("i1.jpg", "i5.png")]))
    assert all(len(pair) == 2 for pair in labels)
    assert f"red nail polish Shine {' '.join(labels[0])}" in texts
    assert " ".join(labels[1]) in texts, "an item without a title has its labels"
    assert "blue nail polish Shine" in texts


@needs_images
def test_labels_are_the_two_likeliest(image_weights, shop):
    from torchvision.models import GoogLeNet_Weights, googlenet

    draw(shop / "images" / "i1.jpg", "yellow")
    labeler = ImageLabeler(image_weights, torch.device("cpu"))
    network = googlenet(weights=None, init_weights=False, aux_logits=False, transform_input=True).eval()
    network.load_state_dict(torch.load(image_weights, weights_only=True))
    image = labeler.load(shop / "images" / "i1.jpg")
    with torch.no_grad():
        order = network(image[None])[0].argsort(descending=True)[:2]
    assert labeler.label(image[None]) == [[GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"][i] for i in order]]


@needs_images
def test_images_are_labelled_once_unless_their_bytes_change(shop, text_model, image_weights, monkeypatch):
    labelled, label = [], ImageLabeler.label
    monkeypatch.setattr(ImageLabeler, "label", lambda self, images: labelled.append(len(images)) or label(self, images))
    for item in ("i1", "i2", "i3"):
        draw(shop / "images" / f"{item}.png", "red", size=(64, 48 + int(item[1])))
    build(text_model, image_weights=image_weights, batch_size=2)
    assert labelled == [2, 1]
    build(text_model, image_weights=image_weights)
    assert labelled == [2, 1]
    draw(shop / "images" / "i2.png", "blue")
    build(text_model, image_weights=image_weights)
    assert labelled == [2, 1, 1]


@needs_images
def test_images_alone_are_enough(shop, text_model, image_weights):
    (shop / "shop.item").write_text("item_id:token\ni1\ni2\ni3\n")
    for item, colour in (("i1", "red"), ("i2", "blue"), ("i3", "black")):
        draw(shop / "images" / f"{item}.png", colour)
    report = build(text_model, image_weights=image_weights, dims=1)
    assert report["images"] == 3 and report["without_text"] == 0


@needs_images
def test_vectors_of_images_and_of_their_labels(shop, text_model, image_weights, encoded, monkeypatch):
    """What GoogLeNet's last layer reads, and the labels without the titles; each kind in the file that models look for."""
    for item, colour in (("i1", "red"), ("i2", "blue"), ("i3", "black")):
        draw(shop / "images" / f"{item}.png", colour)
    report = build(text_model="absent", image_weights=image_weights, dims=0, of="images")
    assert report["file"] == str(Path("dataset") / "shop" / "shop.images.features.npz")
    assert (report["images"], report["without_text"], report["dims"]) == (3, 2, 1024)
    vectors = vectors_of(report["file"], ["i1", "i2"])
    labeler = ImageLabeler(image_weights, torch.device("cpu"))
    images = torch.stack([labeler.load(shop / "images" / f"{item}.png") for item in ("i1", "i2")])
    with torch.no_grad():
        torch.testing.assert_close(labeler._network.fc(vectors), labeler._network(images))
    monkeypatch.setattr(ImageLabeler, "encode", None)
    assert build("absent", image_weights=image_weights, of="images")["dims"] == 2  # all from the cache

    report = build(text_model, image_weights=image_weights, of="labels")
    assert report["file"] == str(Path("dataset") / "shop" / "shop.pseudo_text.features.npz")
    assert (report["images"], report["without_text"]) == (3, 2)
    labels = [" ".join(found) for found in labeler.label(images)]
    assert set(labels) <= set(sum(encoded, [])) and not any("polish" in text for text in sum(encoded, []))


def test_refusals_of_what_vectors_are_of(shop, capsys):
    assert "--of must be one of text, images, labels, got 'image', did you mean 'images'?" in refused(capsys, "--of=image")
    for of in ("images", "labels"):
        assert "holds no image of an item, such as ITEM.jpg" in refused(capsys, f"--of={of}")


@needs_images
def test_all_kinds_of_image_files_and_damages(shop, image_weights):
    from PIL import Image

    labeler = ImageLabeler(image_weights, torch.device("cpu"))
    folder = shop / "images"
    folder.mkdir()
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA"), ("palette.png", "P"), ("print.jpg", "CMYK")):
        Image.new(mode, (30, 300)).save(folder / name)
        assert labeler.load(folder / name).shape == (3, 224, 224)
    draw(folder / "cut.png", "red", size=(300, 300))
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    for name in ("cut.png", "empty.jpg"):
        with pytest.raises(ValueError):
            labeler.load(folder / name)


def test_images_of_items(tmp_path):
    for name in ("b.png", "b.jpg", "a.PNG", "a.txt", "c.gif", "other.jpg"):
        (tmp_path / name).touch()
    found, extra = find_images(tmp_path, ["a", "b", "c"])
    assert {item: path.name for item, path in found.items()} == {"a": "a.PNG", "b": "b.jpg"} and extra == 1
    assert find_images(tmp_path / "nothing", ["a"]) == ({}, 0)


@needs_images
def test_command_reports_unreadable_images(shop, text_model, image_weights, capsys):
    draw(shop / "images" / "i1.jpg", "red")
    (shop / "images" / "i2.jpg").write_bytes(b"no image")
    words = ["--dataset=shop", f"--text_model={text_model}", "--dims=2", f"--image_weights={image_weights}"]
    assert main(["features", *words]) == 0
    out = capsys.readouterr().out
    assert "i2.jpg' is no readable image" in out and "unreadable_images: 1" in out and "images: 1" in out


@needs_images
def test_refusals_of_image_weights(shop, text_model, tmp_path, capsys, monkeypatch):
    from urllib.error import URLError

    from torchvision.models import _api

    draw(shop / "images" / "i1.jpg", "red")
    words = [f"--text_model={text_model}", "--dims=2"]
    assert "'none.pth' does not exist" in refused(capsys, *words, "--image_weights=none.pth")
    Path("text.pth").write_text("no weights")
    torch.save({"fc.weight": torch.zeros(2)}, "other.pth")
    for name in ("text.pth", "other.pth"):
        assert f"'{name}' is no state dict" in refused(capsys, *words, f"--image_weights={name}")

    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(_api, "load_state_dict_from_url", no_network)
    text = refused(capsys, *words)
    assert "https://download.pytorch.org/models/googlenet-1378be20.pth" in text and "--image_weights" in text
    assert str(Path("checkpoints") / "googlenet-1378be20.pth") in text
