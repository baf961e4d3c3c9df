"""What a run depends on, and data that are prepared once."""

import os
from pathlib import Path

import pytest

from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.experiments import fingerprint as fingerprints
from recbole_diffusion.quick_start import prepare_data, run
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, write_sequences


@pytest.fixture
def data(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path / "data", "cycle")


def config_of(data, **settings):
    return DiffusionConfig("SimDiffRec", "cycle", config_dict={"data_path": str(data), **settings})


def test_a_fingerprint_changes_with_settings_data_and_code_only(data, tmp_path, monkeypatch):
    first = fingerprints.fingerprint(config_of(data))
    moved = write_sequences(cycle_sequences(), tmp_path / "elsewhere", "cycle")
    os.utime(tmp_path / "elsewhere" / "cycle" / "cycle.inter", (1, 1))
    assert fingerprints.fingerprint(config_of(moved, checkpoint_dir="x", ranks_file="y")) == first

    other = fingerprints.fingerprint(config_of(data, tau=0.5))
    assert other["settings"] != first["settings"] and other["data"] == first["data"] and other["all"] != first["all"]
    file = Path(data) / "cycle" / "cycle.inter"
    content, state = file.read_text(), file.stat()
    file.write_text(content.replace("\t0\n", "\t1\n", 1))
    changed = fingerprints.fingerprint(config_of(data))
    assert changed["data"] != first["data"] and changed["settings"] == first["settings"]
    assert file.stat().st_size == state.st_size

    monkeypatch.setattr(fingerprints, "source_hash", lambda path: "edited" if path.name == "simdiffrec.py" else "")
    assert fingerprints.fingerprint(config_of(moved))["code"] != first["code"]


def test_code_that_cannot_change_a_number_does_not_count():
    names = {path.relative_to(fingerprints.PACKAGE).as_posix() for path in fingerprints.package_sources()}
    assert {"training/trainer.py", "quick_start.py", "model/simdiffrec.py", "data/loaders.py"} <= names
    shown_only = {"api", "atlas", "augment", "commands", "experiments", "prepare", "reports", "serving", "testing"}
    rooms = {path.name for path in fingerprints.PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {name.split("/")[0] for name in names if "/" in name} == rooms - shown_only
    assert not {"cli.py", "doctor.py", "__main__.py"} & names
    assert all((fingerprints.PACKAGE / name).exists() for name in fingerprints.CANNOT_CHANGE_A_NUMBER)


def test_the_file_of_an_external_model_counts(data, tmp_path, monkeypatch):
    file = tmp_path / "third.py"
    file.write_text("one")
    config = config_of(data)
    before = fingerprints.code_hash(config)
    monkeypatch.setattr(fingerprints.inspect, "getfile", lambda cls: str(file))
    assert fingerprints.code_hash(config) != before


def test_files_beside_the_data_that_a_model_looks_for_count(data):
    folder = Path(data) / "cycle"
    beside = ["cycle.features.npz", "cycle.images.features.npz", "cycle.pseudo_text.features.npz", "cycle.item"]
    for name in (*beside, "cycle.other.npz"):
        (folder / name).write_bytes(b"one")

    def found(model, **settings):
        config = DiffusionConfig(model, "cycle", config_dict={"data_path": str(data), **settings})
        return {*fingerprints.data_files(config)} - {"cycle.inter"}

    assert found("MMSBR") == set(beside)
    assert found("MMSBR", price_column="none", image_features="none") == {beside[0], beside[2]}
    assert found("DIMO") == {beside[0]} and found("AttenMixer") == set()
    (folder / "cycle.item").rename(folder / "cycle.item.parquet")
    assert found("MMSBR") == {*beside[:3], "cycle.item.parquet"}


def test_a_file_that_a_setting_names_counts(data):
    write = (Path(data) / "cycle" / "features.npy").write_bytes
    write(b"one")
    config = config_of(data, features="features.npy", allow_unknown_keys=True)
    first = fingerprints.data_hash(config)
    write(b"other")
    assert fingerprints.data_hash(config) != first


# Data that are prepared once


def same_results(first, second):
    keys = ("test_result_masked", "test_result_unmasked", "best_valid_result", "history", "dataset_counts")
    return all(first[key] == second[key] for key in keys)


@pytest.mark.parametrize("model", ["SimDiffRec", "SASRec", "BERT4Rec"])
def test_prepared_data_give_the_same_results(data, tmp_path, model):
    settings = {"data_path": data, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10, "topk": [1, 5], "valid_metric": "MRR@5",
                "train_batch_size": 16, "checkpoint_dir": str(tmp_path), "use_gpu": False,
                "show_progress": False}  # fmt: skip
    settings.update({"hidden_size": 8, "k_noise": 3, "inner_size": 8, "allow_unknown_keys": True})
    cache = DataCache()
    run("SASRec", "cycle", config_dict={**settings, "seed": 7}, data_cache=cache)
    run("SimDiffRec", "cycle", config_dict={**settings, "seed": 7}, data_cache=cache)
    hits = cache.hits
    plain = run(model, "cycle", config_dict=settings)
    cached = [run(model, "cycle", config_dict=settings, data_cache=cache) for _ in range(2)]
    assert same_results(plain, cached[0]) and same_results(plain, cached[1])
    assert cache.hits > hits


def data_of(cache, data, model, **settings):
    settings = {"data_path": str(data), "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 16, **settings}
    return cache.get(DiffusionConfig(model, "cycle", config_dict=settings), prepare_data)


def test_models_that_ask_the_same_of_data_share_them(data):
    cache = DataCache()
    for model in ("SimDiffRec", "CaDiRec", "DreamRec"):
        data_of(cache, data, model, train_view="prefix", train_batch_size=16)
    assert cache.hits == 2
    data_of(cache, data, "DuoRec", train_view="prefix", train_batch_size=16)  # wants to know which example a row is
    assert cache.hits == 2


def test_a_model_that_sees_test_labels_never_gets_data_of_one_that_does_not(data):
    cache = DataCache()
    for source, leaks in (("train", False), ("all", True), ("train", False)):
        parts = data_of(cache, data, "DiffSBR", fusion="none", graph_folds=0, graph_source=source)[2]
        assert hasattr(parts[0], "evaluation_parts") == leaks
    assert cache.hits == 1


def prepared(cache, data, **settings):
    made = []

    def make(config):
        made.append(config["MAX_ITEM_LIST_LENGTH"])
        return type("Data", (), {"inter_feat": None})(), {"users": 1}, []

    cache.get(config_of(data, **settings), make)
    return bool(made)


def test_data_are_made_again_when_what_was_read_changes(data):
    cache = DataCache(size=2)
    assert prepared(cache, data)
    assert not prepared(cache, data, seed=9, tau=0.5, epochs=3)
    assert prepared(cache, data, MAX_ITEM_LIST_LENGTH=7)
    assert not prepared(cache, data) and not prepared(cache, data, MAX_ITEM_LIST_LENGTH=7)
    os.utime(Path(data) / "cycle" / "cycle.inter", (1, 1))
    assert prepared(cache, data)
    assert prepared(cache, data, MAX_ITEM_LIST_LENGTH=8)
    assert prepared(cache, data, MAX_ITEM_LIST_LENGTH=7)  # the oldest of three had to go
