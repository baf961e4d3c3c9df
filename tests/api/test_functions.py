"""compare, tune, plot and recommend from Python."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion import compare, plot, recommend, run, tune
from recbole_diffusion.api.words import as_file, joined
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.properties import load_yaml
from recbole_diffusion.testing import cycle_sequences, write_sequences

TINY = {"epochs": 2, "topk": [1, 5], "valid_metric": "MRR@5", "use_gpu": False, "show_progress": False,
        "hidden_size": 8, "inner_size": 16, "train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "allow_unknown_keys": True}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model, its data and a comparison of two models with one training each."""
    folder = tmp_path_factory.mktemp("api")
    data = write_sequences(cycle_sequences(), folder, "cycle")
    settings = {**TINY, "data_path": data, "checkpoint_dir": str(folder / "saved")}
    result = run("SASRec", "cycle", config_dict=settings)
    rows = {"short": {"model": "SASRec", "n_layers": 1}, "long": {"model": "SASRec", "n_layers": 2}}
    found = compare(rows=rows, datasets="cycle", seeds=1, out=str(folder / "runs"), show=["HR@5", "MRR@5"], **settings)
    return SimpleNamespace(run=result, compared=found, settings=settings, data=data, folder=folder)


def test_a_comparison_is_a_table(trained):
    found = trained.compared
    assert list(found.table.index) == [
        ("cycle", history, row) for history in ("not masked", "masked") for row in ("short", "long")
    ]
    assert list(found.table.columns) == [
        ("HR@5", "mean"),
        ("HR@5", "std"),
        ("MRR@5", "mean"),
        ("MRR@5", "std"),
        ("seeds", ""),
    ]
    cells = found.cells.set_index("row")
    for row in ("short", "long"):
        for history in ("masked", "not masked"):
            assert found.table.loc[("cycle", history, row), ("HR@5", "mean")] == cells.loc[row, f"HR@5 {history}"]
    assert found.table["HR@5"]["std"].isna().all() and found.table["seeds"].eq(1).all(axis=None)
    assert cells.loc["short", "parameters"] < cells.loc["long", "parameters"] and cells["error"].isna().all()
    assert set(found.tests["over"]) == {"users"} and set(found.tests["other"]) == {"short"}  # one seed tests nothing
    assert found.published.empty and found.page.is_file()
    assert "short" in str(found) and f"{cells.loc['long', 'HR@5 not masked']:.4f}" in found._repr_html_()


def test_a_comparison_goes_on_from_what_is_kept(trained, capsys):
    again = compare(rows={"short": {"model": "SASRec", "n_layers": 1}}, datasets=["cycle"], seeds=1,
                    out=str(trained.folder / "runs"), name="again", **trained.settings)  # fmt: skip
    assert "kept: short on cycle" in capsys.readouterr().out
    assert again.cells.loc[0, "HR@5 masked"] == trained.compared.cells.loc[0, "HR@5 masked"]
    command = again.study.command  # can be typed: the rows are in a file
    path = next(word for word in command.split() if word.startswith("--rows=")).partition("=")[2]
    assert load_yaml(path) == {"short": {"model": "SASRec", "n_layers": 1}}


def test_a_comparison_shows_validation_figures_when_asked(trained):
    found = compare(rows={"short": {"model": "SASRec", "n_layers": 1}}, datasets=["cycle"], seeds=1, validation=True,
                    out=str(trained.folder / "runs"), name="valid", **trained.settings)  # fmt: skip
    by_epoch = found.results[0]["history"]["valid"]["mrr@5"]
    assert len(by_epoch) == 2 and found.cells.loc[0, "MRR@5 best validation"] == max(by_epoch)
    assert "MRR@5 best validation" not in trained.compared.cells


def test_a_comparison_of_a_paper_has_its_figures():
    found = compare(
        paper="simdiffrec.table2", datasets="beauty", only=["SASRec"], only_tables=True, data_path="nowhere"
    )
    assert found.table.empty and found.cells.empty and found.tests.empty
    assert found.published.loc[("beauty", "SASRec"), "HR@5"] == pytest.approx(0.0385, abs=0.03)
    assert "SASRec" in str(found)


def test_what_cannot_be_compared_is_refused(trained):
    with pytest.raises(UsageError, match="models must be a list of names"):
        compare(models=[SimpleNamespace], datasets="cycle")
    with pytest.raises(UsageError, match="--seeds is how many seeds"):
        compare(models="SASRec", datasets="cycle", seeds=0)
    with pytest.raises(UsageError, match="unknown key 'epoch', did you mean 'epochs'"):
        compare(models="SASRec", datasets="cycle", data_path=trained.data, epoch=3)


def test_a_search_returns_its_trials_and_the_best(trained):
    pytest.importorskip("optuna")
    found = tune("SASRec", "cycle", trials=2, space={"learning_rate": [0.001, 0.01]}, search_by="grid", pruner="none",
                 **trained.settings)  # fmt: skip
    assert sorted(found.trials["learning_rate"]) == [0.001, 0.01] and set(found.trials["state"]) == {"complete"}
    top = found.trials.loc[found.trials["score"].idxmax()]
    assert found.score == top["score"] and found.best["learning_rate"] == top["learning_rate"]
    assert found.best["hidden_size"] == 8 and load_yaml(found.file)["learning_rate"] == top["learning_rate"]
    assert f"{found.metric} {found.score:.4f}" in str(found)


def test_recommendations_are_a_table(trained):
    found = recommend(trained.run, {"a": ["i3", "i4"], "b": ["i7"]}, k=3)
    assert list(found.columns) == ["user", "rank", "item", "score", "source"]
    assert list(found["user"]) == ["a"] * 3 + ["b"] * 3 and list(found["rank"]) == [1, 2, 3] * 2
    model = Recommender.load(trained.run["checkpoint"])
    assert [tuple(pair) for pair in found.loc[found["user"] == "b", ["item", "score"]].to_numpy()] == model.recommend(
        [["i3", "i4"], ["i7"]], 3
    )[1]
    pd.testing.assert_frame_equal(
        recommend(model, [["i3", "i4"], ["i7"]], k=3).drop(columns="user"), found.drop(columns="user")
    )


def test_recommendations_for_a_frame_go_by_time(trained):
    frame = pd.DataFrame({"user_id": ["b", "a", "a"], "item_id": ["i7", "i4", "i3"], "timestamp": ["9", "10", "9"]})
    expected = recommend(trained.run, {"b": ["i7"], "a": ["i3", "i4"]})
    pd.testing.assert_frame_equal(recommend(trained.run["checkpoint"], frame), expected)
    dates = frame.assign(timestamp=pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-01"]))
    pd.testing.assert_frame_equal(recommend(trained.run["checkpoint"], dates), expected)
    unnamed = frame.iloc[[0, 2, 1]].drop(columns="timestamp").rename(columns={"user_id": "user", "item_id": "item"})
    pd.testing.assert_frame_equal(recommend(trained.run["checkpoint"], unnamed), expected)


def test_recommendations_for_users_of_the_data(trained):
    found = recommend(trained.run, users=["u1"], k=2)
    assert list(found["user"]) == ["u1", "u1"]
    with pytest.raises(UsageError, match="no user 'nobody'"):
        recommend(trained.run, users=["nobody"])


@pytest.mark.parametrize(
    "histories, message",
    [
        (None, "either histories or users"),
        (
            pd.DataFrame({"user": ["a"], "thing": ["i3"]}),
            "no column of the item: name it item_id, item; there are user, thing",
        ),
        (pd.DataFrame({"user": ["a", None], "item": ["i3", "i4"]}), "row 1 has no user"),
        (
            pd.DataFrame({"user": ["a"], "item": ["i3"], "time": ["soon"]}),
            "'soon' and the others of 'time' are no times",
        ),
        ([["i3"], "i4"], "history 1 must be a list"),
    ],
)
def test_what_cannot_be_recommended_for_is_refused(trained, histories, message):
    with pytest.raises(UsageError, match=message):
        recommend(trained.run, histories)


def test_pictures_are_figures_and_leave_matplotlib_alone(trained):
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    losses, valid = plot.curves(trained.run).axes
    history = trained.run["history"]
    assert list(valid.lines[0].get_ydata()) == history["valid"]["mrr@5"] and len(losses.lines) == 1
    labels = (
        plot.curves({"one": trained.run, "two": trained.run["checkpoint"]}, metric="HR@5")
        .axes[0]
        .get_legend_handles_labels()[1]
    )
    assert [label.partition(":")[0] for label in labels] == ["one", "two"]
    means = trained.compared.table.xs("not masked", level="history")["HR@5"]["mean"]
    line = plot.sweep("n_layers", trained.compared, metric="HR@5").axes[0].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), means)
    assert len(plot.groups(trained.run, metric="HR@5", groups=2).axes) == 2
    assert len(plot.tsne([trained.run], points=20).axes) == 1
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_what_cannot_be_drawn_is_refused(trained):
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="two runs have the label 'SASRec': give a dict"):
        plot.curves([trained.run, trained.run])
    with pytest.raises(UsageError, match="a label cannot hold '='"):
        plot.curves({"k=3": trained.run})
    with pytest.raises(UsageError, match="was not saved"):
        plot.groups({**trained.run, "checkpoint": None})
    with pytest.raises(UsageError, match="unknown metric"):
        plot.curves(trained.run, metric="HR@7")


def test_words(tmp_path):
    assert (
        joined(["a", "b"], "models") == "a, b" and joined("a,b", "models") == "a,b" and joined(None, "models") is None
    )
    path = as_file({"tau": [np.float64(0.5)]}, "space", tmp_path)
    assert load_yaml(path) == {"tau": [0.5]} and as_file(path, "space", tmp_path) == path


def test_the_old_path_of_the_recommender_and_the_function_hold_both():
    code = """
from recbole_diffusion.recommend import Recommender, UnknownItemError
from recbole_diffusion import recommend
import recbole_diffusion, recbole_diffusion.recommend
from recbole_diffusion.serving import recommender
assert callable(recommend) and recbole_diffusion.recommend is recommend
assert Recommender is recommender.Recommender and UnknownItemError is recommender.UnknownItemError
from recbole_diffusion import Recommender as same
assert same is Recommender
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        exec("from recbole_diffusion.recommend import nothing")


def test_everything_public_is_there():
    package = importlib.import_module("recbole_diffusion")
    for name in package.__all__:
        assert getattr(package, name) and name in dir(package)
