"""Recommendations from a checkpoint alone: right items, any history, every refusal."""

import os

import numpy as np
import pytest
import torch
from models import CONTRACTS

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.devices import usable_device
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences

SMALL = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "epochs": 2, "MAX_ITEM_LIST_LENGTH": 6}
SMALL.update(train_batch_size=32, topk=[1, 5], valid_metric="MRR@5", show_progress=False, allow_unknown_keys=True)
RECOMMENDING = [*CONTRACTS, "SASRec", "GRU4Rec", "CORE", "SINE"]


@pytest.mark.parametrize("model", RECOMMENDING)
def test_scores_are_those_of_the_loaded_model(checkpoint, trained_data, model):
    path = checkpoint(model)
    config, network, data, _, _, test = load_data_and_model(path, data_path=str(trained_data(model)))
    batch = next(iter(test))[0]
    with torch.no_grad():
        scores = network.full_sort_predict(batch).view(len(batch), -1)
    scores[:, 0] = -torch.inf
    best, items = scores.topk(4)
    histories = [
        list(data.id2token("item_id", row[:n])) for row, n in zip(batch["item_id_list"], batch["item_length"])
    ]
    found = Recommender.load(path).recommend(histories, k=4, batch_size=7)
    assert [[token for token, _ in row] for row in found] == data.id2token("item_id", items).tolist()
    assert torch.tensor([[score for _, score in row] for row in found]).numpy() == pytest.approx(best.numpy(), abs=1e-5)


def test_sessions_without_features_and_from_leaking_graphs(tmp_path):
    where = {"data_path": write_sequences(cycle_sequences(), tmp_path, "cycle"), "checkpoint_dir": str(tmp_path / "saved")}
    settings = {**SMALL, **CONTRACTS["DiffSBR"].small(), **where}
    plain = Recommender.load(run("DiffSBR", "cycle", config_dict=settings)["checkpoint"])
    assert plain.network.fusion == "none" and len(plain.recommend([["i1", "i2"]], k=3)[0]) == 3
    leaking = run("DiffSBR", "cycle", config_dict={**settings, "graph_source": "all"})["checkpoint"]
    with pytest.raises(UsageError, match="DiffSBR needs 'evaluation_parts' of its data set"):
        Recommender.load(leaking)


def test_a_trained_model_continues_histories_of_new_users(recommender):
    for start in (1, 5, 12):
        history = [f"i{(start + step - 1) % 12 + 1}" for step in range(3)]
        following = f"i{(start + 2) % 12 + 1}"
        assert recommender.recommend([history], k=1)[0][0][0] == following


@pytest.mark.parametrize("model", RECOMMENDING)
def test_scores_repeat_and_do_not_depend_on_the_batch(checkpoint, model):
    recommender = Recommender.load(checkpoint(model))
    histories = [["i1"], ["i2", "i3", "i4"], ["i5"] * 13, [], ["i7", "i8"]]
    together = recommender.recommend(histories, k=12)
    assert together == recommender.recommend(histories, k=12)
    alone = [recommender.recommend([history], k=12)[0] for history in histories]
    backwards = recommender.recommend(histories[::-1], k=12, batch_size=2)[::-1]
    for row, *others in zip(together, alone, backwards):
        assert len(row) == 12 and {token for token, _ in row} == {f"i{n}" for n in range(1, 13)}  # all but padding
        for other in others:
            assert dict(other) == pytest.approx(dict(row), abs=1e-5)


def test_only_the_latest_known_items_count(recommender):
    latest = ["i3", "i4", "i5", "i6", "i7", "i8"]
    found = recommender.recommend([latest, ["i1", "i9"] * 300 + latest, ["i9", *latest[:2], "nobody", *latest[2:]]])
    assert found[0] == found[1] == found[2]
    assert [row.unknown for row in found] == [[], [], ["nobody"]]


def test_unknown_items_can_be_an_error(recommender):
    with pytest.raises(UsageError, match="history 3: unknown item 'x'"):
        recommender.recommend([["i1"], ["i2"], ["i3"], ["i4", "x"]], unknown="error", batch_size=2)


def test_padding_is_no_item(recommender):
    ranking = recommender.recommend([["[PAD]", "i1"]], k=12)[0]
    assert ranking.unknown == ["[PAD]"] and "[PAD]" not in dict(ranking)


def test_seen_items_are_left_out_of_the_whole_history(recommender):
    history = [f"i{n}" for n in range(1, 11)]  # longer than what the model sees
    ranking = recommender.recommend([history, ["i1"]], k=5, exclude_seen=True)
    assert {token for token, _ in ranking[0]} == {"i11", "i12"}  # all that is left
    assert len(ranking[1]) == 5 and "i1" not in dict(ranking[1])


def test_histories_without_known_items_get_the_popular_ones_of_the_training_part(tmp_path):
    sequences = [[1, 2, 3, 4, 4]] * 4 + [[1, 2, 5, 5, 6]] * 3  # of each, the last two are held out
    folder = write_sequences(sequences, tmp_path, "cycle")
    for view in ("sequence", "prefix"):
        settings = {**SMALL, "topk": [5], "alpha": 0, "beta": 0, "train_view": view, "epochs": 1, "data_path": folder}
        recommender = Recommender.load(run("SimDiffRec", "cycle", config_dict=settings)["checkpoint"])
        empty, lost = recommender.recommend([[], ["nobody"]], k=6)
        assert empty == lost == [("i1", 7), ("i2", 7), ("i3", 4), ("i5", 3), ("i4", 0), ("i6", 0)]
        assert empty.source == lost.source == "popularity" and lost.unknown == ["nobody"]


def test_popularity_of_ready_made_histories_and_of_recboles_data_sets_counts_targets(tmp_path):
    from recbole_diffusion.data.dataset import training_item_counts

    folder = tmp_path / "parts"
    folder.mkdir()
    parts = ["train", "valid", "test"]
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    for part in parts:
        (folder / f"parts.{part}.inter").write_text(header + "u\ta b\tc\nu\ta b c\td\n")
    config = make_config("SimDiffRec", tmp_path, "parts", alpha=0, beta=0, benchmark_filename=parts)
    data = create_dataset(config)
    counts = training_item_counts(build_loaders(config, data)[0]._dataset)
    assert {str(t): int(n) for t, n in zip(data.field2id_token["item_id"], counts) if n} == {"c": 1, "d": 1}


def test_a_checkpoint_without_counts_refuses_empty_histories_only(checkpoint, tmp_path):
    old = torch.load(checkpoint("SimDiffRec"), weights_only=True)
    del old["item_counts"]
    torch.save(old, tmp_path / "old.pth")
    recommender = Recommender.load(str(tmp_path / "old.pth"))
    assert recommender.recommend([["i1"]], k=1)
    with pytest.raises(UsageError, match="item_counts, which the checkpoint lacks"):
        recommender.recommend([[]])


def test_sampling_steps_can_be_changed_at_load(checkpoint):
    full, one = (Recommender.load(checkpoint("DiffuRec"), **more) for more in ({"sampling_steps": 4}, {"sampling_steps": 1}))
    assert len(full.network.chain.timesteps) == 4 and one.network.chain.timesteps == [0]
    assert full.recommend([["i1", "i2"]], k=12) != one.recommend([["i1", "i2"]], k=12)
    with pytest.raises(UsageError, match="SimDiffRec has no sampling_steps"):
        Recommender.load(checkpoint("SimDiffRec"), sampling_steps=1)
    with pytest.raises(UsageError, match="sampling_steps 5000 is larger than diffusion_steps"):
        Recommender.load(checkpoint("DiffuRec"), sampling_steps=5000)
    with pytest.raises(UsageError, match="DiffuRec has no hidden_sizes"):
        Recommender.load(checkpoint("DiffuRec"), hidden_sizes=5)


@pytest.mark.parametrize(
    "request_, expected",
    [
        ({"k": 13}, "k 13 is larger than the number of items, 12"),
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"k": 2.5}, "k must be a whole number"),
        ({"k": True}, "k must be a whole number"),
        ({"k": np.float64(3)}, "k must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"unknown": "keep"}, "unknown must be one of drop, error, got 'keep'"),
    ],
)
def test_wrong_requests(recommender, request_, expected):
    with pytest.raises(UsageError, match=expected):
        recommender.recommend([["i1"]], **request_)


def test_histories_must_be_lists(recommender):
    for histories in (["i1", "i2"], [7]):
        with pytest.raises(UsageError, match="history 0 must be a list of item tokens"):
            recommender.recommend(histories)
    for histories in ([["i1"], {"items": ["i1"]}], [[], {"i1", "i2"}], [[], None], [[], np.array("i1")]):
        with pytest.raises(UsageError, match="history 1 must be a list of item tokens, got ."):
            recommender.recommend(histories)
    for histories in (None, 7, "i1", {"a": ["i1"]}, {("i1",)}):
        with pytest.raises(UsageError, match="histories must be a list of lists of item tokens, got ."):
            recommender.recommend(histories)


@pytest.mark.parametrize(
    "item", [["i1"], 2.5, None, True, b"i1", ("i1",), np.float32(1), np.zeros((9, 9)), torch.tensor(1)]
)
def test_items_must_be_text_or_whole_numbers(recommender, item):
    with pytest.raises(UsageError, match="history 1: an item must be text or a whole number, got .") as caught:
        recommender.recommend([["i1"], ["i2", item]])
    assert "\n" not in str(caught.value)


def test_histories_and_numbers_of_numpy_are_fine(recommender):
    expected = recommender.recommend([["i1", "i2"], ["i2", "i3"]], k=3, batch_size=1)
    histories = np.array([["i1", "i2"], ["i2", "i3"]])
    assert recommender.recommend(histories, k=np.int64(3), batch_size=np.int32(1)) == expected
    assert recommender.recommend((tuple(row) for row in histories), k=3) == recommender.recommend(histories, k=3)
    assert recommender.recommend([np.array([1, 2])], k=1)[0].unknown == ["1", "2"]


@pytest.mark.parametrize("model", ["Caser", "HGN", "TransRec", "FPMC", "SHAN", "FOSSIL", "NPE", "HRM"])
def test_models_with_a_vector_per_user_are_refused(model, tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    settings = {**SMALL, "epochs": 1, "data_path": folder, "embedding_size": 8, "train_neg_sample_args": None}
    settings["loss_type"] = "CE"
    if model in ("TransRec", "FPMC"):
        del settings["train_neg_sample_args"], settings["loss_type"]
    path = run(model, "cycle", config_dict=settings)["checkpoint"]
    with pytest.raises(UsageError, match=f"{model} learns something for every user"):
        Recommender.load(path)


def test_models_that_need_more_of_the_data_are_refused(checkpoint, tmp_path):
    foreign = torch.load(checkpoint("SASRec"), weights_only=True)
    foreign["config"].update(model="GRU4RecF", selected_features=["class"])
    torch.save(foreign, tmp_path / "features.pth")
    with pytest.raises(UsageError, match="GRU4RecF needs 'get_item_feature' of its data set"):
        Recommender.load(str(tmp_path / "features.pth"))


def test_a_diverged_model_is_refused(recommender):
    with torch.no_grad():
        recommender.network.recommender.LayerNorm.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match="scores are no numbers"):
        recommender.recommend([["i1"]])


@pytest.mark.parametrize(
    "name, reason",
    [
        ("meta", "Cannot copy out of meta tensor"),  # which computes shapes and no values
        ("mps", "MPS"),
        ("tpu", "PyTorch knows no device of that name"),
        ("cuda:x", "PyTorch knows no device of that name"),
        ("hpu", "hpu"),
    ],
)
def test_devices_that_do_not_work_are_refused_in_a_sentence(name, reason):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError) as caught:
        usable_device(name)
    message = str(caught.value)
    assert message.startswith(f"device '{name}' cannot be used: ") and reason in message
    assert len(message) < 160 and "\n" not in message


def test_loading_hides_no_gpu_from_the_process(checkpoint, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    Recommender.load(checkpoint("SimDiffRec"), device="cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


def test_checkpoints_that_do_not_fit_are_refused(checkpoint, tmp_path):
    good = torch.load(checkpoint("SimDiffRec"), weights_only=True)
    changes = {
        "other weights": {"state_dict": {}},
        "no weights": {"state_dict": None},
        "other items": {"item_tokens": good["item_tokens"][:-1]},
        "no items": {"item_tokens": None},
        "counts that are none": {"item_counts": good["item_counts"].tolist()},
        "counts of other items": {"item_counts": good["item_counts"][:-1]},
        "counts of something else": {"item_counts": good["item_counts"][None]},
        "no settings": {"config": None},
        "half the settings": {"config": {"model": "SimDiffRec"}},
        "no such model": {"config": {**good["config"], "model": "Nothing"}},
    }
    for name, change in changes.items():
        torch.save({**good, **change}, tmp_path / "bad.pth")
        with pytest.raises(UsageError) as caught:
            Recommender.load(str(tmp_path / "bad.pth"))
        assert "\n" not in str(caught.value), name


def test_nothing_is_logged_or_written_beside_the_output(checkpoint, tmp_path):
    Recommender.load(checkpoint("SimDiffRec")).recommend([["i1"]], k=1)
    assert list(tmp_path.iterdir()) == []
