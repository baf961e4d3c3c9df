"""The command ``evaluate``: metrics of a checkpoint on its data, as its training measured them."""

import logging
import os
from pathlib import Path

import torch

from recbole_diffusion import processes
from recbole_diffusion.data.build import check_against_data
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import expand_home, make_folder, plain, write_json
from recbole_diffusion.quick_start import config_of, restore
from recbole_diffusion.serving.arguments import CHANGEABLE
from recbole_diffusion.serving.recommender import SAMPLING_SETTINGS, check_sampling
from recbole_diffusion.settings import checks
from recbole_diffusion.settings.free import FREE_SETTINGS
from recbole_diffusion.settings.recbole_keys import EVAL_ARGS
from recbole_diffusion.training.checkpoint import data_fingerprint, load_checkpoint
from recbole_diffusion.training.evaluation import check_ranks_file, evaluate_both_protocols, write_ranks
from recbole_diffusion.training.launch import run_processes, split_group
from recbole_diffusion.training.records import Clock, describe_process, describe_subject
from recbole_diffusion.training.result import EvaluationResult
from recbole_diffusion.training.surroundings import left_as_found
from recbole_diffusion.training.trainer import evaluating_trainer

PARTS = {"test": ("test",), "valid": ("valid",), "both": ("valid", "test")}
SHOWN_AS_TRAINED = ("valid_metric", "valid_metric_bigger", "preset")  # which chose the epoch, and measure nothing here


def main(args, settings):
    """Run ``recbole-diffusion evaluate``; returns 0."""
    result = evaluate_checkpoint(args.checkpoint, args.part, settings, args.output, args.trust_checkpoint)
    if processes.is_first():
        print(result)
    return 0


@left_as_found()
def evaluate_checkpoint(path, part="test", settings=None, output=None, trust_checkpoint=False):
    """Measure a checkpoint on its data set, by the code of a run's last test.

    Args:
        path (str or Path): file written by a training.
        part (str): ``test``, ``valid`` or ``both``.
        settings (dict, optional): see :data:`recbole_diffusion.serving.arguments.CHANGEABLE`; ``nproc`` and its like start processes as of a training.
        output (str or Path, optional): JSON file for the result.
        trust_checkpoint (bool): read a pickle from elsewhere and execute any code in it.

    Returns:
        EvaluationResult: all processes have the same.

    Raises:
        UsageError: for a file that is no checkpoint, data that are not those of the training, and a setting that belongs to data
            or weights.
    """
    if part not in PARTS:
        raise UsageError(f"part must be one of {', '.join(PARTS)}, got '{part}'{did_you_mean(part, PARTS)}")
    clock = Clock()
    settings, group = split_group(settings)
    path, output = expand_home(str(path)), output and expand_home(str(output))
    checkpoint = load_checkpoint(path, trust_checkpoint)
    changes = chosen_changes(checkpoint["config"], settings)
    check_places(part, changes["ranks_file"], output)
    if group:
        check_ranks_file(changes["ranks_file"], group["world_size"])
        config_of(checkpoint, path, settings.get("data_path"), changes)  # refuses before anything is started
        arguments = (path, part, settings, output, trust_checkpoint)
        advice = "lower eval_batch_size or take fewer processes"
        return EvaluationResult(run_processes(evaluate_checkpoint, arguments, **group, advice=advice))
    if not processes.is_first():
        logging.getLogger().setLevel(logging.ERROR)  # one tells what is odd about the data
    changes["checkpoint_dir"] = os.path.dirname(path) or "."  # is there, and nothing is written to it
    config, network, data, counts, loaders = restore(checkpoint, path, settings.get("data_path"), changes)
    for key in ("state_dict", "optimizer"):  # the model has its weights
        checkpoint.pop(key, None)
    check_against_data(config, data)
    check_ranks_file(config["ranks_file"], processes.world_size())
    check_rows(checkpoint, config, loaders, path)
    for key in SHOWN_AS_TRAINED:
        config[key] = checkpoint["config"].get(key)
    trainer = evaluating_trainer(config, network, loaders[0])
    clock.lap("data")
    measured = {}
    for name in PARTS[part]:
        measured.update(measure(config, trainer, loaders, name))
        clock.lap(name)
    result = EvaluationResult({
        **describe_subject(config, counts, loaders[0]._dataset, network),
        "parts": list(PARTS[part]),
        **measured,
        "epoch": checkpoint["epoch"],
        "changed": changed(checkpoint["config"], config, settings),
        "seconds": clock.laps,
        **describe_process(config, network),
        "checkpoint": path,
        "result_file": output,
        "settings": config.plain(),
    })  # fmt: skip
    if output and processes.is_first():
        write_json(result, output)
    return result


def measure(config, trainer, loaders, part):
    """Metrics of one part under both protocols, with the keys of a result. Raises UsageError where there is no such part."""
    loader = loaders[1 if part == "valid" else 2]
    if loader is None:
        raise UsageError(f"dataset '{config['dataset']}' has no {part} part: choose another --part")
    with torch.no_grad():
        found, ranks = evaluate_both_protocols(config, trainer, loader, load_best_model=False)
    if part == "test" and config["ranks_file"]:
        write_ranks(ranks, loader._dataset, config["ranks_file"])
    return {f"{part}_result": found[config["mask_history"]], f"{part}_result_unmasked": found[False], f"{part}_result_masked": found[True]}


def check_places(part, ranks_file, output):
    """Raise UsageError for files that cannot be written, before anything is computed."""
    if ranks_file and part == "valid":
        raise UsageError("ranks_file holds the ranks of the test part: choose --part=test or both")
    for key, file in (("ranks_file", ranks_file), ("output", output)):
        if file:
            path = Path(expand_home(str(file)))
            make_folder(path.parent, key)
            if path.is_dir():
                raise UsageError(f"{key}: '{file}' is a folder, name a file")


def chosen_changes(saved, settings):
    """What an evaluation changes of the settings of a training.

    Args:
        saved (dict): settings in the checkpoint.
        settings (dict): what the user gives.

    Returns:
        dict: for :func:`recbole_diffusion.quick_start.restore`.

    Raises:
        UsageError: for a setting that there is not, or that data or weights depend on.
    """
    changes = {"ranks_file": None}  # that of the training stays what it is
    for key, value in settings.items():
        if key in SAMPLING_SETTINGS:
            check_sampling(saved, key)
        elif key not in CHANGEABLE:
            refuse_unless_same(saved, key, value)
            continue
        changes[key] = changed_mode(saved, value) if key == "eval_args" else value
    changes.pop("data_path", None)  # where the data are is no setting of theirs
    if {"metrics", "topk"} & set(changes):
        changes.update(fitting_valid_metric(saved, changes))
    return changes


def refuse_unless_same(saved, key, value):
    """Raise UsageError for a setting that cannot be changed, unless it says what the checkpoint says."""
    if key not in saved:
        known = (*CHANGEABLE, *(name for name in SAMPLING_SETTINGS if name in saved), "nproc")
        raise UsageError(f"evaluate has no setting '{key}'{did_you_mean(key, known)}: it takes {', '.join(known)}")
    if plain(value) != saved[key]:
        raise UsageError(
            f"{key} cannot be changed after the training, it is {saved[key]} in the checkpoint: leave it out or train another model"
        )


def changed_mode(saved, given):
    """``eval_args`` with another mode and everything else as in training. Raises UsageError for other keys."""
    checks.check_kind("eval_args", given)
    checks.check_known("eval_args", given, EVAL_ARGS)
    trained, mode = saved["eval_args"], given.get("mode")
    for key in set(given) - {"mode"}:
        if plain(given[key]) != trained.get(key):
            raise UsageError(
                f"{key} of eval_args cannot be changed after the training, it is {trained.get(key)} in the checkpoint: only mode can"
            )
    whole = {phase: mode for phase in ("valid", "test")} if not isinstance(mode, dict) else mode
    return {**trained, "mode": {**trained["mode"], **whole} if mode is not None else trained["mode"]}


def fitting_valid_metric(saved, changes):
    """A metric among those to be measured in the place of one that is not, since RecBole wants one; it chooses nothing here."""
    whole = {**saved, **changes}
    settings = {key: whole[key] for key in ("metrics", "topk", "tail_ratio") if key in whole}
    checks.check_metrics(settings)
    metrics = [settings["metrics"]] if isinstance(settings["metrics"], str) else settings["metrics"]
    names = checks.metric_names({**settings, "metrics": metrics})
    return {} if saved["valid_metric"].lower() in names else {"valid_metric": names[0], "valid_metric_bigger": None}


def changed(saved, config, settings):
    """{setting: [in training, now]} of what was changed and can change a figure."""
    now, found = config.plain(), {}
    for key in sorted(set(settings) - FREE_SETTINGS):
        before, value = saved.get(key), now.get(key)
        if key == "eval_args":
            before, value = before["mode"], value["mode"]
        if before != value:
            found[key] = [before, value]
    return found


def check_rows(checkpoint, config, loaders, path):
    """Raise UsageError when training or validation have other rows than those that the model was trained on.

    The rows of the validation part can be compared where they are shared out and sorted as in training.
    """
    known = (checkpoint.get("training") or {}).get("data")
    if not known:
        return
    own = [data_fingerprint(loader._dataset) for loader in loaders[:2] if loader]
    alike = len(known) == processes.world_size() and config["eval_args"]["mode"] == checkpoint["config"]["eval_args"]["mode"]
    expected = known[processes.rank()] if alike else known[0][:1]
    if own[: len(expected)] != expected:
        raise UsageError(
            f"checkpoint '{path}' was trained on other interactions than dataset '{config['dataset']}' has now in "
            f"'{config['data_path']}': --data_path names the folder of the data"
        )
