"""Every wrong input ends with exit code 2 and one line that says what to do, before anything is trained."""

import os
import pickle

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.data import build
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.settings import checks
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training import trainer

GOOD = ["--dataset=cycle", "--MAX_ITEM_LIST_LENGTH=10", "--topk=[5]", "--valid_metric=MRR@5", "--show_progress=False"]
SMALL = ["--k_noise=3", "--hidden_size=8", "--inner_size=16", "--epochs=1"]


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(trainer.EpochsMixin, "fit", fail)


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path, "cycle")


def refused(capsys, *words):
    """Run the command, which must be refused; returns the message."""
    assert main([*words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--model=SimDifRec"], "unknown model 'SimDifRec', did you mean 'SimDiffRec'?"),
        (["--model=sasrec"], "did you mean 'SASRec'?"),
        (["--model=zzz"], "available:"),
        (["--model=SimDiffRec", "--stopingstep=3"], "unknown key 'stopingstep', did you mean 'stopping_step'?"),
        (["--model=SimDiffRec", "--tau=warm"], "tau must be of type float"),
        (["--model=SimDiffRec", "--tau=0"], "tau must lie in (0, inf), got 0"),
        (["--model=SimDiffRec", "--epochs=0"], "epochs must lie in [1, inf)"),
        (["--model=SimDiffRec", "--epochs=1.5"], "epochs must be of type int"),
        (["--model=SimDiffRec", "--noise=loud"], "noise must be one of similarity, gaussian, got 'loud'"),
        (["--model=SimDiffRec", "--hard_negative=maybe"], "hard_negative must be of type bool"),
        (["--model=SimDiffRec", "--loss_type=BPR"], "loss_type must be one of CE, BCE, SS"),
        (["--model=SimDiffRec", "--beta_end=1.5"], "beta_end must lie in (0, 1)"),
        (["--model=SimDiffRec", "--diffusion_steps=0"], "diffusion_steps must lie in [1, inf)"),
        (["--model=ECLSR", "--mask_ratio=1"], "mask_ratio must lie in (0, 1), got 1"),
        (["--model=ECLSR", "--tau=0"], "tau must lie in (0, inf), got 0"),
        (["--model=ECLSR", "--condition=cat"], "condition must be one of addall, add, got 'cat'"),
        (["--model=ECLSR", "--trim_padding=True"], "which contrasts of ECLSR must not"),
        (["--model=ECLSR", "--train_batch_size=1"], "train_batch_size 1 leaves ECLSR no other row"),
        (["--model=ECLSR", "--official_compat", "--pos_align=start"], "left of the items: set pos_align: end"),
        (["--model=DiffuRec", "--diffusion_steps=0"], "diffusion_steps must lie in [1, inf)"),
        (["--model=DiffuRec", "--sampling_steps=0"], "sampling_steps must lie in [1, inf)"),
        (["--model=DiffuRec", "--sampling_steps=33"], "sampling_steps 33 is larger than diffusion_steps 32"),
        (["--model=DiffuRecSys", "--schedule=exp"], "schedule must be one of trunc_lin, linear, cosine, sqrt"),
        (["--model=DiffuRecSys", "--offset_noise=loud"], "offset_noise must be one of none, const"),
        (["--model=DiffuRecSys", "--cross_attention=both"], "cross_attention must be one of softmax, linear"),
        (["--model=DiffuRec", "--beta_end=1.5"], "beta_end must lie in (0, 1)"),
        (["--model=DiffuRec", "--beta_start=0.5"], "schedule trunc_lin with 32 steps: betas must lie in (0, 1)"),
        (["--model=DiffuRec", "--schedule=linear", "--diffusion_steps=5", "--sampling_steps=5"], "betas must lie in (0, 1)"),
        (["--model=STOSA", "--mean_path=official_code"], "mean_path must be one of paper, official, got 'official_code'"),
        (["--model=STOSA", "--pvn_weight=-0.1"], "pvn_weight must lie in [0, inf)"),
        (["--model=STOSA", "--hidden_size=6"], "hidden_size 6 is not a multiple of n_heads 4"),
        (["--model=AttenMixer", "--attention=hard"], "attention must be one of soft, mean, released, got 'hard'"),
        (["--model=AttenMixer", "--level=max"], "level must be one of concat, sum, got 'max'"),
        (["--model=AttenMixer", "--n_levels=0"], "n_levels must lie in [1, inf), got 0"),
        (["--model=AttenMixer", "--pool_power=0.5"], "pool_power must lie in [1, inf), got 0.5"),
        (["--model=AttenMixer", "--scale=0"], "scale must lie in (0, inf), got 0"),
        (["--model=AttenMixer", "--table_dropout=1"], "table_dropout must lie in [0, 1), got 1"),
        (["--model=AttenMixer", "--n_heads=8"], "hidden_size 100 is not a multiple of n_heads 8"),
        (["--model=AttenMixer", "--train_view=sequence"], "leave train_view at prefix"),
        (["--model=AttenMixer", "--last_k=3"], "unknown key 'last_k'"),
        (["--model=DiffuRec", "--hidden_size=7", "--n_heads=1"], "hidden_size 7 must be even"),
        (["--model=DiffuRec", "--train_view=sequence"], "leave train_view at prefix"),
        (["--model=DIMO", "--graph_folds=1"], "graph_folds 1 would leave the graph no session"),
        (["--model=DIMO", "--item_features=absent.npz"], "absent.npz"),
        (["--model=DIMO", "--feature_init=file2"], "feature_init must be one of file, random, got 'file2'"),
        (["--model=DIMO", "--proxy_arguments=meaning"], "proxy_arguments must be one of meant, released, got 'meaning'"),
        (["--model=DIMO", "--target_lookup=next"], "target_lookup must be one of own, shifted, got 'next'"),
        (["--model=DIMO", "--dropout_epochs=2"], "dropout_epochs must be one of all, first"),
        (["--model=DIMO", "--co_weight=-1"], "co_weight must lie in [0, inf), got -1"),
        (["--model=DIMO", "--n_companions=0"], "n_companions must lie in [1, inf), got 0"),
        (["--model=DIMO", "--n_heads=8"], "hidden_size 100 is not a multiple of n_heads 8"),
        (["--model=DIMO", "--train_view=sequence"], "leave train_view at prefix"),
        (["--model=DiffuRec", "--cross_attention=softmax"], "unknown key 'cross_attention'"),
        (["--model=DiffSBR", "--corruption_steps=33"], "corruption_steps 33 is larger than diffusion_steps 32"),
        (["--model=DiffSBR", "--neighbors=observable", "--retrieval=False"], "leave retrieval at True"),
        (["--model=DiffSBR", "--neighbors=observable", "--fusion=early"], "fusion: early is part of the generation"),
        (["--model=DiffSBR", "--hidden_size=7"], "hidden_size 7 must be even"),
        (["--model=DiffSBR", "--schedule=linear", "--diffusion_steps=5", "--corruption_steps=5"], "betas must lie in (0, 1)"),
        (["--model=DiffSBR", "--k_neighbors=40"], "k_neighbors 40 is not smaller than the bank, 40 training sessions"),
        (["--model=DiffSBR", "--item_features=absent.npz"], "absent.npz"),
        (["--model=DiffSBR", "--fusion=early"], "fusion: early needs item features, which dataset 'cycle' lacks"),
        (["--model=DiffSBR", "--fusion=mean"], "fusion must be one of contrast, attention"),
        (["--model=DiffSBR", "--self_input=restored", "--fusion=attention"], "has no fusion: attention: leave one out"),
        (["--model=DiffSBR", "--inference_times=1"], "inference_times must be one of scaled, raw"),
        (["--model=DiffSBR", "--graph_source=test"], "graph_source must be one of train, all"),
        (["--model=DiffSBR", "--graph_folds=1"], "graph_folds 1 would leave the graph no session: 0 for one graph of all"),
        (["--model=DiffSBR", "--graph_folds=-2"], "graph_folds must lie in [0, inf), got -2"),
        (["--model=DiffSBR", "--graph_folds=41"], "40 training sessions are too few for graph_folds 41: lower it"),
        (["--model=SASRec", "--graph_folds=5"], "unknown key 'graph_folds'"),
        (["--model=DiffSBR", "--train_view=sequence"], "leave train_view at prefix"),
        (["--model=CL4SRec", "--crop_kept=0"], "crop_kept must lie in (0, 1), got 0"),
        (["--model=CL4SRec", "--crop_kept=1.0"], "crop_kept must lie in (0, 1), got 1.0"),
        (["--model=CL4SRec", "--mask_share=-0.1"], "mask_share must lie in (0, 1)"),
        (["--model=CL4SRec", "--reorder_share=1.5"], "reorder_share must lie in (0, 1)"),
        (["--model=CL4SRec", "--tau=0"], "tau must lie in (0, inf), got 0"),
        (["--model=CL4SRec", "--trim_padding=True"], "which contrasts of CL4SRec must not"),
        (["--model=CL4SRec", "--train_batch_size=1"], "train_batch_size 1 leaves CL4SRec no other row"),
        (["--model=CL4SRec", "--official_compat"], "set ce_positions: last, train_view: prefix"),
        (["--model=CL4SRec", "--ce_positions=last"], "set train_view: prefix"),
        (["--model=DuoRec", "--tau=-1"], "tau must lie in (0, inf), got -1"),
        (["--model=DuoRec", "--contrast=both"], "contrast must be one of us_x, us, su, un, got 'both'"),
        (["--model=DuoRec", "--trim_padding=True"], "which contrasts of DuoRec must not"),
        (["--model=DuoRec", "--train_batch_size=1"], "train_batch_size 1 leaves DuoRec no other row"),
        (["--model=MCLRec", "--mask_share=1"], "mask_share must lie in (0, 1)"),
        (["--model=MCLRec", "--meta=both"], "meta must be one of alternating, official, simultaneous, joint, got 'both'"),
        (["--model=MCLRec", "--reg=row"], "reg must be one of paper, official, none, got 'row'"),
        (["--model=MCLRec", "--trim_padding=True"], "which contrasts of MCLRec must not"),
        (["--model=MCLRec", "--train_batch_size=1"], "train_batch_size 1 leaves MCLRec no other row"),
        (["--model=MCLRec", "--ce_positions=last"], "set train_view: prefix"),
        (["--model=SASRec", "--lr_decay_step=3"], "lr_decay_step is for the plugin's models"),
        (["--model=SASRec", "--lr_warmup_steps=3"], "lr_warmup_steps is for the plugin's models"),
        (["--model=SASRec", "--n_layers=two"], "n_layers must be a number"),
        (["--model=SASRec", "--train_view=sequence"], "needs prefix"),
        (["--model=Caser", "--trim_padding=True"], "trim_padding is not exact for Caser"),
        (["--model=SimDiffRec", "--valid_metric=NDCG@7"], "valid_metric 'NDCG@7' is not among metrics x topk"),
        (["--model=SimDiffRec", "--metrics=[Hitt]", "--valid_metric=Hitt@5"], "unknown metric 'Hitt'"),
        (["--model=SimDiffRec", "--topk=[0]", "--valid_metric=MRR@0"], "topk must be positive"),
        (["--model=SimDiffRec", "--eval_args={order: RO}"], "eval_args needs order: TO"),
        (["--model=SimDiffRec", "--eval_args={split: {XX: 1}}"], "a split such as {LS: valid_and_test}"),
        (["--model=SimDiffRec", "--eval_args={split: {LS: foo}}"], "a split such as"),
        (["--model=SimDiffRec", "--eval_args={split: {LS: valid_only}}"], "a split such as"),
        (["--model=SASRec", "--eval_args={mode: labeled}"], "mode labeled ranks nothing"),
        (["--model=SimDiffRec", "--valid_metric_bigger=False"], "valid_metric_bigger follows from MRR@5, it is True"),
        (["--model=SimDiffRec", "--learner=sparse_adam"], "learner must be one of adam"),
        (["--model=SimDiffRec", "--embedding_size=128"], "unknown key 'embedding_size'"),
        (["--model=SimDiffRec", "--train_neg_sample_args={distribution: uniform, sample_num: 1}"], "draws what it needs"),
        (["--model=SimDiffRec", "--eval_args={split: {RS: [1,2]}}"], "a split such as"),
        (["--model=SimDiffRec", "--eval_args={mode: fulll}"], "mode of eval_args must be full, or uniN or popN such as uni100, got 'fulll'"),
        (["--model=SimDiffRec", "--eval_args=foo"], "eval_args must be a mapping, got 'foo'"),
        (["--model=SimDiffRec", "--metrics=[AUC]", "--valid_metric=AUC"], "a setting cannot be used: Full sort"),
        (["--model=SimDiffRec", "--metrics=5"], "metrics must name at least one metric, such as NDCG, got 5"),
        (["--model=SimDiffRec", "--epochs=2.0"], "epochs must be of type int"),
        (["--model=SimDiffRec", "--user_inter_num_interval=5"], "must be an interval such as [5,inf)"),
        (["--model=SimDiffRec", "--item_inter_num_interval=[5"], "must be an interval such as [5,inf)"),
        (["--model=SimDiffRec", "--load_col=inter"], "load_col must be columns by file such as {inter: [user_id]}"),
        (["--model=SimDiffRec", "--load_col={item: [item_id]}"], "load_col must be columns by file"),
        (["--model=SimDiffRec", "--val_interval=5"], "val_interval must be a mapping, got '5'"),
        (["--model=SimDiffRec", "--benchmark_filename=5"], "benchmark_filename must be a list, got '5'"),
        (["--model=SimDiffRec", "--alias_of_item_id=[other]"], "a setting names 'other', which the data do not have"),
        (["--model=SimDiffRec", "--field_separator=5"], "field_separator must be text, got '5'"),
        (["--model=SimDiffRec", "--encoding=utf-9"], "encoding: unknown encoding: utf-9"),
        (["--model=SASRec", "--transform=shuffle"], "transform must be one of mask_itemseq"),
        (["--model=SimDiffRec", "--transform=mask_itemseq"], "transform is for RecBole's models, SimDiffRec noises and masks"),
        (["--model=SimDiffRec", "--enable_scaler"], "enable_scaler is for RecBole's models, SimDiffRec scales the loss"),
        (["--model=SimDiffRec", "--save_dataset"], "save_dataset would do nothing"),
        (["--model=SASRec", "--dataloaders_save_path=x"], "dataloaders_save_path would do nothing"),
        (["--model=SimDiffRec", "--worker=-1"], "worker must be at least 0"),
        (["--model=SimDiffRec", "--metrics=[]"], "metrics must name at least one metric"),
        (["--model=SimDiffRec", "--ce_positions=last"], "set train_view: prefix"),
        (["--model=SimDiffRec", "--data_path=2024"], "dataset 'cycle' not found"),
        (["--model=SASRec", "--loss_type=XX"], "RecBole's SASRec has no loss_type 'XX'"),
        (["--model=FEARec"], "FEARec cannot run here: it reads the padded histories"),
        (["--model=SASRecF", "--train_neg_sample_args=~"], "RecBole's SASRecF cannot be built here"),
        (["--model=SimDiffRec", "--clip_grad_norm=5"], "clip_grad_norm must be of type dict"),
        (["--model=SimDiffRec", "--clip_grad_norm={norm: 5}"], "clip_grad_norm must be such as {max_norm: 5.0}"),
        (["--model=SASRec", "--clip_grad_norm={max_norm: 0}"], "with a positive number, got {'max_norm': 0}"),
        (["--model=SimDiffRec", "--clip_grad_norm={max_norm: 5, norm_type: abc}"], "norm_type of clip_grad_norm must be a"),
        (["--model=SimDiffRec", "--clip_grad_norm={max_norm: 5, norm_type: 0}"], "norm_type of clip_grad_norm must be a"),
        (["--model=SimDiffRec", "--amp_type=fp8"], "amp_type must be one of bf16, fp16"),
        (["--model=GRU4Rec", "--compile"], "compile: GRU4Rec has no feed-forward layers to compile"),
        (["--model=SimDiffRec", "--hidden_size=9"], "hidden_size 9 is not a multiple of n_heads 2"),
        (["--model=DiffuRec", "--sampling_steps=40"], "sampling_steps 40 is larger than diffusion_steps 32"),
        (["--model=SASRec", "--hidden_size=9"], "hidden_size 9 is not a multiple of n_heads 2"),
        (["--model=SimDiffRec", "--k_sample=1"], "k_sample must lie in [2, inf)"),
        (["--model=SimDiffRec", "--k_noise=12"], "k_noise 12 is larger than the 11 other items"),
        (["--model=SimDiffRec", "--k_noise=3", "--k_sample=13"], "k_sample 13 is larger than the 12 items it is a rank of"),
        (["--model=SimDiffRec", "--k_noise=3", "--k_sample=12", "--exclude_original"], "larger than the 11 items it is"),
        (["--model=CaDiRec", "--k_candidates=13"], "k_candidates 13 of 12 items are too many"),
        (["--model=CaDiRec", "--k_candidates=12", "--exclude_original"], "k_candidates 12 of 12 items are too many"),
        (["--model=CaDiRec", "--mask_ratio=0"], "mask_ratio must lie in (0, 1], got 0"),
        (["--model=CaDiRec", "--mask_ratio=1.5"], "mask_ratio must lie in (0, 1], got 1.5"),
        (["--model=CaDiRec", "--diffusion_steps=0"], "diffusion_steps must lie in [1, inf)"),
        (["--model=CaDiRec", "--generation_steps=0"], "generation_steps must lie in [1, inf)"),
        (["--model=CaDiRec", "--generation_steps=33", "--diffusion_steps=32"], "larger than the 32 diffusion_steps"),
        (["--model=CaDiRec", "--twin", "--generation_steps=2"], "twin: True has no diffusion"),
        (["--model=CaDiRec", "--tau=0"], "tau must lie in (0, inf), got 0"),
        (["--model=CaDiRec", "--train_batch_size=1"], "train_batch_size 1 leaves CaDiRec no other row"),
        (["--model=CaDiRec", "--trim_padding"], "trim_padding batches by length"),
        (["--model=CaDiRec", "--official_negatives", "--loss_type=CE"], "official_negatives are those of loss_type: BCE"),
        (["--model=CaDiRec", "--hidden_size=9", "--n_heads=3"], "hidden_size 9 must be even"),
        (["--model=CaDiRec", "--hidden_size=10", "--n_heads=3"], "hidden_size 10 is not a multiple of n_heads 3"),
        (["--model=SimDiffRec", "--topk=[5,13]"], "topk 13 is larger than the number of items, 12"),
        (["--model=SimDiffRec", "--official_compat", "--confidence_t=T"], "set confidence_t: train"),
        (["--model=SimDiffRec", "--config_files=absent.yaml"], "config file 'absent.yaml' does not exist"),
        (["--model=SimDiffRec", "--user_inter_num_interval=[99,inf)"], "before, 0 users, 0 items, 0 interactions after"),
        (["--model=SimDiffRec", "--expected_counts={users: 41, items: 12, interactions: 1}"], "expected 41 users"),
        (["--model=SimDiffRec", "--TIME_FIELD=when"], "has no time field 'when'"),
        (["--model=SimDiffRec", "--load_col={inter: [user_id, item_id]}"], "loaded are user_id, item_id"),
        (["--model=SimDiffRec", "--checkpoint_dir=/dev/null/x"], "checkpoint_dir: nothing can be written to '/dev/null/x'"),
        (["--model=SimDiffRec", "--result_file=/dev/null/x.json"], "result_file: nothing can be written to '/dev/null'"),
        (["--model=SimDiffRec", "--ranks_file=/dev/null/x.npz"], "ranks_file: nothing can be written to '/dev/null'"),
        (["--model=SimDiffRec", "--ITEM_ID_FIELD=item_ids"], "no column 'item_ids', did you mean 'item_id'?"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_wrong_words(folder, capsys, words, expected):
    small = SMALL if "--model=SimDiffRec" in words else []
    given = {word.split("=")[0] for word in words}
    rest = [word for word in [*GOOD, *small, f"--data_path={folder}"] if word.split("=")[0] not in given]
    message = refused(capsys, *words, *rest)
    assert expected in message


@pytest.mark.parametrize("words", [["compare", "--models=SimDiffRec", "--datasets=cycle"], ["tune", "--model=SimDiffRec",
                                   "--dataset=cycle"]])  # fmt: skip
def test_folders_of_results_that_cannot_be_made(folder, capsys, words):
    message = refused(capsys, *words, "--out=/dev/null/x", *GOOD[1:], *SMALL, f"--data_path={folder}")
    assert "out: nothing can be written to '/dev/null/x'" in message


def test_a_missing_wandb_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    message = refused(capsys, "--model=SimDiffRec", "--log_wandb=True", *GOOD, *SMALL, f"--data_path={folder}")
    assert "log_wandb needs the package wandb: pip install wandb" in message


def test_no_log_can_be_written(folder, capsys):
    with open("log", "w"):
        pass
    assert "RecBole's log: nothing can be written to 'log/SimDiffRec'" in refused(
        capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}"
    )


def test_pandas_3_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr(build.pandas, "__version__", "3.0.1")
    message = refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}")
    assert "pandas 3.0.1 leaves missing values in RecBole's data" in message and "pip install 'pandas<3'" in message


def test_no_model_no_dataset_no_words(capsys):
    assert "--model=NAME" in refused(capsys, "--dataset=cycle")
    assert "--dataset=NAME" in refused(capsys, "--model=SimDiffRec")
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_unknown_dataset_says_where_it_looked_and_how_to_prepare(tmp_path, capsys):
    message = refused(capsys, "--model=SimDiffRec", "--dataset=beauti", f"--data_path={tmp_path}")
    assert str(tmp_path / "beauti") in message and "did you mean 'beauty'?" in message and "prepare beauti" in message


def test_words_that_are_no_settings(capsys):
    assert "unknown command 'trian', did you mean 'train'?" in refused(capsys, "trian")
    assert "unknown command 'xyz', there are: run, train, compare" in refused(capsys, "xyz")
    assert "'x' is not a setting" in refused(capsys, "--model=SimDiffRec", "--epochs", "3", "x")
    assert "given twice" in refused(capsys, "--model=SimDiffRec", "--epochs=3", "--epochs=4")
    assert "given twice" not in refused(capsys, "--model=SimDiffRec", "--dataset=nowhere", "--learning_rate=.nan")


def break_file(folder, change):
    file = f"{folder}/cycle/cycle.inter"
    with open(file) as handle:
        lines = handle.read().splitlines()
    with open(file, "w") as handle:
        handle.write("".join(line + "\n" for line in change(lines)))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda lines: [], "is empty"),
        (lambda lines: lines[:1], "holds a header but no rows"),
        (lambda lines: ["user_id,item_id,timestamp"] + lines[1:], "header cell 'user_id,item_id,timestamp'"),
        (lambda lines: ["user_id:token\titem_id:word\ttimestamp:float"] + lines[1:], "header cell 'item_id:word'"),
        (lambda lines: ["user_id:token\titem_id:token"] + [x.rpartition("\t")[0] for x in lines[1:]], "no time field"),
        (lambda lines: ["user_id:token\tthing:token\ttimestamp:float"] + lines[1:], "no column 'item_id'"),
        (lambda lines: lines[:4] + ["u0\ti1\tyesterday"] + lines[4:], "line 5: 'yesterday' is not a number"),
        (lambda lines: lines[:4] + ["u0\ti1\t3\t4\t5"] + lines[4:], "Expected 3 fields in line 5, saw 5"),
        (lambda lines: lines[:1] + [x + "\t9" for x in lines[1:]], "more columns than the header"),
        (lambda lines: lines[:4] + ["u0\ti1"] + lines[4:], "line 5 has 2 of 3 columns"),
        (lambda lines: lines[:4] + ["u0\ti\0001\t3"] + lines[4:], "line 5 holds a zero byte"),
        (lambda lines: [*lines[:4], 'u0\t"i1\t3', *lines[4:8], 'u0\t"i1\t3', *lines[8:]], "line 5: a quote mark opens"),
        (lambda lines: lines[:4] + ["u0\ti1\tinf"] + lines[4:], "line 5: no number in time field 'timestamp'"),
        (lambda lines: [lines[0].replace("timestamp:float", "timestamp:token")] + lines[1:], "is a token, which has no order"),
        (lambda lines: lines[:1] + [x for x in lines[1:] if x.endswith(("\t0", "\t1", "\t2"))], "no validation rows"),
        (lambda lines: lines[:1] + [x for x in lines[1:] if x.endswith("\t0")], "no examples"),
    ],
)
def test_broken_files(folder, capsys, change, expected):
    break_file(folder, change)
    assert expected in refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_bad_number_is_found_in_every_encoding(folder, capsys, encoding):
    file = f"{folder}/cycle/cycle.inter"
    with open(file) as handle:
        rows = [line.rstrip("\n").split("\t") for line in handle]
    rows[3][:] = ["caf\xe9", "i1", "soon"]
    with open(file, "w", encoding=encoding) as handle:
        handle.writelines("\t".join([row[2], row[0], row[1]]) + "\n" for row in rows)
    words = [] if encoding == "utf-8-sig" else [f"--encoding={encoding}"]
    error = refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}", *words)
    assert "line 4: 'soon' is not a number (column 'timestamp')" in error


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["i1\ta", "i2\tb", "i1\tc"], "has several rows for item_id 'i1': leave one"),
        (["i1\ta", "i2"], "cycle.item line 3 has 1 of 2 columns: the file may have been cut off"),
        (["i1\ta\tb", "i2\tb"], "more columns than the header"),
        (["i1\ta", "i2\tb\tc"], "Expected 2 fields in line 3, saw 3"),
        (['i1\t"a', 'i2\t"b'], "line 2: a quote mark opens a value of several lines"),
    ],
)
def test_broken_item_files(folder, capsys, rows, expected):
    columns = "{inter: [user_id, item_id, timestamp], item: [item_id, title]}"
    with open(f"{folder}/cycle/cycle.item", "w") as file:
        file.writelines(row + "\n" for row in ["item_id:token\ttitle:token_seq", *rows])
    assert expected in refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}", f"--load_col={columns}")


def test_columns_that_are_asked_for_must_be_there(folder, capsys):
    words = ["--load_col={inter: [user_id, item_id, timestamp, ratings]}", f"--data_path={folder}"]
    error = refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, *words)
    assert "cycle.inter has no column 'ratings'" in error and "it has user_id, item_id, timestamp" in error


def test_ties_in_time_keep_the_order_of_the_file_and_are_reported(folder, caplog):
    break_file(folder, lambda lines: [lines[0], *(line.rpartition("\t")[0] + "\t7" for line in lines[1:])])
    data = create_dataset(make_config("SimDiffRec", folder))
    data.build()
    assert "interactions share user and time with the one before" in caplog.text
    sequences = [f"i{item}" for sequence in cycle_sequences() for item in sequence]
    assert list(data.id2token("item_id", data.flat["item_id"])) == sequences


def test_missing_values_are_filled(folder):
    def with_prices(lines):
        return [lines[0] + "\tprice:float", lines[1] + "\t", *(line + "\t2" for line in lines[2:])]

    break_file(folder, with_prices)
    columns = {"inter": ["user_id", "item_id", "timestamp", "price"]}
    data = create_dataset(make_config("SASRec", folder, load_col=columns))
    data.build()
    assert len(data.flat["price"]) > 0 and bool(data.flat["price"].isfinite().all())


def test_a_key_given_twice_in_a_file_is_refused(folder, tmp_path, capsys):
    (tmp_path / "twice.yaml").write_text("tau: 0.1\nalpha: 0.2\ntau: 0.3\n")
    words = [*GOOD, f"--data_path={folder}", f"--config_files={tmp_path}/twice.yaml"]
    assert "tau is given twice" in refused(capsys, "--model=SimDiffRec", *words)


def test_data_sets_that_lie_about_as_pickles_are_never_loaded(folder, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    (tmp_path / "saved").mkdir()
    for name in ("SequentialDataset", "SequenceDataset", "DIENDataset"):
        (tmp_path / "saved" / f"cycle-{name}.pth").write_bytes(pickle.dumps(Bomb()))
    for model in ("SimDiffRec", "SASRec", "DIEN"):
        config = make_config(model, folder, checkpoint_dir=str(tmp_path / "saved"))
        assert len(create_dataset(config)) > 0
    assert not (tmp_path / "trap").exists()


def test_debug_shows_the_traceback(capsys):
    assert main(["--model=SimDifRec", "--dataset=cycle", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_values_are_never_evaluated(folder, tmp_path, capsys):
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    refused(capsys, "--model=SimDiffRec", *GOOD, f"--data_path={folder}", f"--tau={code}")
    refused(capsys, "--model=SimDiffRec", f"--dataset={code}")
    refused(capsys, "--model=SimDiffRec", *GOOD, "--tau=!!python/object/apply:os.getcwd []")
    assert not trap.exists()


def test_a_file_in_another_encoding_is_named(folder, capsys):
    file = f"{folder}/cycle/cycle.inter"
    with open(file, "ab") as handle:
        handle.write("u0\ti\xe9\t99\n".encode("latin-1"))
    assert "is not utf-8 text" in refused(capsys, "--model=SimDiffRec", *GOOD, *SMALL, f"--data_path={folder}")
