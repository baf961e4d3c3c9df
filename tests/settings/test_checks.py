"""Inner values and keys of RecBole's settings: what it would pass over ends in one line before anything is read."""

import pytest
import torch

from recbole_diffusion import devices
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.checks import metric_names
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences

RATED = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
SAMPLED = {"mode": "uni20"}
NEGATIVES = {"distribution": "uniform", "sample_num": 1}


def config(model="SKNN", **given):
    return DiffusionConfig(model, "cycle", config_dict={"topk": [5], "valid_metric": "MRR@5", **given})


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"eval_args": {"mode:uni20": None}}, "eval_args has the unknown key 'mode:uni20', there are: split, order"),
        ({"eval_args": {"groupby": "none"}}, "eval_args has the unknown key 'groupby', did you mean 'group_by'?"),
        ({"eval_args": {"mode": {"validation": "full"}}}, "mode of eval_args has the unknown key 'validation'"),
        ({"eval_args": {"mode": "uni"}}, "mode of eval_args must be full, or uniN or popN such as uni100, got 'uni'"),
        ({"eval_args": {"mode": "uniform"}}, "got 'uniform'"),
        ({"eval_args": {"mode": "pop0"}}, "got 'pop0'"),
        ({"eval_args": {"mode": 20}}, "got '20'"),
        ({"eval_args": {"mode": {"test": "uni-5"}}}, "got 'uni-5'"),
        ({"eval_args": {"mode": ["full"]}}, "mode of eval_args must be full"),
        ({"eval_args": {"group_by": "item"}}, "group_by of eval_args must be user or none, got 'item'"),
        ({"eval_args": {"group_by": "none"}}, "goes by user, group_by: none is for RS: remove it"),
        ({"eval_args": {"split": {"RS": [0, 0, 0]}}}, "a split such as"),
        ({"eval_args": {"split": {"RS": [0.8, -0.1, 0.3]}}}, "a split such as"),
        ({"eval_args": {"split": {"RS": [True, True, True]}}}, "a split such as"),
        ({"eval_args": {"mode": "uni3"}}, "topk 5 is larger than the 4 items that uni3 ranks"),
        ({"val_interval": {"rating": ">=3"}, "load_col": RATED}, "val_interval of rating must be an interval such as"),
        ({"val_interval": {"rating": "3,inf"}, "load_col": RATED}, "got '3,inf'"),
        ({"val_interval": {"rating": "[3,inf"}, "load_col": RATED}, "got '[3,inf'"),
        ({"val_interval": {"rating": "[5,3]"}, "load_col": RATED}, "got '[5,3]'"),
        ({"val_interval": {"rating": "[3,nan)"}, "load_col": RATED}, "got '[3,nan)'"),
        ({"val_interval": {"rating": "[1,2];3"}, "load_col": RATED}, "got '[1,2];3'"),
        ({"val_interval": {"rating": 3}, "load_col": RATED}, "in quotes such as '[3,inf)', or a list of tokens, got '3'"),
        ({"val_interval": {"rating": "[3,inf)"}}, "val_interval names 'rating', which is not loaded: name it in load_col"),
        ({"threshold": {"ratings": 3}, "load_col": RATED}, "which is not loaded, did you mean 'rating'?"),
        ({"threshold": {"rating": "high"}, "load_col": RATED}, "threshold must be one column with a number"),
        ({"threshold": {"rating": 3, "timestamp": 1}, "load_col": RATED}, "threshold must be one column with a number"),
        ({"normalize_field": ["price"]}, "normalize_field names 'price', which is not loaded"),
        ({"normalize_all": "yes"}, "normalize_all must be True or False, got 'yes'"),
        ({"discretization": {"rating": 5}, "load_col": RATED}, "must be such as {method: ED, bucket: 10}"),
        ({"discretization": {"rating": {"method": "ED"}}, "load_col": RATED}, "must be such as {method: ED, bucket: 10}"),
        ({"discretization": {"rating": {"kind": "LD"}}, "load_col": RATED}, "has the unknown key 'kind'"),
        ({"discretization": {"rating": {"method": "LD"}}, "load_col": RATED}, "add numerical_features: [rating]"),
        ({"seq_len": {"item_id": 0}}, "seq_len of item_id must be a whole number from 1"),
        ({"preload_weight": {"item_id": "vector"}}, "preload_weight names 'vector', which is not loaded"),
        ({"rm_dup_inter": False}, "rm_dup_inter must be one of first, last, got 'False'"),
        ({"load_col": {"inter": ["user_id", "item_id", "timestamp"], "itme": ["item_id"]}}, "did you mean 'item'?"),
        ({"unused_col": {"inter": ["item_id"]}}, "unused_col names 'item_id', without which there are no sequences"),
        ({"unused_col": {"user": ["age"]}}, "unused_col has the unknown key 'user'"),
        ({"unused_col": {"inter": ["age"]}}, "unused_col names 'age', which is not loaded"),
        ({"unused_col": {"inter": "*"}}, "unused_col must be columns by file"),
        ({"state": "loud"}, "state must be one of debug, info, warning, error, critical, got 'loud'"),
        ({"worker": 1.5}, "worker must be a whole number, got '1.5'"),
        ({"repeatable": False}, "Sequential models currently only support repeatable recommendation"),
        ({"metrics": ["TailPercentage"], "valid_metric": "TailPercentage@5", "tail_ratio": "a lot"}, "tail_ratio must be"),
        ({"metrics": ["TailPercentage"], "valid_metric": "TailPercentage@5", "tail_ratio": 1.5}, "tail_ratio must be"),
        ({"topk": [True]}, "topk must be positive whole numbers"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC@5"}, "did you mean 'gauc'?: add it to metrics/topk or choose one of gauc"),
        ({"eta": 0.5}, "unknown key 'eta'"),
        ({"result_file": "~nobody-of-this-name/r.json"}, "there is no such home folder"),
    ],
)
def test_refused(given, expected):
    with pytest.raises(UsageError) as refused:
        config(**given)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"loss_type": "BPR", "train_neg_sample_args": None}, "SASRec trains with negatives here: set train_neg_sample_args"),
        ({"loss_type": "BPR", "train_neg_sample_args": {**NEGATIVES, "number": 2}}, "has the unknown key 'number'"),
        ({"loss_type": "BPR", "train_neg_sample_args": {**NEGATIVES, "sample_num": 0}}, "sample_num of train_neg"),
        ({"loss_type": "BPR", "train_neg_sample_args": {**NEGATIVES, "alpha": "x"}}, "alpha of train_neg_sample_args cannot"),
        ({"loss_type": "BPR", "train_neg_sample_args": {**NEGATIVES, "dynamic": True}}, "needs a candidate_num from 1"),
        ({"n_layers": True}, "n_layers must be a number, got 'True'"),
    ],
)
def test_refused_of_recboles_models(given, expected):
    with pytest.raises(UsageError) as refused:
        config("SASRec", **given)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"eval_args": SAMPLED},
        {"eval_args": {"mode": {"valid": "pop20", "test": "full"}}},
        {"eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": "none"}},
        {"eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}}},
        {"val_interval": {"rating": "(-inf, 3];[4,inf)"}, "load_col": RATED},
        {"val_interval": {"user_id": ["u1", "u2"]}},
        {"threshold": {"rating": 3}, "load_col": RATED},
        {"normalize_field": ["timestamp"]},
        {"metrics": ["TailPercentage"], "valid_metric": "TailPercentage@5", "tail_ratio": 0.2},
        {"metrics": "TailPercentage", "valid_metric": "tailpercentage@5", "tail_ratio": 3},
        {"metrics": ["GAUC", "NDCG"], "valid_metric": "GAUC"},
        {"metrics": ["AveragePopularity"], "valid_metric": "AveragePopularity@5", "valid_metric_bigger": False},
        {"rm_dup_inter": "first"},
        {"state": "WARNING"},
        {"unused_col": {"inter": ["timestamp"]}},
        {"user_inter_num_interval": "[2,10];[20,inf)", "item_inter_num_interval": None},
    ],
)
def test_accepted(given):
    found = config(**given)
    assert all(found[key] == value for key, value in given.items() if key not in ("eval_args", "metrics"))


def test_keys_that_recbole_only_reads_are_known():
    assert config("SASRec", transform="crop_itemseq", eta=0.5)["eta"] == 0.5


def test_names_of_metrics_are_those_of_results():
    found = config(metrics=["GAUC", "NDCG", "giniindex"], topk=[5, 10], valid_metric="ndcg@10")
    assert metric_names(found) == ["gauc", "ndcg@5", "ndcg@10", "giniindex@5", "giniindex@10"]


def test_home_folders_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "more.yaml").write_text("checkpoint_dir: ~/saved\n")
    paths = {"data_path": "~/data", "result_file": "~/r.json", "ranks_file": "~/r.npz", "item_features": "~/f.npz"}
    found = DiffusionConfig("DiffSBR", "cycle", ["~/more.yaml"], paths)
    assert found["checkpoint_dir"] == f"{tmp_path}/saved" and found["data_path"] == f"{tmp_path}/data/cycle"
    assert [found[key] for key in ("result_file", "ranks_file", "item_features")] == [
        f"{tmp_path}/{name}" for name in ("r.json", "r.npz", "f.npz")
    ]
    assert config(checkpoint_dir="./~")["checkpoint_dir"] == "./~"


@pytest.fixture
def priced(tmp_path):
    """A folder whose interactions have a price, a shop and tags."""
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    path = tmp_path / "cycle" / "cycle.inter"
    header, *rows = path.read_text().splitlines()
    rows = [f"{row}\t{number % 5}\ts{number % 2}\ta b" for number, row in enumerate(rows)]
    path.write_text("\n".join([f"{header}\tprice:float\tshop:token\ttags:token_seq", *rows]) + "\n")
    return folder


COLUMNS = {"inter": ["user_id", "item_id", "timestamp", "price", "shop", "tags"]}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"val_interval": {"price": ["1", "2"]}}, "val_interval of price, a column of numbers, must be an interval such as"),
        ({"val_interval": {"shop": "[1,2]"}}, "val_interval of shop, a column of tokens, must be a list such as [a, b]"),
        ({"val_interval": {"tags": ["a"]}}, "RecBole filters by single tokens or numbers, tags is a list"),
        ({"normalize_field": ["shop"]}, "normalize_field names 'shop', a column of token: it is for numbers"),
        ({"numerical_features": ["shop"], "discretization": {"shop": {"method": "LD"}}}, "names 'shop', a column of token"),
        ({"threshold": {"shop": 1}}, "threshold names 'shop', a column of token: it is for numbers"),
        ({"val_interval": {"colour": ["a"]}, "load_col": {"inter": "*"}}, "val_interval names 'colour', which is not loaded"),
        ({"normalize_field": ["colour"], "load_col": {"inter": "*"}}, "normalize_field names 'colour', which is not loaded"),
    ],
)
def test_settings_that_do_not_fit_their_columns(priced, given, expected):
    with pytest.raises(UsageError) as refused:
        create_dataset(make_config("SASRec", priced, **{"load_col": COLUMNS, **given}))
    assert expected in str(refused.value)


def test_filters_by_value_keep_exactly_what_they_name(priced):
    def left(**interval):
        return create_dataset(make_config("SASRec", priced, load_col=COLUMNS, val_interval=interval)).inter_num

    rows = sum(map(len, cycle_sequences()))
    assert left(price="[0,4]") == rows and left(shop=["s0"]) == (rows + 1) // 2
    assert left(price="[1,3)") == sum(number % 5 in (1, 2) for number in range(rows))
    assert left(price="(-inf,0];(3,inf)") == sum(number % 5 in (0, 4) for number in range(rows))


def test_a_second_gpu_of_one_process_is_refused_and_not_silently_the_first(monkeypatch):
    monkeypatch.setattr(devices, "_shown", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    devices.show_gpus("1")
    assert config(use_gpu=True)["device"].type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert config(gpu_id=2)["device"].type == "cuda"
    assert config(gpu_id="2,1")["device"].type == config()["device"].type == "cuda"
    assert config(gpu_id="")["device"].type == "cpu"
    with pytest.raises(UsageError, match="gpu_id 1 comes too late, this process computes on GPU 2 already"):
        config(gpu_id=1)
