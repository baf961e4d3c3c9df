"""Recommendations from a checkpoint alone: right items, any history, files of any size, every refusal."""

import csv
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion import load_data_and_model, run
from recbole_diffusion.cli import dispatch, main
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.devices import usable_device
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommend import Recommender, read_histories, recommend_file
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences

SMALL = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "epochs": 2, "MAX_ITEM_LIST_LENGTH": 6}
SMALL.update(train_batch_size=32, topk=[1, 5], valid_metric="MRR@5", show_progress=False, allow_unknown_keys=True)
MODELS = {
    "SimDiffRec": {"k_noise": 3, "k_sample": 2, "epochs": 25, "learning_rate": 0.01},
    "DiffuRec": {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4, "eval_step": 1},
    "DiffuRecSys": {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4, "eval_step": 1},
    "SASRec": {"loss_type": "CE"},
    "GRU4Rec": {"loss_type": "CE", "embedding_size": 8},
    "CORE": {"embedding_size": 8, "inner_size": 16},
    "SINE": {"embedding_size": 8, "prototype_size": 5, "interest_size": 2},
    "DiffSBR": {"diffusion_steps": 4, "corruption_steps": 4, "graph_dropout": 0.0},
    "SKNN": {"epochs": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Function: model -> checkpoint, trained once; its data set is gone."""
    made = {}

    def train(model):
        if model not in made:
            folder = tmp_path_factory.mktemp(model)
            write_sequences(cycle_sequences(min_length=5), folder, "cycle")
            if model == "DiffSBR":
                write_features(folder, width=SMALL["hidden_size"])
            where = {"data_path": str(folder), "checkpoint_dir": f"{folder}/saved"}
            made[model] = run(model, "cycle", config_dict={**SMALL, **MODELS.get(model, {}), **where})["checkpoint"]
            shutil.move(folder / "cycle", folder / "moved")
        return made[model]

    return train


@pytest.fixture
def recommender(checkpoint):
    return Recommender.load(checkpoint("SimDiffRec"))


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_those_of_the_loaded_model(checkpoint, model, tmp_path):
    path = checkpoint(model)
    folder = Path(path).parents[1]
    (tmp_path / "cycle").symlink_to(folder / "moved")
    config, network, data, _, _, test = load_data_and_model(path, data_path=str(tmp_path))
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
    settings = {**SMALL, **MODELS["DiffSBR"], **where}
    plain = Recommender.load(run("DiffSBR", "cycle", config_dict=settings)["checkpoint"])
    assert plain.network.fusion == "none" and len(plain.recommend([["i1", "i2"]], k=3)[0]) == 3
    leaking = run("DiffSBR", "cycle", config_dict={**settings, "graph_source": "all"})["checkpoint"]
    with pytest.raises(UsageError, match="DiffSBR needs 'evaluation_parts' of its data set"):
        Recommender.load(leaking)


def test_a_pickle_is_read_only_when_trusted(checkpoint, tmp_path):
    state = torch.load(checkpoint("SASRec"), weights_only=True)
    torch.save({**state, "note": Path("a")}, tmp_path / "pickle.pth")  # an object that weights_only refuses
    (tmp_path / "in.jsonl").write_text('["i1", "i2"]\n')
    words = ["recommend", f"{tmp_path}/pickle.pth", f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl"]
    with pytest.raises(UsageError, match="--trust-checkpoint reads it all the same"):
        dispatch([*words, "--k=3"])
    assert not (tmp_path / "out.jsonl").exists()
    assert dispatch([*words, "--k=3", "--trust-checkpoint"]) == 0
    assert len(json.loads((tmp_path / "out.jsonl").read_text())["items"]) == 3


def test_a_trained_model_continues_histories_of_new_users(recommender):
    for start in (1, 5, 12):
        history = [f"i{(start + step - 1) % 12 + 1}" for step in range(3)]
        following = f"i{(start + 2) % 12 + 1}"
        assert recommender.recommend([history], k=1)[0][0][0] == following


@pytest.mark.parametrize("model", MODELS)
def test_scores_repeat_and_do_not_depend_on_the_batch(checkpoint, model):
    recommender = Recommender.load(checkpoint(model))
    histories = [["i1"], ["i2", "i3", "i4"], ["i5"] * 9, [], ["i7", "i8"]]
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
    full, one = (Recommender.load(checkpoint("DiffuRec"), **more) for more in ({}, {"sampling_steps": 1}))
    assert len(full.network.chain.timesteps) == 4 and one.network.chain.timesteps == [0]
    assert full.recommend([["i1", "i2"]], k=12) != one.recommend([["i1", "i2"]], k=12)
    with pytest.raises(UsageError, match="SimDiffRec has no sampling_steps"):
        Recommender.load(checkpoint("SimDiffRec"), sampling_steps=1)
    with pytest.raises(UsageError, match="sampling_steps 5 is larger than diffusion_steps 4"):
        Recommender.load(checkpoint("DiffuRec"), sampling_steps=5)
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


# Files


def rows_of(path):
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{**row, **{key: row[key].split() for key in ("items", "scores")}} for row in csv.DictReader(file)]
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kinds", [(".csv", ".csv"), (".csv", ".jsonl"), (".jsonl", ".csv"), (".jsonl", ".jsonl")])
def test_the_command_writes_what_python_gives(checkpoint, recommender, kinds, tmp_path, capsys):
    source, target = (tmp_path / f"{name}{kind}" for name, kind in zip(("in", "out"), kinds))
    histories = {"a": ["i1", "i2"], "b": [], "c": ["i9", "x", "i10"]}
    if kinds[0] == ".csv":
        source.write_text("id,note,items\n" + "".join(f"{n},hm,{' '.join(h)}\n" for n, h in histories.items()))
    else:
        source.write_text("".join(json.dumps({"id": n, "items": h}) + "\n" for n, h in histories.items()))
    words = ["recommend", checkpoint("SimDiffRec"), f"--input={source}", f"--output={target}"]
    assert main([*words, "--k=3", "--exclude-seen", "--batch-size=2"]) == 0
    assert "3 histories" in capsys.readouterr().out
    expected = recommender.recommend(list(histories.values()), k=3, exclude_seen=True)
    for row, name, ranking in zip(rows_of(target), histories, expected):
        assert row["id"] == name and row["items"] == [token for token, _ in ranking]
        assert [float(s) for s in row["scores"]] == pytest.approx([s for _, s in ranking], rel=1e-5)
        assert row["source"] == ranking.source and int(row["unknown"]) == len(ranking.unknown)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted((source.name, target.name))


def test_rows_without_an_id_are_numbered_and_empty_lines_of_one_column_are_histories(tmp_path):
    (tmp_path / "a.csv").write_text("items\ni1 i2\n\n\"\"\ni3\n")
    assert [row[1:] for row in read_histories(tmp_path / "a.csv")] == [(1, ["i1", "i2"]), (2, []), (3, []), (4, ["i3"])]
    (tmp_path / "a.jsonl").write_text('["i1", 2]\n[]\n{"items": ["i3"]}')
    assert [row[1:] for row in read_histories(tmp_path / "a.jsonl")] == [(1, ["i1", "2"]), (2, []), (3, ["i3"])]
    (tmp_path / "a.jsonl").write_bytes(b'["i1"]\r\n["i2"]\r\n\r\n \n')
    assert list(read_histories(tmp_path / "a.jsonl")) == [(1, 1, ["i1"]), (2, 2, ["i2"])]
    (tmp_path / "bom.csv").write_text("\ufeffitems\r\ni1\r\n", encoding="utf-8")
    assert list(read_histories(tmp_path / "bom.csv")) == [(2, 1, ["i1"])]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.csv", "id,item\na,i1\n", "line 1: the header must name a column 'items'"),
        ("a.csv", "items,items\ni1,i2\n", "line 1: the header must name a column 'items' once"),
        ("a.csv", "", "line 1: the header must name a column 'items'"),
        ("a.csv", "id,items\na,i1\nb,i1,i2\n", "line 3: 3 columns instead of 2"),
        ("a.csv", "id,items\na,i1\n\n", "line 3: 1 columns instead of 2"),
        ("a.csv", 'id,items\na,"i1\nb,i2\n', "unexpected end of data"),
        ("a.csv", "id,items\na,\xff\n".encode("latin-1"), "is not UTF-8 text"),
        ("a.csv", "id,items\na,i1\nb,nobody\n", "line 3: unknown item 'nobody' (--unknown=drop"),
        ("a.jsonl", '["i1"]\n["i1"\n', "line 2 is not JSON: Expecting ',' delimiter (column 6)"),
        ("a.jsonl", '["i1"]\n["i1", "i\n', "line 2 is not JSON: Unterminated string starting at (column 8)"),
        ("a.jsonl", '["i1"]\n\n["i2"]\n', "line 2 is not JSON: it is blank"),
        ("a.jsonl", "[" * 100000, "line 1 is not JSON"),
        ("a.jsonl", '["i1"]\n{"item": ["i1"]}\n', "line 2: needs a list of item tokens"),
        ("a.jsonl", '{"items": "i1 i2"}\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '["i1", 2.5]\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '["i1", null]\n', "line 1: needs a list of item tokens"),
        ("a.jsonl", '{"id": [1], "items": ["i1"]}\n', "line 1: 'id' must be text or a whole number"),
        ("a.jsonl", '["i1"]\n["i2", "nobody"]\n', "line 2: unknown item 'nobody'"),
        ("a.txt", "i1 i2\n", "must end in .csv or .jsonl"),
    ],
)
def test_bad_files_are_refused_in_one_line(checkpoint, tmp_path, capsys, name, content, expected):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "out.csv").write_text("old")
    words = [f"--input={tmp_path / name}", f"--output={tmp_path}/out.csv", "--k=2", "--unknown=error"]
    error = refused(capsys, checkpoint("SimDiffRec"), *words)
    assert expected in error and name in error
    assert (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def refused(capsys, *words):
    assert main(["recommend", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_wrong_words_are_refused_in_one_line(checkpoint, tmp_path, capsys):
    good = checkpoint("SimDiffRec")
    (tmp_path / "in.csv").write_text("items\ni1\n")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"format": 1}, tmp_path / "foreign.pth")
    files = [f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.csv"]
    assert "absent.pth' does not exist" in refused(capsys, "absent.pth", *files)
    assert "text.pth' is not a checkpoint" in refused(capsys, f"{tmp_path}/text.pth", *files)
    assert "foreign.pth' is not a checkpoint" in refused(capsys, f"{tmp_path}/foreign.pth", *files)
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv' is not a file" in refused(capsys, good, f"--input={tmp_path}/folder.csv", files[1])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        assert "pipe.csv' is not a file" in refused(capsys, good, f"--input={tmp_path}/pipe.csv", files[1])
    assert "input 'no.csv' does not exist" in refused(capsys, good, "--input=no.csv", files[1])
    assert "the same file" in refused(capsys, good, files[0], f"--output={tmp_path}/in.csv")
    os.link(tmp_path / "in.csv", tmp_path / "hard.csv")
    assert "the same file" in refused(capsys, good, files[0], f"--output={tmp_path}/hard.csv")
    assert "out.txt' must end in .csv or .jsonl" in refused(capsys, good, files[0], "--output=out.txt")
    assert "k 99 is larger than the number of items, 12" in refused(capsys, good, *files, "--k=99")
    assert "invalid int value: 'many'" in refused(capsys, good, *files, "--k=many")
    assert "required: --output" in refused(capsys, good, files[0])
    assert "unrecognized arguments: --top=3" in refused(capsys, good, *files, "--top=3")
    assert "unknown must be one of drop, error" in refused(capsys, good, *files, "--unknown=keep")
    assert "device 'tpu' cannot be used" in refused(capsys, good, *files, "--device=tpu")
    assert "cannot be written" in refused(capsys, good, files[0], f"--output={tmp_path}/in.csv/out.csv", "--k=2")
    assert not (tmp_path / "out.csv").exists()


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


def test_items_with_blanks_need_jsonl(recommender, tmp_path):
    recommender.tokens[1] = "two words"
    (tmp_path / "in.csv").write_text("items\ni1\n")
    with pytest.raises(UsageError, match="hold blanks"):
        recommend_file(recommender, tmp_path / "in.csv", tmp_path / "out.jsonl", k=1)


def test_memory_does_not_grow_with_the_file(recommender, tmp_path):
    def peak(n_rows):
        source = tmp_path / f"{n_rows}.csv"
        source.write_text("items\n" + "i1 i2 i3\n" * n_rows)
        tracemalloc.start()
        recommend_file(recommender, source, tmp_path / "out.csv", k=2, batch_size=64)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(200)
    assert peak(8000) < 1.3 * peak(800)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 801


def test_nothing_is_logged_or_written_beside_the_output(checkpoint, tmp_path):
    Recommender.load(checkpoint("SimDiffRec")).recommend([["i1"]], k=1)
    assert list(tmp_path.iterdir()) == []
