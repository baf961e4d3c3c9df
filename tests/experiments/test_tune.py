"""The search of settings: resumable, on the validation part only, refusing what it cannot use."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from recbole_diffusion import quick_start
from recbole_diffusion.cli import run_module
from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.data.loaders import SequenceEvalDataLoader
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments.space import count_fitting, cut_to_data, ends_of, reason_against, settings_of
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import load_yaml, property_file, property_names
from recbole_diffusion.testing import cycle_sequences, write_sequences

optuna = pytest.importorskip("optuna")


@pytest.fixture
def data(tmp_path):
    return write_sequences(cycle_sequences(n_users=12), tmp_path / "data", "cycle")


@pytest.fixture
def no_training(monkeypatch):
    """Every trial has the same score at once."""
    found = {"best_valid_score": 0.5, "best_valid_result": {}, "epochs": 1}
    monkeypatch.setattr(quick_start, "validate", lambda *args, **kwargs: found)


def call(data, *words, space="tau: [0.1, 0.5]\nalpha: {low: 0.1, high: 1.0, log: True}\n", fixed_k_noise=True):
    Path("space.yaml").write_text(space, encoding="utf-8")
    given = {word.partition("=")[0] for word in words} | (set() if fixed_k_noise else {"--k_noise"})
    fixed = ["--model=SimDiffRec", "--dataset=cycle", f"--data_path={data}", "--space=space.yaml", "--trials=3",
             "--epochs=2", "--hidden_size=8", "--k_noise=3", "--topk=[1,5]", "--valid_metric=MRR@5", "--use_gpu=False",
             "--pruner=none"]  # fmt: skip
    return run_module("tune", [*(word for word in fixed if word.partition("=")[0] not in given), *words])


def trials():
    with open("runs/tune/SimDiffRec-cycle.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_goes_on_and_its_best_settings_train(data, capsys):
    assert call(data) == 0
    assert [trial["state"] for trial in trials()] == ["complete"] * 3
    assert "trial 2 (3 of 3): " in capsys.readouterr().out
    assert call(data) == 0 and len(trials()) == 3
    assert call(data, "--trials=4") == 0 and len(trials()) == 4

    path = "runs/tune/SimDiffRec-cycle.yaml"
    best = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    top = max(trials(), key=lambda trial: float(trial["score"]))
    assert best["tau"] == float(top["tau"]) and best["alpha"] == float(top["alpha"]) and best["epochs"] == 2
    assert "data_path" not in best
    result = quick_start.run("SimDiffRec", "cycle", [path], {"data_path": data, "use_gpu": False})
    assert result["best_valid_score"] == pytest.approx(float(top["score"]), abs=1e-6)


def drawn(folder):
    """The settings of all trials of a study in a folder."""
    with open(f"{folder}/SimDiffRec-cycle.csv", encoding="utf-8", newline="") as file:
        return [(trial["tau"], trial["alpha"]) for trial in csv.DictReader(file)]


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_study_that_goes_on_draws_what_it_would_have_drawn_at_once(data, no_training, search):
    words = [f"--search={search}", "--search-seed=7"]
    assert call(data, *words, "--trials=3", "--out=parts") == call(data, *words, "--trials=6", "--out=parts") == 0
    assert call(data, *words, "--trials=6", "--out=whole") == 0
    assert len(set(drawn("parts"))) == 6 and drawn("parts") == drawn("whole")
    assert call(data, f"--search={search}", "--search-seed=8", "--trials=6", "--out=other") == 0
    assert not set(drawn("other")) & set(drawn("whole"))


def test_a_grid_that_goes_on_tries_every_point_once(data, no_training):
    for trials_wanted in (2, 4):
        words = ["--search=grid", f"--trials={trials_wanted}", "--out=grid"]
        assert call(data, *words, space="tau: [0.1, 0.5]\nalpha: [0.1, 0.2]\n") == 0
    assert len(set(drawn("grid"))) == len(drawn("grid")) == 4


def test_programs_with_folders_of_their_own_share_a_study(data, no_training):
    assert call(data, "--storage=sqlite:///shared.db", "--out=one", "--trials=2") == 0
    assert call(data, "--storage=sqlite:///shared.db", "--out=two", "--trials=5") == 0
    assert len(drawn("two")) == len(set(drawn("two"))) == 5 and drawn("two")[:2] == drawn("one")
    assert not list(Path().glob("*/tune.db"))


def test_the_test_part_is_never_ranked(data, monkeypatch):
    ranked, iterate = [], SequenceEvalDataLoader.__iter__

    def watched(self):
        ranked.append(self)
        return iterate(self)

    loaders, build = [], quick_start.build_loaders
    monkeypatch.setattr(SequenceEvalDataLoader, "__iter__", watched)
    monkeypatch.setattr(quick_start, "build_loaders", lambda *args: loaders.append(build(*args)) or loaders[-1])
    assert call(data) == 0
    assert len(loaders) == 3 and {id(loader) for loader in ranked} == {id(three[1]) for three in loaders}


def test_hopeless_trials_end_early(data, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: self.number == 1)
    assert call(data) == 0
    assert [trial["state"] for trial in trials()] == ["complete", "pruned", "complete"]


def test_the_pruner_ends_a_trial_that_cannot_learn(data):
    Path("runs/tune").mkdir(parents=True)
    study = optuna.create_study(
        study_name="SimDiffRec-cycle", storage="sqlite:///runs/tune/tune.db", direction="maximize"
    )
    for rate in (0.02, 0.02, 0.02, 1e-9):  # the pruner needs three to compare with
        study.enqueue_trial({"learning_rate": rate})
    words = ["--trials=4", "--epochs=8", "--pruner=median", "--train_batch_size=16", "--beta=0"]
    assert call(data, *words, space="learning_rate: [0.02, 1.0e-9]\n") == 0
    assert [trial["state"] for trial in trials()] == ["complete", "complete", "complete", "pruned"]


def test_a_broken_trial_does_not_end_the_study(data, monkeypatch):
    validate, calls = quick_start.validate, []

    def breaks_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("Training loss is nan")
        return validate(*args, **kwargs)

    monkeypatch.setattr(quick_start, "validate", breaks_once)
    assert call(data) == 0
    assert [trial["state"] for trial in trials()] == ["fail"] + ["complete"] * 3


def test_a_search_in_which_everything_fails_ends(data, monkeypatch):
    calls = []
    monkeypatch.setattr(quick_start, "validate", lambda *args, **kwargs: calls.append(1) or 1 / 0)
    with pytest.raises(UsageError, match="no trial of study 'SimDiffRec-cycle' ended with a score"):
        call(data, "--trials=50")
    assert len(calls) == 3


def test_every_shipped_space_fits_its_model():
    for model in property_names("hyper"):
        for key, values in load_yaml(property_file("hyper", model)).items():
            for value in ends_of(key, values):
                DiffusionConfig(model, "ml-100k", config_dict={key: value})


BASELINES = {"SASRec", "GRU4Rec", "NARM", "BERT4Rec", "SRGNN", "GCSAN", "CORE", "STAMP"}


def test_the_baselines_of_the_papers_have_spaces():
    assert BASELINES <= set(property_names("hyper"))


@pytest.mark.parametrize("model", sorted(BASELINES))
def test_the_ends_of_a_baselines_space_build_a_network(data, model):
    """Settings that fit one by one may not fit one another, such as heads and width."""
    space, args = load_yaml(property_file("hyper", model)), SimpleNamespace(model=model, dataset="cycle")
    for end in (min, max):
        chosen = {key: end(values) for key, values in space.items()}
        assert reason_against(chosen, args, {"data_path": data, "use_gpu": False}, DataCache()) is None


def test_a_space_is_cut_to_the_data(data, no_training, capsys):
    args, fixed = SimpleNamespace(model="SimDiffRec", dataset="cycle"), {"data_path": data, "use_gpu": False}
    space = {"k_noise": [1, 50, 11, 5, 300], "k_sample": {"low": 2, "high": 40}, "tau": [0.1, 0.5],
             "hidden_size": [8, 16]}  # fmt: skip
    found = cut_to_data(space, args, fixed, DataCache())  # of 12 items, 11 are others
    assert found == {**space, "k_noise": [1, 11, 5], "k_sample": {"low": 2, "high": 12}}
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "search space, k_noise: nothing above 11 is tried: k_noise 50 is larger than the 11 other items of the data: lower it",
        "search space, k_sample: nothing above 12 is tried: k_sample 13 is larger than the 12 items it is a rank of",
    ]
    with pytest.raises(UsageError, match="search space, k_noise: k_noise 50 is larger than the 11 other items"):
        call(data, "--k_sample=2", space="k_noise: [50, 100]\ntau: [0.1, 0.5]\n", fixed_k_noise=False)


def test_the_shipped_space_searches_tiny_data(data, no_training):
    words = ["--model=SimDiffRec", "--dataset=cycle", f"--data_path={data}", "--trials=12", "--topk=[5]",
             "--valid_metric=MRR@5", "--use_gpu=False"]  # fmt: skip
    assert run_module("tune", words) == 0
    assert {trial["k_noise"] for trial in trials()} <= {"1", "5", "10"}


def test_counting_what_fits():
    for fitting in range(6):
        assert count_fitting([3, 4, 7, 9, 20], lambda value: value not in [3, 4, 7, 9, 20][:fitting]) == fitting


def test_a_list_may_be_a_value(data):
    space = "dropout_probs: [[0.25, 0.5], [0.1, 0.2]]\n"
    Path("space.yaml").write_text(space, encoding="utf-8")
    words = ["--model=NARM", "--dataset=cycle", f"--data_path={data}", "--space=space.yaml", "--trials=2", "--epochs=1",
             "--topk=[5]", "--valid_metric=MRR@5", "--use_gpu=False", "--search=grid"]  # fmt: skip
    assert run_module("tune", words) == 0
    best = yaml.safe_load(Path("runs/tune/NARM-cycle.yaml").read_text(encoding="utf-8"))
    assert best["dropout_probs"] in ([0.25, 0.5], [0.1, 0.2])
    assert settings_of({"a": "[1, 2]", "b": "[1, 2]"}, {"a": [[1, 2]], "b": ["[1, 2]"]}) == {"a": [1, 2], "b": "[1, 2]"}


@pytest.mark.parametrize(
    "words, space, message",
    [
        (["--model=SimDifRec"], None, "did you mean 'SimDiffRec'"),
        (["--dataset=nowhere"], None, "no file '.*nowhere.inter'"),
        (["--trials=0"], None, "--trials is how many"),
        (["--search=tpee"], None, "unknown --search 'tpee', did you mean 'tpe'"),
        (["--pruner=x"], None, "unknown --pruner 'x', there are"),
        (["--search=grid"], None, "alpha is a range"),
        (["--search-seed=x"], None, "--search-seed must be"),
        (["--storage=nodb://x"], None, "--storage=nodb://x cannot be used"),
        (["--tua=1"], None, "unknown key 'tua', did you mean 'tau'"),
        (["--eval_step=0"], None, "without validation"),
        (["--result_file=x.json"], None, "takes no 'result_file'"),
        (["--nproc=2"], None, "takes no 'nproc': every training of it is one process"),
        (["--world_size=2"], None, "takes no 'world_size'"),
        (["--resume"], None, "takes no 'resume': the same command goes on"),
        (["--config_files=resume.yaml"], None, "takes no 'resume'"),
        (["--tau=0.1", "--alpha=0.1"], None, "nothing to search"),
        ([], "tua: [1, 2]", "unknown key 'tua'"),
        ([], "tau: [0.1, -1]", "tau must lie in"),
        ([], "tau: 0.1", "must be a list of values or"),
        ([], "tau: {low: 1, high: 0.1}", "must be a list of values or"),
        (["--space=absent.yaml"], None, "'absent.yaml' does not exist"),
    ],
)
def test_wrong_words_end_before_the_first_trial(data, monkeypatch, words, space, message):
    monkeypatch.setattr(quick_start, "fit", lambda *args, **kwargs: pytest.fail("trained"))
    Path("resume.yaml").write_text("resume: True", encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        call(data, *words, **({"space": space} if space else {}))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_space_is_refused(data):
    with pytest.raises(UsageError, match="no search space for FPMC .there are: .*BERT4Rec,.*SASRec"):
        run_module("tune", ["--model=FPMC", "--dataset=cycle", f"--data_path={data}"])


def test_a_study_of_other_conditions_is_not_mixed(data, monkeypatch):
    assert call(data) == 0
    changed = r"with another settings \(epochs was 2, is 3; beta was not given, is 0.1\): give this one a new --study"
    with pytest.raises(UsageError, match=changed):
        call(data, "--epochs=3", "--beta=0.1")
    space = r"another space \(tau was \[0.1, 0.5\], is \[0.1, 0.7\]; alpha was .*, is not given\): give"
    with pytest.raises(UsageError, match=space):
        call(data, space="tau: [0.1, 0.7]")
    plain = DiffusionConfig.plain
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionConfig, "plain", lambda config: {**plain(config), "k_sample": 9})
        with pytest.raises(UsageError, match=r"another set of defaults \(k_sample was \d+, is 9\)"):
            call(data)
    write_sequences(cycle_sequences(n_users=13), data, "cycle")
    with pytest.raises(UsageError, match="another content of the data files"):
        call(data)


def test_without_optuna_one_line_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="pip install"):
        call(data)


@pytest.mark.parametrize("search", ["bayes", "random"])
def test_recboles_own_hypertuning_works(tmp_path, search, monkeypatch):
    monkeypatch.setenv("HYPEROPT_FMIN_SEED", "1")  # else one random search in 16 never draws the good rate
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    from recbole_diffusion import objective_function

    data = write_sequences(cycle_sequences(), tmp_path, "cycle")
    Path("space.hyper").write_text("learning_rate choice [0.01,0.000001]\n")
    settings = {"model": "SimDiffRec", "dataset": "cycle", "data_path": data, "checkpoint_dir": str(tmp_path / "saved"),
                "epochs": 3, "hidden_size": 8, "k_noise": 3, "topk": [5], "valid_metric": "MRR@5", "use_gpu": False,
                "show_progress": False, "train_batch_size": 16}  # fmt: skip
    Path("fixed.yaml").write_text(json.dumps(settings))
    tuning = HyperTuning(
        objective_function, params_file="space.hyper", fixed_config_file_list=["fixed.yaml"], algo=search, max_evals=4
    )
    tuning.run()
    scores = {words: result["best_valid_score"] for words, result in tuning.params2result.items()}
    assert tuning.best_score == max(scores.values()) > 0 and tuning.best_params["learning_rate"] == 0.01
