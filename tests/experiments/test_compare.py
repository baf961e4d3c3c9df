"""The comparison runner and its tables. Most tests replace training by made-up results."""

import csv
import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import DATA, call, made_up

from recbole_diffusion.cli import parse_settings, run_module
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments import fingerprint, work
from recbole_diffusion.experiments.selection import split_names
from recbole_diffusion.reports.commands import format_settings
from recbole_diffusion.reports.study import Study, format_mean, metric_title, recbole_name
from recbole_diffusion.reports.tables import format_text, metric_cells, write_tables


def write_rows(text):
    Path("rows.yaml").write_text(text, encoding="utf-8")
    return "--rows=rows.yaml"


# Numbers


def test_mean_and_sample_deviation():
    # 0.1, 0.2, 0.6: mean 0.3; squares 0.04 + 0.01 + 0.09 = 0.14, / (3 - 1) = 0.07, root 0.26458
    assert format_mean([0.1, 0.2, 0.6]) == "0.3000 ± 0.2646"
    assert format_mean([0.12345]) in ("0.1234", "0.1235")


def test_metric_titles():
    assert [metric_title(name) for name in ("hit@10", "ndcg@5", "mrr@20")] == ["HR@10", "NDCG@5", "MRR@20"]
    names = ("recall@10", "itemcoverage@5", "gauc", "averagepopularity@10")
    assert [metric_title(name) for name in names] == ["Recall@10", "Item coverage@5", "GAUC", "Average popularity@10"]
    assert [recbole_name(name) for name in ("HR@5", "P@20", "GAUC")] == ["hit@5", "hit@20", "gauc"]


def test_best_is_bold_and_ties_as_shown_too():
    rows = {
        "a": [made_up(value=0.20), made_up(value=0.40)],
        "b": [made_up(value=0.300004)],
        "c": [made_up(value=0.1)],
        "d": [{"model": "SASRec", "dataset": "toy", "seed": 1, "error": "no"}],
    }
    texts = metric_cells(rows, "test_result_unmasked", "hit@5")
    assert texts == ["**0.3000 ± 0.1414**", "**0.3000**", "<u>0.1000</u>", "–"]
    assert metric_cells(rows, "test_result_unmasked", "hit@99") == ["–"] * 4


def test_settings_survive_the_command_line():
    settings = {
        "alpha": 1e-05, "k": 3, "flag": False, "nothing": None, "topk": [5, 10], "word": "gelu", "number": "1",
        "interval": "[5,inf)", "eval_args": {"split": {"LS": "valid_and_test"}}, "text": "it's a $HOME: #1",
    }  # fmt: skip
    words = shlex.split(format_settings({**settings, "data_path": "/somewhere", "checkpoint_dir": "x"}))
    assert parse_settings(words) == settings


# Tables from stored results


def test_page_of_stored_results():
    results = [made_up(value=0.2), made_up(seed=2021, value=0.4), made_up("SASRec", value=0.25, row="a|b", given={})]
    paths = write_tables(results, "pages", "recbole-diffusion compare --models=X")
    page = paths["toy"].read_text(encoding="utf-8")
    assert page.startswith("# toy\n\n- counts: 60 users, 30 items, 1,552 interactions\n- split: leave-one-out\n")
    assert "- best epoch chosen with the history: not masked\n- versions: recbole 1.2.1\n- device: cpu\n" in page
    not_masked, masked = page.index("## History not masked"), page.index("## History masked")
    assert not_masked < page.index("| SimDiffRec | **0.3000 ± 0.1414** |") < masked
    assert masked < page.index("| SimDiffRec | **0.4000 ± 0.1414** |")
    assert "| row | HR@5 | HR@10 | NDCG@10 |\n| --- | --- | --- | --- |" in page
    assert "| SimDiffRec | 2 | MRR@10 0.3000 ± 0.1414 | 3 | 8 | 2.5 | 103,360 | 1,441 |" in page
    assert "| a\\|b | 1 | MRR@10 0.2500 | 3 | 8 | 2.5 |" in page
    assert "# SimDiffRec\nrun_recbole_diffusion.py --model=SimDiffRec\n" in page
    assert "# a|b\npython run_recbole_diffusion.py --model=SASRec --dataset=toy --seed=2020\n" in page
    assert "# all\nrecbole-diffusion compare --models=X\n" in page


def test_csv_has_one_line_per_cell():
    failed = {"model": "SASRec", "dataset": "toy", "seed": 7, "given": {}, "error": "no, not today"}
    write_tables([made_up(value=0.2), failed], "pages", "")
    with open("pages/toy.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["seed"], line["error"]) for line in lines] == [
        ("SimDiffRec", "2020", ""),
        ("SASRec", "7", "no, not today"),
    ]
    assert float(lines[0]["HR@10 not masked"]) == 0.2
    assert float(lines[0]["NDCG@10 masked"]) == pytest.approx(0.3)
    assert (lines[0]["epochs"], lines[0]["best_epoch"], lines[0]["seconds"]) == ("8", "3", "20.0")
    assert lines[1]["HR@10 masked"] == ""


def test_a_run_whose_memory_is_unknown_has_a_page():
    page = write_tables([made_up(peak_memory_mb={})], "pages", "")["toy"].read_text(encoding="utf-8")  # on Windows
    assert "| 103,360 | – |" in page


def test_labels_with_commas_can_be_chosen():
    labels = ["A", "A, B, C", "A, B", "D"]
    assert split_names("A, B,C,D", "only", labels) == ["A, B, C", "D"]
    assert split_names("A,B,A", "only", labels) == ["A, B", "A"]
    assert split_names("D,A", "only", labels) == ["D", "A"]


def test_only_failures_still_make_a_page():
    failed = {"model": "SASRec", "dataset": "toy", "seed": 7, "error": "no", "given": {"alpha": 1}}
    page = write_tables([failed], "pages", "")["toy"].read_text(encoding="utf-8")
    assert "| SASRec (failed) |" in page and "| SASRec | 0, 1 failed |" in page
    assert "- SASRec, seed 7: no" in page
    assert format_text([failed], Study()).splitlines()[1].split() == ["SASRec", "–", "–", "–", "–"]


def test_the_terminal_shows_what_the_tables_show():
    usual = format_text([made_up()], Study()).splitlines()[0]
    assert "HR@10 not masked" in usual and "NDCG@10 masked" in usual and "HR@5" not in usual
    chosen = format_text([made_up()], Study(metrics=["hit@5"])).splitlines()[0]
    assert "HR@5 not masked" in chosen and "HR@10" not in chosen


# Cells


def test_every_cell_runs_with_its_settings(runner, capsys):
    rows = write_rows("strong: {model: SimDiffRec, alpha: 0.4, datasets: {toy: {beta: 0.3}, beauty: {beta: 0.9}}}")
    assert call("--models=SASRec", rows, "--seeds=2", "--seed=5", "--datasets=toy,ml-100k", "--alpha=0.2",
                "--allow_unknown_keys=True") == 0  # fmt: skip
    cells = itertools.product(("toy", "ml-100k"), ("SASRec", "SimDiffRec"), (5, 6))
    assert [(model, dataset, s["seed"]) for model, dataset, s in runner.calls] == [(m, d, s) for d, m, s in cells]
    settings = [s for model, _, s in runner.calls if model == "SimDiffRec"]
    assert settings[0]["alpha"] == 0.4 and settings[0]["beta"] == 0.3 and "beta" not in settings[2]
    assert runner.calls[0][2]["alpha"] == 0.2
    assert runner.calls[0][2]["show_progress"] is False
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert "--model=SimDiffRec --dataset=toy --seed=5 --alpha=0.4 --allow_unknown_keys=True --beta=0.3\n" in page
    assert str(DATA) not in page
    printed = capsys.readouterr().out
    assert "cell 1 of 8: SASRec on toy, seed 5\n" in printed
    assert "cell 8 of 8: strong on ml-100k, seed 6, about 22 s left" in printed
    assert f"\n{Path('out/ml-100k.md')}\nrow     HR@10 not masked" in printed


def test_kept_cells_do_not_run_again(runner, capsys):
    call("--models=SimDiffRec", "--seeds=2")
    before = Path("out/toy.md").read_bytes()
    call("--models=SimDiffRec", "--seeds=2", "--show_progress=True", "--checkpoint_dir=elsewhere")
    assert len(runner.calls) == 2
    assert Path("out/toy.md").read_bytes() == before
    assert "kept: SimDiffRec on toy, seed 2021" in capsys.readouterr().out
    call("--models=SimDiffRec", "--seeds=3")
    assert [s["seed"] for _, _, s in runner.calls] == [2020, 2021, 2022]


def test_a_changed_setting_is_a_new_cell(runner, monkeypatch):
    call("--models=SimDiffRec", "--seeds=1")
    call("--models=SimDiffRec", "--seeds=1", "--tau=0.5")
    monkeypatch.setattr(fingerprint.recbole_diffusion, "__version__", "99")
    call("--models=SimDiffRec", "--seeds=1")
    assert len(runner.calls) == len(list(Path("out/toy").glob("*.json"))) == 3


def test_config_files_count_as_settings(runner):
    Path("more.yaml").write_text("tau: 0.5\nalpha: 0.3\n", encoding="utf-8")
    call("--models=SimDiffRec", "--seeds=1", "--config_files=more.yaml", "--alpha=0.2")
    assert runner.calls[0][2]["tau"] == 0.5 and runner.calls[0][2]["alpha"] == 0.2
    call("--models=SimDiffRec", "--seeds=1", "--tau=0.5", "--alpha=0.2")
    assert len(runner.calls) == 1


def test_a_failing_cell_is_reported_and_tried_again(runner, capsys):
    runner.broken = {2021}
    assert call("--models=SimDiffRec", "--seeds=3") == 1
    assert len(runner.calls) == 3
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert "- SimDiffRec, seed 2021: RuntimeError: seed 2021 exploded\n" in page and "2, 1 failed" in page
    failed = list(Path("out/toy").glob("*.failed.json"))
    assert len(failed) == 1
    assert json.loads(failed[0].read_text(encoding="utf-8"))["error"] == "RuntimeError: seed 2021 exploded"
    assert "failed: SimDiffRec on toy, seed 2021" in capsys.readouterr().out
    assert call("--models=SimDiffRec", "--seeds=3", "--only-tables") == 1
    assert len(runner.calls) == 3 and Path("out/toy.md").read_text(encoding="utf-8") == page

    runner.broken = set()
    assert call("--models=SimDiffRec", "--seeds=3") == 0
    assert len(runner.calls) == 4 and not list(Path("out/toy").glob("*.failed.json"))


def test_interrupt_keeps_what_is_done(runner, monkeypatch):
    def interrupted(model, dataset, config_dict, data_cache):
        if config_dict["seed"] == 2021:
            raise KeyboardInterrupt
        return runner(model, dataset, config_dict)

    monkeypatch.setattr(work.quick_start, "run", interrupted)
    with pytest.raises(KeyboardInterrupt, match="finished cells are kept"):
        call("--models=SimDiffRec", "--seeds=2")
    assert len(list(Path("out/toy").glob("*"))) == 1 and Path("out/toy.md").is_file()


def test_only_tables_runs_nothing(runner, capsys):
    call("--models=SimDiffRec", "--seeds=1")
    Path("out/toy.md").unlink()
    assert run_module("compare", ["--models=SimDiffRec", "--datasets=toy", "--seeds=2", "--out=out", "--only-tables"]) == 0
    assert len(runner.calls) == 1
    assert Path("out/toy.md").is_file()
    assert "missing: SimDiffRec on toy, seed 2021" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no kept cell"):
        call("--models=SASRec", "--only-tables")


def test_tables_with_names_stand_side_by_side(runner):
    call("--models=SimDiffRec,SASRec", "--seeds=1", "--name=all")
    call("--models=SASRec", "--seeds=1", "--name=base-1")
    call("--models=SimDiffRec", "--seeds=1")
    assert len(runner.calls) == 2
    pages = {path.name: path.read_text(encoding="utf-8") for path in Path("out").glob("*.md")}
    assert set(pages) == {"all.toy.md", "base-1.toy.md", "toy.md"}
    assert "| SimDiffRec |" in pages["all.toy.md"] and "| SimDiffRec |" not in pages["base-1.toy.md"]
    assert "compare --models=SASRec --datasets=toy --name=base-1 --seeds=1\n" in pages["base-1.toy.md"]
    assert {path.name for path in Path("out").glob("*.html")} == {"all.html", "base-1.html", "report.html"}


def test_metrics_that_were_not_computed_come_from_the_kept_ranks(capsys):
    words = ["--models=SimDiffRec", "--seeds=1", "--epochs=1", "--alpha=0", "--beta=0", "--k_noise=5", "--topk=[5,10]",
             "--checkpoint_dir=checkpoints", "--use_gpu=False"]  # fmt: skip
    assert call(*words) == 0
    path = next(Path("out/toy").glob("*.json"))
    before = json.loads(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as ranks:
        expected = {"HR@1": (ranks["masked"] == 1).mean(), "HR@10": (ranks["masked"] > 0).mean(),
                    "MRR@3": sum((ranks["masked"] == k).mean() / k for k in (1, 2, 3))}  # fmt: skip
    assert call(*words, "--show=HR@1,HR@10,MRR@3,Precision@5") == 0
    with open("out/toy.csv", encoding="utf-8", newline="") as file:
        line = next(csv.DictReader(file))
    for name, value in expected.items():
        assert float(line[f"{name} masked"]) == pytest.approx(value, abs=1e-5)
    assert float(line["Precision@5 masked"]) == pytest.approx(before["test_result_masked"]["hit@5"] / 5, abs=1e-5)
    assert "| row | HR@1 | HR@10 | MRR@3 | Precision@5 |" in Path("out/toy.md").read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == before and len(list(Path("out/toy").glob("*.json"))) == 1
    path.with_suffix(".npz").unlink()
    capsys.readouterr()
    call(*words, "--show=HR@1,HR@10")
    assert "SimDiffRec on toy, seed 2020: no kept ranks for HR@1\n" in capsys.readouterr().out


def test_a_damaged_cell_is_named(runner):
    call("--models=SimDiffRec", "--seeds=1")
    kept = next(Path("out/toy").glob("*.json"))
    kept.write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=f"{kept.name}' is damaged"):
        call("--models=SimDiffRec", "--seeds=1")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--models=SimDiffRec,SimDifRec"], "SimDifRec on toy: unknown model 'SimDifRec', did you mean 'SimDiffRec'"),
        (["--models="], "nothing to compare: add --models"),
        (["--models=SASRec", "--datasets=,"], "nothing to compare: add --datasets"),
        (["--models=SASRec,SASRec"], "'SASRec' twice"),
        (["--models=SASRec", "--datasets=toy,tou"], "no file '.*tou.inter', did you mean 'toy'"),
        (["--models=SimDiffRec", "--alhpa=1"], "unknown key 'alhpa', did you mean 'alpha'"),
        (["--models=SimDiffRec", "--alpha=-1"], "alpha must lie in"),
        (["--models=SASRec", "--seeds=0"], "--seeds is how many"),
        (["--models=SASRec", "--seeds=many"], "--seeds is how many"),
        (["--models=SASRec", "--seed=x"], "seed must be a whole number"),
        (["--models=SASRec", "--model=SASRec"], "takes no 'model': use --models"),
        (["--models=SASRec", "--result_file=x.json"], "takes no 'result_file'"),
        (["--models=SASRec", "--nproc=2"], "takes no 'nproc': every training of it is one process"),
        (["--models=SASRec", "--world_size=2"], "takes no 'world_size'"),
        (["--models=SASRec", "--out"], "--out: expected one argument"),
        (["--rows=absent.yaml"], "'absent.yaml' does not exist"),
    ],
)
def test_wrong_words_end_before_the_first_training(runner, words, message):
    with pytest.raises(UsageError, match=message) as caught:
        call(*words)
    assert "\n" not in str(caught.value)
    assert not runner.calls and not Path("out").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no rows"),
        ("a: 3", "row 'a' must be a mapping"),
        ("a: {tau: 0.1}", "a on toy: unknown model 'a'"),
        ("SimDiffRec: {tua: 0.1}", "SimDiffRec on toy: unknown key 'tua'"),
        ("a: {model: SimDiffRec, seed: 1}", "row 'a' takes no 'seed'"),
        ("a: {model: SimDiffRec, nproc: 2}", "row 'a' takes no 'nproc'"),
        ("a: {model: SimDiffRec, datasets: {toy: {dataset: x}}}", "row 'a' takes no 'dataset'"),
        ("a: {model: SimDiffRec, datasets: [toy]}", "row 'a': datasets must map"),
        ("a: {model: SimDiffRec, datasets: {beuty: {alpha: 1}}}", "'beuty', did you mean 'beauty'"),
    ],
)
def test_wrong_rows_end_before_the_first_training(runner, text, message):
    with pytest.raises(UsageError, match=message):
        call(write_rows(text))
    assert not runner.calls


def test_a_real_run(capsys):
    words = ["--models=SimDiffRec", "--seeds=2", "--epochs=1", "--alpha=0", "--beta=0", "--k_noise=5",
             "--checkpoint_dir=checkpoints", "--use_gpu=False"]  # fmt: skip
    assert call(*words) == 0
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("out/toy").glob("*.json"))]
    assert [cell["seed"] for cell in cells] == [2020, 2021]
    page = Path("out/toy.md").read_text(encoding="utf-8")
    assert format_mean([cell["test_result_masked"]["hit@10"] for cell in cells]) in page
    assert "- counts: 60 users, 40 items, 552 interactions" in page
    capsys.readouterr()
    assert call(*words) == 0
    assert capsys.readouterr().out.count("kept: ") == 2
