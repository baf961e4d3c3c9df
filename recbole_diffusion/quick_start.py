"""Train and evaluate in one call, and load what was saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from recbole_diffusion import processes, threads
from recbole_diffusion.data.build import check_against_data, create_dataset
from recbole_diffusion.data.kept import kept_or_made
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import write_json
from recbole_diffusion.prepare.data_frames import with_frame_stored
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.training.checkpoint import load_checkpoint, reusable_settings
from recbole_diffusion.training.console import keep, say, shows_bars
from recbole_diffusion.training.evaluation import check_ranks_file, evaluate_both_protocols, plain_metrics, write_ranks
from recbole_diffusion.training.launch import run_processes, split_group
from recbole_diffusion.training.logs import check_places, log_file, start_logging
from recbole_diffusion.training.memory import check_memory
from recbole_diffusion.training.networks import build_model, restore_model, start_torch
from recbole_diffusion.training.records import Clock, data_counts, describe_process, describe_subject
from recbole_diffusion.training.result import RunResult
from recbole_diffusion.training.surroundings import left_as_found, without_recboles_warnings
from recbole_diffusion.training.trainer import trainer_class

if TYPE_CHECKING:
    from pandas import DataFrame

    from recbole_diffusion.data.cache import DataCache


@left_as_found()
def run(
    model: str | None = None,
    dataset: str | DataFrame | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    data_cache: DataCache | None = None,
) -> RunResult:
    """Train a model, pick the best epoch on the validation part and test it.

    Args:
        model (str): a model of this package, of a third party or any sequential model of RecBole.
        dataset (str or pandas.DataFrame): name of the data set, or its rows, see
            :func:`recbole_diffusion.prepare.data_frames.with_frame_stored`.
        config_file_list (list[str], optional): yaml files, later ones win.
        config_dict (dict, optional): settings, which win over the files. ``nproc`` starts that many processes, see
            :func:`recbole_diffusion.training.launch.run_processes`.
        saved (bool): write a checkpoint; without it the last epoch is tested instead of the best.
        data_cache (DataCache, optional): keeps prepared data for later runs of this process.

    Returns:
        RunResult: a dict of everything the run found, JSON values only; printed, it is the table of the test.
        ``test_result`` follows ``mask_history``; ``test_result_masked`` and ``test_result_unmasked`` hold both
        protocols. It is also written as ``result_file``, by default beside the checkpoint.

    Raises:
        UsageError: for anything the user can repair, before training starts.
    """
    dataset, config_dict = with_frame_stored(dataset, config_dict)
    settings, group = split_group(config_dict)
    if group:
        DiffusionConfig(model, dataset, config_file_list, settings)  # refuses before anything is started
        return RunResult(run_processes(run, (model, dataset, config_file_list, settings, saved), **group))
    clock = Clock()
    config, trainer, loaders, counts = set_up(model, dataset, config_file_list, settings, data_cache)
    with closing(trainer.tensorboard):  # it holds a thread and a file
        if config["resume"]:
            trainer.resume_last_run()
        clock.lap("data")
        earlier = trainer.training_seconds
        best_score, best_result = fit(trainer, loaders, saved)
    clock.lap("training", earlier)
    with saying_how_to_go_on(trainer):
        tests, ranks = evaluate_both_protocols(config, trainer, loaders[2], load_best_model=saved)
    clock.lap("test")

    result = {
        **describe_subject(config, counts, loaders[0]._dataset, trainer.model),
        "best_valid_score": float(best_score) if best_result else None,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": plain_metrics(best_result),
        "test_result": tests[config["mask_history"]],
        "test_result_unmasked": tests[False],
        "test_result_masked": tests[True],
        "best_epoch": trainer.best_epoch,
        "epochs": len(trainer.train_loss_dict),
        "tested_epoch": trainer.best_epoch if saved else len(trainer.train_loss_dict) - 1,
        "history": trainer.history,
        "seconds": clock.laps,
        **describe_process(config, trainer.model),
        "checkpoint": trainer.saved_model_file if saved else None,
        "result_file": config["result_file"] or (trainer.result_file if saved else None),
        "settings": config.plain(),
    }
    result = RunResult(result)
    if config["ranks_file"]:
        write_ranks(ranks, loaders[2]._dataset, config["ranks_file"])
    keep(str(result))
    if result["result_file"] and processes.is_first():
        write_json(result, result["result_file"])
    return result


@left_as_found()
def validate(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    data_cache: DataCache | None = None,
    callback: Callable[[int, float], object] | None = None,
) -> dict[str, Any]:
    """Train a model and look at the validation part only; the test part is never ranked.

    Args:
        model, dataset, config_file_list, config_dict, data_cache: as in :func:`run`.
        callback (callable, optional): called after every validation with the epoch and its score; what it raises ends
            the training.

    Returns:
        dict: ``best_valid_score``, ``best_valid_result``, ``valid_score_bigger``, ``epochs`` and ``seconds``.

    Raises:
        UsageError: as in :func:`run`, and when there is no validation.
    """
    clock = Clock()
    config, trainer, loaders, _ = set_up(model, dataset, config_file_list, config_dict, data_cache)
    if config["eval_step"] <= 0:
        raise UsageError(f"eval_step is {config['eval_step']}: without validation there is nothing to choose by")
    if loaders[1] is None:
        raise UsageError(f"benchmark_filename {config['benchmark_filename']} has no validation part to choose by")
    with closing(trainer.tensorboard):
        score, result = fit(trainer, loaders, saved=False, callback=callback)
    clock.lap("all")
    return {
        "best_valid_score": float(score),
        "best_valid_result": plain_metrics(result),
        "valid_score_bigger": config["valid_metric_bigger"],
        "epochs": len(trainer.train_loss_dict),
        "seconds": clock.laps["all"],
    }


def set_up(
    model: str | None,
    dataset: str | None,
    config_file_list: list[str] | None,
    config_dict: dict[str, Any] | None,
    data_cache: DataCache | None = None,
) -> tuple[DiffusionConfig, Any, list[Any], dict[str, int]]:
    """Everything that stands before the first training step.

    Returns:
        tuple: configuration, trainer with a fresh model, the three loaders, counts of the data.

    Raises:
        UsageError: for anything the user can repair.
    """
    config = DiffusionConfig(model, dataset, config_file_list, config_dict)
    check_places(config)
    start_logging(config)
    start_torch(config)
    logging.getLogger().info(threads.describe())
    data, counts, parts = data_cache.get(config, prepare_data) if data_cache else prepare_data(config)
    loaders = build_loaders(config, data, parts)
    check_against_data(config, data)
    check_ranks_file(config["ranks_file"], processes.world_size())
    network = build_model(config, loaders[0])
    check_memory(config, network, data.item_num, max((len(loader._dataset) for loader in loaders[1:] if loader), default=0))
    logging.getLogger().info(network)
    introduce(config, counts, loaders, network)
    return config, trainer_class(config)(config, network), loaders, counts


def introduce(config: DiffusionConfig, counts: dict[str, int], loaders: list[Any], network: torch.nn.Module) -> None:
    """What is trained on what and where, a line each."""
    parts = zip(loaders, ("to train", "to validate", "to test"))
    of_parts = ", ".join(f"{len(loader._dataset):,} {what}" for loader, what in parts if loader)
    of_data = ", ".join(f"{number:,} {what}" for what, number in counts.items())
    preset = f" (preset {config['preset']})" if config["preset"] else ""
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    say("data", f"{config['dataset']}: {of_data}; {of_parts}")
    say("model", f"{config['model']}{preset}, {parameters:,} parameters, seed {config['seed']}")
    say("device", f"{config['device']}, {threads.count(torch.get_num_threads())}")
    if log_file():
        say("log", log_file())


def prepare_data(config: DiffusionConfig) -> tuple[Any, dict[str, int], list[Any]]:
    """The data set, its counts before it is split, and its parts, kept ones where there are. Raises UsageError."""
    return kept_or_made(config, prepare_anew)


def prepare_anew(config: DiffusionConfig) -> tuple[Any, dict[str, int], list[Any]]:
    """What :func:`prepare_data` gives, from the files. Raises UsageError."""
    data = create_dataset(config)
    return data, data_counts(data), data.build()


def fit(
    trainer: Any, loaders: list[Any], saved: bool, callback: Callable[[int, float], object] | None = None
) -> tuple[float, dict[str, float] | None]:
    """RecBole's ``fit``; Ctrl-C says how to go on."""
    with saying_how_to_go_on(trainer):
        show = shows_bars(trainer.config)
        return trainer.fit(*loaders[:2], saved=saved, show_progress=show, callback_fn=callback)


@contextmanager
def saying_how_to_go_on(trainer: Any) -> Iterator[None]:
    """Let a Ctrl-C within the block tell how much is saved and where."""
    try:
        yield
    except KeyboardInterrupt:
        epochs = trainer.saved_epochs()
        if not epochs:
            raise KeyboardInterrupt("no epoch was saved yet") from None
        raise KeyboardInterrupt(
            f"the same command with --resume goes on after {epochs} epochs, saved in {trainer.last_model_file}"
        ) from None


def objective_function(
    config_dict: dict[str, Any] | None = None, config_file_list: list[str] | None = None, saved: bool = True
) -> RunResult:
    """What ``recbole.trainer.HyperTuning`` calls for one trial; returns its keys and all others of :func:`run`."""
    return run(config_dict=config_dict, config_file_list=config_file_list, saved=saved)


@without_recboles_warnings()
def load_data_and_model(
    model_file: str | PathLike[str], data_path: str | None = None, trust_checkpoint: bool = False
) -> tuple[DiffusionConfig, torch.nn.Module, Any, Any, Any, Any]:
    """Load a checkpoint with its data, on this machine's device.

    Args:
        model_file (str): checkpoint written by :func:`run`.
        data_path (str, optional): where the data sets are now, if they moved.
        trust_checkpoint (bool): read a pickle from elsewhere, such as RecBole's own checkpoints, and execute any code
            in it.

    Returns:
        tuple: ``(config, model, dataset, train_data, valid_data, test_data)`` as in RecBole; ``valid_data`` is None
        where ready-made splits have no validation.

    Raises:
        UsageError: when the file is missing or not such a checkpoint, or the data have other items than the model.
    """
    checkpoint = load_checkpoint(model_file, trust_checkpoint)
    config, network, data, _, loaders = restore(checkpoint, model_file, data_path)
    return (config, network, data, *loaders)


def config_of(
    checkpoint: dict[str, Any],
    model_file: str | PathLike[str],
    data_path: str | None = None,
    changes: dict[str, Any] | None = None,
) -> DiffusionConfig:
    """The settings of a checkpoint on this machine; see :func:`restore`. Raises UsageError."""
    saved, changes = checkpoint["config"], changes or {}
    try:
        settings = {**reusable_settings(saved, data_path), **changes}
        settings = {key: value for key, value in settings.items() if value is not None or key not in changes}
        return DiffusionConfig(saved["model"], saved["dataset"], config_dict=settings)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"'{model_file}' has damaged settings: {type(error).__name__} {error}") from error


def restore(
    checkpoint: dict[str, Any],
    model_file: str | PathLike[str],
    data_path: str | None = None,
    changes: dict[str, Any] | None = None,
) -> tuple[DiffusionConfig, torch.nn.Module, Any, dict[str, int], list[Any]]:
    """The model of a checkpoint with its data.

    Args:
        checkpoint (dict): as :func:`recbole_diffusion.training.checkpoint.load_checkpoint` reads it.
        model_file, data_path: see :func:`load_data_and_model`.
        changes (dict, optional): settings that win over those of the checkpoint; None takes one away.

    Returns:
        tuple: configuration, model, data set, its counts before it was split, the three loaders.

    Raises:
        UsageError: see :func:`load_data_and_model`, and for a change that cannot be used.
    """
    config = config_of(checkpoint, model_file, data_path, changes)
    start_torch(config)
    data, counts, parts = prepare_data(config)
    loaders = build_loaders(config, data, parts)
    tokens = [str(token) for token in data.field2id_token[data.iid_field]]
    known = checkpoint["item_tokens"]
    if known is not None and tokens != known:
        raise UsageError(
            f"checkpoint '{model_file}' was trained on other items ({len(known) - 1}) than dataset "
            f"'{config['dataset']}' has now ({len(tokens) - 1}), or in another order"
        )
    network = build_model(config, loaders[0])
    try:
        restore_model(network, checkpoint, config["device"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UsageError(f"checkpoint '{model_file}' does not fit {config['model']} on these data: {reason}") from None
    network.eval()
    return config, network, data, counts, loaders
