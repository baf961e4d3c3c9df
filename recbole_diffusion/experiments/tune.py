"""``recbole-diffusion tune``: search settings with Optuna, on the validation part only."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import yaml

from recbole_diffusion import quick_start
from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.experiments.fingerprint import data_hash, settings_hash
from recbole_diffusion.experiments.selection import ONE_PROCESS, check_files, read_count, refuse
from recbole_diffusion.experiments.space import cut_to_data, grid_of, read_space, settings_of, suggest
from recbole_diffusion.experiments.work import first_line
from recbole_diffusion.files import make_folder
from recbole_diffusion.reports.commands import format_settings
from recbole_diffusion.reports.tables import write_text
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.free import PLACES
from recbole_diffusion.settings.recipes import expand_config_files

MOST_FAILURES = 3  # in a row before the search ends
REFUSED = {
    **dict.fromkeys(("result_file", "ranks_file"), "what it finds is kept in --out"),
    **ONE_PROCESS,
    "resume": "the same command goes on with the study, a trial that was stopped is lost",
}


def main(args, settings):
    """Run trials until the study has enough of them, and write the best settings; returns 0. See :func:`search`."""
    study, space, settings, metric = search(args, settings)
    report(study, args, settings, space, metric)
    return 0


def search(args, settings):
    """Run trials until the study has enough of them.

    Args:
        args (argparse.Namespace): see :func:`recbole_diffusion.experiments.arguments.add_tune`.
        settings (dict): settings of all trials, typed.

    Returns:
        tuple: the study (optuna.Study), the space that was searched (dict), the settings with those of config files
        (dict), the validation metric (str).

    Raises:
        UsageError: for wrong words, before anything is trained.
    """
    optuna = import_optuna()
    wanted = read_count(args.trials, "trials", "how many finished trials")
    settings = expand_config_files(settings)
    refuse(settings, REFUSED, where="tune")
    config = DiffusionConfig(args.model, args.dataset, config_dict=settings)
    check_files(config)
    if config["eval_step"] <= 0:
        raise UsageError(f"eval_step is {config['eval_step']}: without validation there is nothing to choose by")
    cache = DataCache()
    space = cut_to_data(read_space(args, settings), args, settings, cache)
    study = open_study(optuna, args, space, "maximize" if config["valid_metric_bigger"] else "minimize")
    refuse_other_conditions(study, conditions(config, settings, space), config.plain())

    def stop_when_done(study, trial):
        print(describe_trial(study, trial, space, wanted), flush=True)
        if count_finished(study) >= wanted or only_failures(study):
            study.stop()

    if count_finished(study) < wanted:
        objective = make_objective(optuna, args, settings, space, cache)
        study.optimize(objective, callbacks=[stop_when_done], catch=(Exception,))
    return study, space, settings, config["valid_metric"]


def import_optuna():
    """The package ``optuna``, quiet. Raises UsageError where it is missing."""
    try:
        import optuna
    except ImportError:
        raise UsageError("tune needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# Input


def open_study(optuna, args, space, direction):
    """The study of the command, new or going on. Raises UsageError for an unusable storage or word."""
    samplers = {
        "tpe": lambda seed: seeded_by_trial(optuna, optuna.samplers.TPESampler, seed),
        "random": lambda seed: seeded_by_trial(optuna, optuna.samplers.RandomSampler, seed),
        # All programs of a study must shuffle the grid alike; what was tried is known from the study.
        "grid": lambda seed: optuna.samplers.GridSampler(grid_of(space), seed=seed),
    }
    pruners = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2),
        "halving": optuna.pruners.SuccessiveHalvingPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    sampler, pruner = pick("search", args.search, samplers), pick("pruner", args.pruner, pruners)
    if not args.search_seed.isdecimal():
        raise UsageError(f"--search-seed must be a whole number, got '{args.search_seed}'")
    storage = args.storage
    if not storage:
        make_folder(args.out, "out")
        storage = f"sqlite:///{Path(args.out) / 'tune.db'}"
    try:
        return optuna.create_study(
            study_name=args.study or f"{args.model}-{args.dataset}", storage=storage, load_if_exists=True,
            sampler=sampler(int(args.search_seed)), pruner=pruner, direction=direction,
        )  # fmt: skip
    except Exception as error:  # each database has errors of its own
        raise UsageError(f"--storage={storage} cannot be used: {first_line(error)}") from None


def seeded_by_trial(optuna, kind, seed):
    """A sampler that starts anew for every trial, from the seed and the number of the trial in its study.

    A sampler that starts once per program draws the same again when a study goes on, or on the next machine that shares
    it. Numbers of trials are given once by the database, so that no two trials of a study draw alike, and a study that
    is stopped and goes on draws what it would have drawn at once.

    Args:
        optuna (module): the package.
        kind (type): a sampler of Optuna that takes ``seed``.
        seed (int): of the search.

    Returns:
        optuna.samplers.BaseSampler: the sampler.
    """

    class SeededByTrial(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            self.sampler = kind(seed=int(np.random.SeedSequence([seed, trial.number]).generate_state(1)[0]))
            return self.sampler.infer_relative_search_space(study, trial)

        def sample_relative(self, study, trial, search_space):
            return self.sampler.sample_relative(study, trial, search_space)

        def sample_independent(self, study, trial, param_name, param_distribution):
            return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    return SeededByTrial()


def pick(option, name, known):
    """A thing by name. Raises UsageError."""
    if name not in known:
        hint = did_you_mean(name, known) or f", there are: {', '.join(known)}"
        raise UsageError(f"unknown --{option} '{name}'{hint}")
    return known[name]


# Trials


def conditions(config, settings, space):
    """What must not change within a study: data, fixed settings, space, and the metric that chooses."""
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "metric": config["valid_metric"],
        "settings": {key: value for key, value in settings.items() if key not in PLACES},
        "space": space,
        "content of the data files": data_hash(config),
        "set of defaults": settings_hash(config),
    }


def refuse_other_conditions(study, wanted, defaults):
    """Raise UsageError when a study that goes on was started under other conditions; note those of a new one.

    Args:
        study (optuna.Study): new or going on.
        wanted (dict): see :func:`conditions`.
        defaults (dict): all settings; of studies that keep them, they tell which default has changed.
    """
    wanted, defaults = json.loads(json.dumps([wanted, defaults]))  # as a database gives them back
    found = study.user_attrs.get("conditions")
    if found is None:
        study.set_user_attr("conditions", wanted)
        study.set_user_attr("defaults", defaults)
        return
    for what, value in wanted.items():
        if found.get(what) != value:
            is_hash = what == "set of defaults"
            before, now = (study.user_attrs.get("defaults"), defaults) if is_hash else (found.get(what), value)
            change = describe_change(before, now)
            hint = f"another {what} ({change})" if change else f"another {what}"
            raise UsageError(f"study '{study.study_name}' was started with {hint}: give this one a new --study")


def describe_change(before, now):
    """The settings that changed and how, in words; nothing where these are no settings."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return ""
    both = [key for key in {**before, **now} if key not in PLACES]
    changed = [key for key in both if before.get(key, ...) != now.get(key, ...)]
    words = [f"{key} was {before.get(key, 'not given')}, is {now.get(key, 'not given')}" for key in changed[:3]]
    return "; ".join(words + [f"and {len(changed) - 3} more"] * (len(changed) > 3))


def make_objective(optuna, args, settings, space, cache):
    """The function of a trial: train with its settings, report every validation, end early when it is hopeless."""

    def objective(trial):
        chosen = settings_of({key: suggest(trial, key, values) for key, values in space.items()}, space)

        def after_validation(epoch, score):
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()

        config_dict = {"show_progress": False, **settings, **chosen}
        found = quick_start.validate(
            args.model, args.dataset, config_dict=config_dict, data_cache=cache, callback=after_validation
        )
        trial.set_user_attr("valid", found["best_valid_result"])
        trial.set_user_attr("epochs", found["epochs"])
        return found["best_valid_score"]

    return objective


def count_finished(study):
    """Trials that ended with a score or were ended early; failed ones and those of killed programs do not count."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def only_failures(study):
    """Whether the latest trials all failed, so that more would fail as well."""
    latest = [trial.state.name for trial in study.trials if trial.state.is_finished()][-MOST_FAILURES:]
    return latest == ["FAIL"] * MOST_FAILURES


def describe_trial(study, trial, space, wanted):
    """A finished trial as one line."""
    score = f"{trial.value:.4f}" if trial.value is not None else trial.state.name.lower()
    chosen = format_settings(settings_of(trial.params, space))
    return f"trial {trial.number} ({count_finished(study)} of {wanted}): {chosen}: {score}"


# Output


def report(study, args, settings, space, metric):
    """Write the best settings and all trials, and print where they are.

    Returns:
        Path: the file of the best settings.

    Raises:
        UsageError: when no trial ended with a score.
    """
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        raise UsageError(f"no trial of study '{study.study_name}' ended with a score: see the errors above")
    best, folder = study.best_trial, Path(args.out)
    fixed = {key: value for key, value in settings.items() if key not in PLACES}
    chosen = settings_of(best.params, space)
    content = {**fixed, **chosen}
    head = f"# Best of {count_finished(study)} trials of study {study.study_name}: {args.model} on {args.dataset}\n"
    head += f"# {metric} {best.value:.5f} on the validation part (trial {best.number}); the test part was not ranked.\n"
    path = folder / f"{study.study_name}.yaml"
    write_text(path, head + yaml.safe_dump(content, sort_keys=False))
    write_text(folder / f"{study.study_name}.csv", format_trials(study))
    print(f"\nbest of {count_finished(study)} trials: {metric} {best.value:.4f} with {format_settings(chosen)}")
    print(f"all trials: {folder / study.study_name}.csv\nbest settings: {path}; use them with")
    print(f"  recbole-diffusion --model={args.model} --dataset={args.dataset} --config_files={path}")
    return path


def format_trials(study):
    """One line per trial: number, state, score, epochs, settings."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "epochs", *keys])
    for trial in study.trials:
        facts = [trial.number, trial.state.name.lower(), trial.value, trial.user_attrs.get("epochs")]
        writer.writerow([*facts, *(trial.params.get(key) for key in keys)])
    return text.getvalue()
