"""Pictures from results, folders of compare and checkpoints; the numbers beside them are those that were drawn."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from recbole_diffusion.cli import run_module
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import write_json
from recbole_diffusion.quick_start import load_data_and_model, run
from recbole_diffusion.reports import plot, probe
from recbole_diffusion.reports.curves import short_labels, widen
from recbole_diffusion.reports.drawing import MOST_GROUPS, style_of
from recbole_diffusion.testing import cycle_sequences, write_sequences

pytest.importorskip("matplotlib")
from matplotlib import pyplot  # noqa: E402
from matplotlib.text import Text  # noqa: E402


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained models: result files, checkpoints and results."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_sequences(cycle_sequences(), folder, "cycle")
    found = {}
    for model in ("SimDiffRec", "SASRec"):
        settings = {"data_path": data, "checkpoint_dir": str(folder / "saved"), "epochs": 3, "topk": [1, 5],
                    "valid_metric": "MRR@5", "use_gpu": False, "show_progress": False, "hidden_size": 8, "k_noise": 3,
                    "train_batch_size": 16, "allow_unknown_keys": True, "MAX_ITEM_LIST_LENGTH": 8,
                    "result_file": str(folder / f"{model}.json")}  # fmt: skip
        found[model] = run(model, "cycle", config_dict=settings)
    return SimpleNamespace(results=found, files={m: folder / f"{m}.json" for m in found},
                           checkpoints={m: r["checkpoint"] for m, r in found.items()})  # fmt: skip


def drawn(name, folder="runs/plots"):
    """The numbers of a picture, after a look at its files."""
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000
    ElementTree.parse(svg)
    with open(Path(folder) / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_learning_curves_are_those_of_the_run(runs):
    assert run_module("plot", ["curves", f"ours={runs.files['SimDiffRec']}", f"base={runs.files['SASRec']}"]) == 0
    rows, history = drawn("curves"), runs.results["SimDiffRec"]["history"]
    curves = {row["curve"] for row in rows if row["run"] == "ours"}
    assert curves == {"recommendation", "contrast", "diffusion", "mrr@5"}
    valid = [float(row["value"]) for row in rows if row["run"] == "ours" and row["curve"] == "mrr@5"]
    assert valid == history["valid"]["mrr@5"] and max(valid) == runs.results["SimDiffRec"]["best_valid_score"]
    losses = [float(row["value"]) for row in rows if (row["run"], row["curve"]) == ("base", "loss")]
    assert losses == runs.results["SASRec"]["history"]["loss"]["loss"] and len(losses) == 3
    text = Path("runs/plots/curves.svg").read_text(encoding="utf-8")
    assert "epoch" in text and "MRR@5 on validation" in text and "ours: diffusion" in text


def test_what_a_model_reports_of_itself_has_a_panel_of_its_own(runs, tmp_path):
    result = json.loads(Path(runs.files["SASRec"]).read_text(encoding="utf-8"))
    result["history"]["report"] = {"KL": [4.0, 2.0, 1.0]}
    write_json(result, tmp_path / "vae.json")
    assert run_module("plot", ["curves", f"vae={tmp_path / 'vae.json'}", f"plain={runs.files['SASRec']}"]) == 0
    rows = [row for row in drawn("curves") if row["curve"] == "KL"]
    assert [(row["run"], float(row["value"]), float(row["drawn"])) for row in rows] == [("vae", 4, 1), ("vae", 2, 0.5), ("vae", 1, 0.25)]
    assert "Reported by the model" in Path("runs/plots/curves.svg").read_text(encoding="utf-8")


def test_learning_curves_of_a_checkpoint_are_those_of_its_result(runs):
    assert run_module("plot", ["curves", f"a={runs.files['SASRec']}", "--name=result"]) == 0
    last = runs.checkpoints["SASRec"].replace("-best.pth", "-last.pth")  # the best one ends at its own epoch
    assert run_module("plot", ["curves", f"a={last}", "--name=checkpoint"]) == 0
    assert drawn("checkpoint") == drawn("result")


def test_a_checkpoint_without_a_history_is_refused(runs):
    content = torch.load(runs.checkpoints["SASRec"], weights_only=True)
    torch.save({**content, "training": None}, "bare.pth")
    with pytest.raises(UsageError, match="'bare.pth' has no learning curves: .* or a checkpoint"):
        run_module("plot", ["curves", "bare.pth"])


def sweep_folder(key="alpha", values=(0.1, 0.2), **other):
    for dataset in ("toys", "beauty"):
        for value in values:
            for seed in (1, 2):
                metrics = {"hit@10": seed / 10 + (value if isinstance(value, float) else 0)}
                content = {"row": f"{key} = {value}", "model": "SimDiffRec", "dataset": dataset, "seed": seed,
                           "given": {key: value, **other}, "fingerprint": {}, "test_result_unmasked": metrics,
                           "best_valid_result": {"hit@10": 0.9}, "test_result_masked": metrics}  # fmt: skip
                write_json(content, f"out/{dataset}/{key}{value}{seed}{len(other)}.json")


def test_a_sweep_shows_mean_and_deviation():
    sweep_folder()
    sweep_folder(beta=0.4)
    assert run_module("plot", ["sweep", "--folder=out", "--key=alpha", "--datasets=toys"]) == 0
    rows = drawn("sweep")
    assert {(row["line"], row["alpha"]) for row in rows} == {
        (line, value) for line in ("SimDiffRec", "beta=0.4") for value in ("0.1", "0.2")
    }
    first = next(row for row in rows if row["alpha"] == "0.1")
    assert float(first["mean"]) == pytest.approx(0.25) and float(first["std"]) == pytest.approx(0.0707107, abs=1e-6)
    assert first["seeds"] == "2" and {row["dataset"] for row in rows} == {"toys"}
    assert run_module("plot", ["sweep", "--folder=out", "--key=alpha", "--part=valid", "--name=valid"]) == 0
    assert {(row["dataset"], float(row["mean"])) for row in drawn("valid")} == {("toys", 0.9), ("beauty", 0.9)}


def test_runs_of_older_code_are_no_more_seeds():
    sweep_folder(values=(0.1,))
    older = json.loads(Path("out/toys/alpha0.110.json").read_text(encoding="utf-8"))
    older.update(test_result_unmasked={"hit@10": 0.9}, fingerprint={"code": "older"})
    for name in ("alpha0.110-other.json", "a-first-by-name.json"):
        write_json(older, f"out/toys/{name}")
        os.utime(f"out/toys/{name}", (1, 1))
    assert run_module("plot", ["sweep", "--folder=out", "--key=alpha", "--datasets=toys"]) == 0
    (row,) = drawn("sweep")
    assert row["seeds"] == "2" and float(row["mean"]) == pytest.approx(0.25)


def test_a_run_without_the_metric_of_a_sweep_is_named():
    sweep_folder()
    other = json.loads(Path("out/toys/alpha0.220.json").read_text(encoding="utf-8"))
    write_json({**other, "test_result_unmasked": {"hit@5": 0.1}}, "out/toys/alpha0.220.json")
    with pytest.raises(UsageError, match="'out/toys/alpha0.220.json': unknown metric 'HR@10', did you mean") as caught:
        run_module("plot", ["sweep", "--folder=out", "--key=alpha"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, 0.95])
def test_deviations_of_a_sweep_stay_between_0_and_1(figures, value):
    sweep_folder()
    for path in Path("out/toys").glob("*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        metrics = {"hit@10": value + 0.05 * (run["seed"] == 1)}  # deviation .035, mean .025 from an end
        write_json({**run, "test_result_unmasked": metrics}, path)
    run_module("plot", ["sweep", "--folder=out", "--key=alpha", "--datasets=toys"])
    ((figure, rows),) = figures
    ends = [end for bar in figure.axes[0].containers[0].lines[2][0].get_segments() for end in bar[:, 1]]
    assert rows[0]["std"] == pytest.approx(0.0353553, abs=1e-6)
    assert (min(ends), max(ends)) == pytest.approx((0, 0.0603553) if value == 0 else (0.9396447, 1), abs=1e-6)
    assert_readable(figure)


def test_a_sweep_of_words_has_equal_steps():
    sweep_folder("noise", ("gaussian", "similarity"))
    assert run_module("plot", ["sweep", "--folder=out", "--key=noise"]) == 0
    assert {row["noise"] for row in drawn("sweep")} == {"gaussian", "similarity"}


def test_lines_are_named_by_what_differs():
    assert short_labels(["A x=1 y=2", "A x=1 y=3"]) == ["y=2", "y=3"]
    assert short_labels(["A x=1", "A x=1 y=3"]) == ["A", "y=3"]
    assert short_labels(["A x=1"]) == ["A"]


def test_groups_add_up_to_the_test_result(runs):
    words = ["groups", "--metric=HR@5", "--groups=3", *(f"{model}={file}" for model, file in runs.checkpoints.items())]
    assert run_module("plot", words) == 0
    rows = drawn("groups")
    for model, result in runs.results.items():
        for split, names in (("length of the history", 3), ("popularity of the target", 2)):
            part = [row for row in rows if row["run"] == model and row["split"] == split]
            users = np.array([int(row["users"]) for row in part])
            mean = (users * [float(row["mean"]) for row in part]).sum() / users.sum()
            assert len(part) == names and users.sum() == 40
            assert mean == pytest.approx(result["test_result_unmasked"]["hit@5"], abs=1e-5)


@pytest.fixture
def figures(monkeypatch):
    """Pictures that are kept open instead of being written, with their numbers."""
    found = []
    monkeypatch.setattr(plot, "save", lambda figure, rows, path: found.append((figure, rows)))
    yield found
    for figure, _ in found:
        pyplot.close(figure)


def assert_readable(figure):
    """Every text lies inside the picture, and no label of an axis on its neighbour."""
    figure.canvas.draw()
    ends = {axis: sorted(axis.get_view_interval()) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
    undrawn = {tick.label1 for axis, (low, high) in ends.items() for tick in [*axis.majorTicks, *axis.minorTicks]
               if not low <= tick.get_loc() <= high}  # fmt: skip
    for text in figure.findobj(lambda part: isinstance(part, Text) and part.get_visible() and part.get_text().strip()):
        if text in undrawn:
            continue
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} at {box.extents} of {figure.bbox.extents}"
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:])), axes.get_xlabel()


LONG = "a label that is rather long, in words of its own, and then goes on"


@pytest.mark.parametrize("groups, labels", [(5, ["a", "b"]), (12, [LONG, LONG])])
def test_groups_of_many_users_are_readable(runs, figures, monkeypatch, groups, labels):
    random = np.random.default_rng(0)
    lengths, targets = random.integers(5, 400, 1_000_000), np.arange(1_000_000)
    part = probe.RankedUsers(random.integers(0, 11, 1_000_000), 10, np.stack([targets] * 2), lengths, targets % 3 == 0)
    monkeypatch.setattr(probe, "rank_test_part", lambda *args: part)
    files = [f"{label}{i}={runs.checkpoints['SASRec']}" for i, label in enumerate(labels)]
    assert run_module("plot", ["groups", f"--groups={groups}", *files]) == 0
    ((figure, rows),) = figures
    assert_readable(figure)
    assert len(rows) == 2 * (groups + 2)


def test_intervals_of_groups_stay_between_0_and_1(runs, figures):
    run_module("plot", ["groups", "--metric=HR@5", f"a={runs.checkpoints['SimDiffRec']}"])
    ((figure, rows),) = figures
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    for axes in figure.axes:
        bars = axes.containers[0].lines[2][0]
        ends = [end for segment in bars.get_segments() for end in segment[:, 1]]
        assert ends and 0 <= min(ends) and max(ends) <= 1 and axes.get_ylim()[1] <= 1.02


def test_losses_of_other_models_are_drawn_relative_to_their_first_epoch(runs, figures):
    files = [f"{model}={file}" for model, file in runs.files.items()]
    for words in (files, files[:1]):
        assert run_module("plot", ["curves", *words]) == 0
    (both, rows), (alone, plain_rows) = figures
    firsts = [row["drawn"] for row in rows if row["epoch"] == 0 and row["curve"] != "mrr@5"]
    assert firsts == [1.0] * 4 and both.axes[0].get_ylabel() == "training loss (first epoch = 1)"
    lines = {line.get_label(): line.get_ydata() for line in both.axes[0].lines}
    losses = runs.results["SASRec"]["history"]["loss"]["loss"]
    assert list(lines["SASRec"]) == pytest.approx([loss / losses[0] for loss in losses])
    assert [row["value"] for row in rows if (row["run"], row["curve"]) == ("SASRec", "loss")] == losses
    assert all(row["drawn"] == row["value"] for row in plain_rows) and "parts as weighted" in alone.axes[0].get_ylabel()
    assert_readable(both), assert_readable(alone)


def test_every_group_looks_different():
    styles = [tuple(style_of(i).items()) for i in range(MOST_GROUPS)]
    assert len(set(styles)) == MOST_GROUPS == 49


def test_lengths_are_those_of_the_whole_history(runs):
    part = probe.rank_test_part(runs.checkpoints["SASRec"])
    assert sorted(part.lengths.tolist()) == sorted(len(items) - 1 for items in cycle_sequences())


def test_a_small_difference_does_not_fill_the_axis():
    axes = SimpleNamespace(limits=(0.0310, 0.0312))
    axes.get_ylim, axes.set_ylim = lambda: axes.limits, lambda *limits: setattr(axes, "limits", limits)
    widen(axes)
    assert axes.limits == pytest.approx((0.0311 * 0.9, 0.0311 * 1.1))
    axes.limits = (0.02, 0.04)
    widen(axes)
    assert axes.limits == pytest.approx((0.02, 0.04))


@pytest.mark.parametrize("what", ["sequences", "items"])
def test_embeddings_are_drawn_for_the_same_points(runs, what):
    files = [f"{model}={file}" for model, file in runs.checkpoints.items()]
    words = ["tsne", f"--what={what}", "--points=30", "--users=3", *files]
    assert run_module("plot", words) == 0
    rows = drawn("tsne")
    points = {model: [row["point"] for row in rows if row["run"] == model] for model in runs.checkpoints}
    assert points["SimDiffRec"] == points["SASRec"] and len(points["SASRec"]) == (30 if what == "sequences" else 12)
    assert len({row["group"] for row in rows}) > 1
    first = Path("runs/plots/tsne.csv").read_bytes()
    run_module("plot", words)
    assert Path("runs/plots/tsne.csv").read_bytes() == first


def test_neighbours_of_a_session_are_drawn_by_kind(tmp_path):
    data = write_sequences(cycle_sequences(), tmp_path, "cycle")
    settings = {"data_path": data, "checkpoint_dir": str(tmp_path / "saved"), "epochs": 1, "topk": [5], "k_neighbors": 2,
                "valid_metric": "MRR@5", "use_gpu": False, "show_progress": False, "hidden_size": 8}  # fmt: skip
    files = {kind: run("DiffSBR", "cycle", config_dict={**settings, **more})["checkpoint"]
             for kind, more in (("latent", {}), ("observable", {"neighbors": "observable"}))}  # fmt: skip
    assert run_module("plot", ["tsne", "--what=neighbors", "--points=50", f"full={files['latent']}"]) == 0
    groups = [row["group"] for row in drawn("tsne")]
    counts = {name: groups.count(name) for name in set(groups)}
    assert counts == {"session": 10, "observable neighbour": 20, "latent neighbour": 20}
    with pytest.raises(UsageError, match="has only one kind of neighbours"):
        run_module("plot", ["tsne", "--what=neighbors", f"a={files['observable']}"])


def test_neighbours_come_from_training_sessions(tmp_path):
    loaded = load_data_and_model(run("DiffSBR", "cycle", config_dict={
        "data_path": write_sequences(cycle_sequences(), tmp_path, "cycle"), "checkpoint_dir": str(tmp_path / "saved"),
        "epochs": 1, "topk": [5], "valid_metric": "MRR@5", "use_gpu": False, "show_progress": False, "hidden_size": 8,
    })["checkpoint"])  # fmt: skip
    model, batch = loaded[1], loaded[5]._dataset[[0, 1]]
    session, observable, latent = model.neighbors(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    distance = torch.cdist(observable, model.encoded_bank().vectors)
    assert session.shape == (2, 8) and latent.shape == (2, 3, 8) and distance.min(-1).values.max() < 1e-3


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the following arguments are required"),
        (["pie"], "invalid choice"),
        (["curves", "absent.json"], "file 'absent.json' does not exist"),
        (["curves", "a=note.json"], "has no learning curves"),
        (["curves", "a={result}", "a={result}"], "two files have the label 'a'"),
        (["curves", "a={result}", "--metric=HR@7"], "unknown metric 'HR@7'|unknown metric 'hit@7'"),
        (["sweep", "--key=alpha", "--folder=nowhere"], "no kept run in 'nowhere' was given the setting 'alpha'"),
        (["sweep", "--key=alpha", "--part=train"], "--part must be test or valid"),
        (["groups", "a={checkpoint}", "--groups=1"], "--groups must be a whole number from 2"),
        (["groups", "a={checkpoint}", "--metric=HR@50"], "unknown metric 'hit@50'"),
        (["groups", "a={result}"], "not a checkpoint"),
        (["tsne", "a={checkpoint}", "--what=users"], "--what must be sequences, items, neighbors, got"),
        (["tsne", "a={checkpoint}", "--what=neighbors"], "SASRec has no neighbours to draw"),
        (["tsne", "a={checkpoint}", "--points=3"], "--points must be a whole number from 10"),
        (["tsne", "a={checkpoint}", "--users=50"], "--users: 50 are more than a reader can tell apart, at most 49"),
    ],
)
def test_wrong_words(runs, words, message):
    Path("note.json").write_text("{}", encoding="utf-8")
    names = {"result": runs.files["SASRec"], "checkpoint": runs.checkpoints["SASRec"]}
    with pytest.raises(UsageError, match=message) as caught:
        run_module("plot", [word.format(**names) for word in words])
    assert "\n" not in str(caught.value)


def test_too_many_files_are_refused(runs):
    files = [shutil.copy(runs.files["SASRec"], f"copy{i}.json") for i in range(8)]
    with pytest.raises(UsageError, match="8 files are more than a reader can tell apart"):
        run_module("plot", ["curves", *files])


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="pip install"):
        run_module("plot", ["sweep", "--key=alpha"])


def test_every_part_of_the_loss_is_logged_by_name(tmp_path, monkeypatch):
    from recbole.utils.wandblogger import WandbLogger
    from torch.utils.tensorboard import SummaryWriter

    scalars, sent = [], []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda self, name, *args: scalars.append(name))
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda self, metrics, head: sent.append((head, set(metrics))))
    data = write_sequences(cycle_sequences(n_users=8), tmp_path, "cycle")
    settings = {"data_path": data, "epochs": 1, "topk": [5], "valid_metric": "MRR@5", "use_gpu": False, "k_noise": 3,
                "show_progress": False, "hidden_size": 8}  # fmt: skip
    run("SimDiffRec", "cycle", config_dict=settings)
    parts = {"recommendation", "contrast", "diffusion"}
    assert {f"Loss/Train/{name}" for name in parts} <= set(scalars)
    assert ("train", {*parts, "train_step"}) in sent


def test_history_of_a_run_is_json(runs):
    history = json.loads(runs.files["SimDiffRec"].read_text())["history"]
    assert history["epoch"] == [0, 1, 2] == history["valid_epoch"]
    assert all(len(values) == 3 for part in ("loss", "valid") for values in history[part].values())
