"""Features from texts: a real small network, the cache, PCA, and every refusal."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_inputs import ITEM_FILE, TITLES, build, refused, vectors_of

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare import optional_libraries
from recbole_diffusion.prepare.extract import read_item_texts, reduce_by_pca
from recbole_diffusion.prepare.result_cache import Cache
from recbole_diffusion.prepare.text_vectors import TextEncoder, mean_of_real_tokens

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


# ------------------------------------------------------------------------------------------- command and refusals


def test_command(shop, text_model, capsys):
    words = ["features", "--dataset=shop", f"--text_model={text_model}", "--dims=2", "--columns=title, category"]
    assert main([*words, "--device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "items: 5" in out and "without_text: 0" in out and "unreadable_images: 0" in out
    assert vectors_of(shop / "shop.features.npz", ["i5"]).shape == (1, 2)


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


def test_missing_and_broken_libraries(shop, capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(optional_libraries.importlib.util, "find_spec", lambda name: None)
    assert "transformers is not installed, run: pip install transformers torchvision pillow" in refused(capsys)
    monkeypatch.undo()

    real = optional_libraries.importlib.import_module

    def broken(name):
        if name.startswith("recbole_diffusion"):
            return real(name)
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.chdir(shop.parents[1])
    monkeypatch.setattr(optional_libraries.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(optional_libraries.importlib, "import_module", broken)
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
