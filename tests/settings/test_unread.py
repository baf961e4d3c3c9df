"""Settings of RecBole's that nothing reads: refused, with what works."""

import pytest

from recbole_diffusion import run
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import properties_dir

TOY = str(properties_dir().parent / "dataset")


def config(model="SimDiffRec", files=None, **settings):
    return DiffusionConfig(model, "toy", files, {"data_path": TOY, **settings})


@pytest.mark.parametrize(
    "key, value, instead",
    [
        ("config_file", "a.yaml", "config files are named by --config_files"),
        ("require_pow", True, "weight_decay"),
        ("POSITION_FIELD", "place", "by themselves"),
        ("RATING_FIELD", "stars", "val_interval"),
        ("offset", 2, "group_offset"),
        ("nproc", 2, "command line"),
        ("port", 5678, "command line"),
        ("single_spec", False, "torchrun"),
        ("ENTITY_ID_FIELD", "thing", "no knowledge graph"),
        ("kg_reverse_r", True, "no knowledge graph"),
    ],
)
def test_what_nothing_reads_is_refused(key, value, instead):
    with pytest.raises(UsageError, match=f"{key} would do nothing, .*{instead}"):
        config(**{key: value})


def test_a_default_that_is_written_out_is_no_error():
    found = config(RATING_FIELD="rating", POSITION_FIELD="position_id", ENTITY_ID_FIELD="entity_id")
    assert found["RATING_FIELD"] == "rating"


@pytest.mark.parametrize("key", ["cin", "has_residual", "norm", "shrink", "xgb_early_stopping_rounds"])
def test_keys_of_models_that_are_not_sequential_are_unknown(key):
    with pytest.raises(UsageError, match=f"unknown key '{key}'"):
        config("SASRec", **{key: 1})


def test_models_of_knowledge_graphs_keep_their_keys():
    assert config("KSR", ENTITY_ID_FIELD="thing")["ENTITY_ID_FIELD"] == "thing"


def test_config_files_among_the_settings_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("tau: 0.3\nbeta: 0.4\n")
    (tmp_path / "b.yaml").write_text("tau: 0.2\n")
    for names in ("a.yaml b.yaml", ["a.yaml", "b.yaml"]):
        found = config(config_files=names, beta=0.1)
        assert (found["tau"], found["beta"]) == (0.2, 0.1)


def test_a_config_file_names_no_others(tmp_path):
    (tmp_path / "a.yaml").write_text("config_files: b.yaml\n")
    with pytest.raises(UsageError, match="'a.yaml' names others with config_files, which nothing reads"):
        config(files=["a.yaml"])
    with pytest.raises(UsageError, match="config file 'nowhere.yaml' does not exist"):
        run("SimDiffRec", "toy", config_dict={"config_files": "nowhere.yaml"})
