"""Ready-made splits: two parts, wrong parts, other names of the item field, histories separated otherwise."""

import pytest
from session_files import SPLIT, TRAIN, write_split

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.quick_start import validate
from recbole_diffusion.testing import make_config

SMALL = {**SPLIT, "topk": [2], "valid_metric": "MRR@2", "epochs": 2}
FEW = {"SimDiffRec": {"k_noise": 3, "k_sample": 3}}  # items


@pytest.fixture
def folder(tmp_path):
    return write_split(tmp_path, TRAIN * 2, [[1, 4, 6]], [[2, 5, 1], [3, 6, 2]])


def settings_of(model, folder, **more):
    return make_config(model, folder, "shop", **{**SMALL, **FEW.get(model, {}), **more}).external_config_dict


@pytest.mark.parametrize("model", ["SASRec", "SKNN", "SimDiffRec"])
def test_two_parts_train_without_validation(folder, model, caplog):
    result = run(model, "shop", config_dict=settings_of(model, folder, benchmark_filename=["train", "test"]))
    assert result["best_epoch"] == 1 and result["best_valid_score"] is None and result["best_valid_result"] == {}
    assert "no validation: trained on 'train', tested on 'test' after the last epoch" in caplog.text
    _, _, data, train, valid, test = load_data_and_model(result["checkpoint"])
    assert (len(train._dataset), valid, len(test._dataset)) == (12, None, 2)
    tokens = data.id2token("item_id", test._dataset.inter_feat["item_id"].numpy())
    assert sorted(tokens.tolist()) == ["1", "2"]


def test_a_graph_of_all_parts_takes_two(folder):
    settings = {"graph_source": "all", "k_neighbors": 2, "hidden_size": 8, "diffusion_steps": 4, "corruption_steps": 4}
    two = settings_of("DiffSBR", folder, benchmark_filename=["train", "test"], **settings)
    assert run("DiffSBR", "shop", config_dict=two)["leaks_test_labels"] is True


def test_without_validation_there_is_nothing_to_choose_by(folder):
    with pytest.raises(UsageError, match="has no validation part to choose by"):
        validate("SASRec", "shop", config_dict=settings_of("SASRec", folder, benchmark_filename=["train", "test"]))


@pytest.mark.parametrize(
    "parts, expected",
    [
        (["train"], r"must name \[training, validation, test\] or \[training, test\], got \['train'\]"),
        ([], "must name"),
        (["train", "test", "test"], "must name"),
        (["train", "valdi", "test"], "file 'shop.valdi.inter' of dataset 'shop' not found in .* which has shop.test.inter"),
    ],
)
def test_other_parts_are_refused(folder, parts, expected):
    with pytest.raises(UsageError, match=expected):
        create_dataset(make_config("SKNN", folder, "shop", **{**SMALL, "benchmark_filename": parts}))


def test_four_parts_are_refused(folder, tmp_path):
    (tmp_path / "shop" / "shop.more.inter").write_text((tmp_path / "shop" / "shop.test.inter").read_text())
    with pytest.raises(UsageError, match="must name"):
        create_dataset(make_config("SKNN", folder, "shop", **{**SMALL, "benchmark_filename": ["train", "valid", "test", "more"]}))


def rewrite(folder, tmp_path, change):
    for file in (tmp_path / "shop").iterdir():
        file.write_text(change(file.read_text()))
    return folder


@pytest.mark.parametrize("model", ["SASRec", "SKNN", "SimDiffRec"])
def test_items_by_another_name(folder, tmp_path, model):
    rewrite(folder, tmp_path, lambda text: text.replace("item_id", "venue_id"))
    named = {"ITEM_ID_FIELD": "venue_id", "load_col": {"inter": ["session_id", "venue_id_list", "venue_id"]}}
    found = run(model, "shop", config_dict=settings_of(model, folder, **named))
    assert 0 <= found["test_result"]["mrr@2"] <= 1


def test_histories_by_a_name_that_is_not_the_items_are_refused(folder, tmp_path):
    rewrite(folder, tmp_path, lambda text: text.replace("item_id:token", "venue_id:token"))
    named = {"load_col": {"inter": ["session_id", "item_id_list", "venue_id"]}, "alias_of_item_id": ["item_id_list"]}
    with pytest.raises(UsageError, match="ready-made splits need the column 'venue_id_list', loaded are session_id, item_id"):
        create_dataset(make_config("SKNN", folder, "shop", **{**SMALL, **named, "ITEM_ID_FIELD": "venue_id"}))


@pytest.mark.parametrize("separator", [",", "|", ";", "::", "."])
def test_histories_with_another_separator(folder, tmp_path, separator):
    plain = build_loaders(*both(folder))
    rewrite(folder, tmp_path, lambda text: text.replace(" ", separator))
    other = build_loaders(*both(folder, seq_separator=separator))
    for mine, wanted in zip(other, plain):
        assert mine._dataset[[0]]["item_id_list"].tolist() == wanted._dataset[[0]]["item_id_list"].tolist()


def both(folder, **more):
    config = make_config("SKNN", folder, "shop", **{**SMALL, **more})
    return config, create_dataset(config)


@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_histories_whose_separator_was_not_told_are_refused(tmp_path, form):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])

    def change(text):
        rows = [line.split("\t") for line in text.splitlines()]
        for row in rows[1:]:
            row[1] = form.format(row[1].replace(" ", ",") + ",3")
        return "\n".join("\t".join(row) for row in rows) + "\n"

    rewrite(folder, tmp_path, change)
    with pytest.raises(UsageError, match=r"no item of the histories, such as '.*', is a target: set seq_separator \(now ' '\)"):
        both(folder)
