"""Train and evaluate in one call, and load what was saved."""

import io
import json
import logging
import os
import platform
import shlex
import signal
import socket
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

import numpy
import pandas
import recbole
import torch
from recbole.data.dataset import SequentialDataset
from recbole.utils import init_logger, init_seed
from recbole.utils.logger import RemoveColorFilter
from torch.nn.modules.batchnorm import _BatchNorm

import recbole_diffusion
from recbole_diffusion import processes
from recbole_diffusion.checkpoint import load_checkpoint
from recbole_diffusion.config import DiffusionConfig
from recbole_diffusion.data.dataset import SequenceDataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import make_folder, write_whole
from recbole_diffusion.trainer import restore_model, trainer_class


def run(model=None, dataset=None, config_file_list=None, config_dict=None, saved=True, data_cache=None):
    """Train a model, pick the best epoch on the validation part and test it.

    Args:
        model (str): a model of this package, of a third party or any sequential model of RecBole.
        dataset (str): name of the data set.
        config_file_list (list[str], optional): yaml files, later ones win.
        config_dict (dict, optional): settings, which win over the files. ``nproc`` starts that many processes, see
            :func:`run_processes`.
        saved (bool): write a checkpoint; without it the last epoch is tested instead of the best.
        data_cache (DataCache, optional): keeps prepared data for later runs of this process.

    Returns:
        dict: everything the run found, JSON values only. ``test_result`` follows ``mask_history``;
        ``test_result_masked`` and ``test_result_unmasked`` hold both protocols.

    Raises:
        UsageError: for anything the user can repair, before training starts.
    """
    settings, group = split_group(config_dict)
    if group:
        return run_processes(model, dataset, config_file_list, settings, saved, **group)
    clock = Clock()
    config, trainer, loaders, counts = set_up(model, dataset, config_file_list, settings, data_cache)
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
        "model": config["model"],
        "dataset": config["dataset"],
        "dataset_counts": counts,
        "split": describe_split(config),
        "mask_history": config["mask_history"],
        "leaks_test_labels": getattr(trainer.model, "leaks", False),
        "seed": config["seed"],
        "best_valid_score": float(best_score) if best_result else None,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": plain_metrics(best_result),
        "test_result": tests[config["mask_history"]],
        "test_result_unmasked": tests[False],
        "test_result_masked": tests[True],
        "best_epoch": trainer.best_epoch,
        "epochs": len(trainer.train_loss_dict),
        "history": trainer.history,
        "seconds": clock.laps,
        "peak_memory_mb": peak_memory_mb(),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "device": str(config["device"]),
        "versions": versions(),
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "checkpoint": trainer.saved_model_file if saved else None,
        "settings": config.plain(),
    }
    if config["ranks_file"]:
        write_ranks(ranks, loaders[2]._dataset, config["ranks_file"])
    if config["result_file"] and processes.is_first():
        write_json(result, config["result_file"])
    return result


def validate(model=None, dataset=None, config_file_list=None, config_dict=None, data_cache=None, callback=None):
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
    score, result = fit(trainer, loaders, saved=False, callback=callback)
    clock.lap("all")
    return {
        "best_valid_score": float(score),
        "best_valid_result": plain_metrics(result),
        "valid_score_bigger": config["valid_metric_bigger"],
        "epochs": len(trainer.train_loss_dict),
        "seconds": clock.laps["all"],
    }


def set_up(model, dataset, config_file_list, config_dict, data_cache=None):
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
    data, counts, parts = data_cache.get(config, prepare_data) if data_cache else prepare_data(config)
    loaders = build_loaders(config, data, parts)
    check_against_data(config, data)
    if config["ranks_file"] and processes.world_size() > 1:
        raise UsageError("ranks_file is written by one process only: leave out --nproc or the file")
    network = build_model(config, loaders[0])
    logging.getLogger().info(network)
    return config, trainer_class(config)(config, network), loaders, counts


def prepare_data(config):
    """The data set, its counts before it is split, and its parts. Raises UsageError."""
    data = create_dataset(config)
    return data, data_counts(data), data.build()


def split_group(config_dict):
    """Separate what says how many processes train from all other settings: (settings, arguments of run_processes).

    Raises:
        UsageError: when a number is impossible, or ``torchrun`` has started the processes already.
    """
    settings = dict(config_dict or {})
    group = {key: settings.pop(key) for key in ("nproc", "world_size", "ip", "port", "group_offset") if key in settings}
    for key in ("nproc", "world_size", "group_offset"):
        value = group.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{key} must be a whole number, got '{value}'")
    nproc = group.get("nproc", 1)
    total = max(group.get("world_size", 0), nproc)
    if nproc < 1 or not 0 <= group.get("group_offset", 0) <= total - nproc:
        raise UsageError(f"nproc and group_offset must fit into world_size {total}, got {group}")
    if total == 1:
        return settings, {}
    if processes.launched():
        raise UsageError("torchrun has started the processes already: leave out --nproc and --world_size")
    return settings, {**group, "nproc": nproc, "world_size": total}


def run_processes(model, dataset, config_file_list, config_dict, saved, nproc, world_size, ip="localhost", port=None,
                  group_offset=0):  # fmt: skip
    """Train in several processes of this machine, which may belong to more on others.

    Args:
        model, dataset, config_file_list, config_dict, saved: see :func:`run`.
        nproc (int): processes to start here.
        world_size (int): processes on all machines together.
        ip (str): address of the machine with ``group_offset`` 0.
        port (int, optional): a free port there, the same on all machines; chosen freely for a single machine.
        group_offset (int): processes on the machines before this one.

    Returns:
        dict: the result of :func:`run`; all processes have the same.

    Raises:
        UsageError: see :func:`run`.
        KeyboardInterrupt: after Ctrl-C, with the words that say how to go on.
    """
    if port is None and world_size > nproc:
        raise UsageError("several machines need --ip and --port of the first one")
    DiffusionConfig(model, dataset, config_file_list, config_dict)  # refuses before anything is started
    environment = {"MASTER_ADDR": ip, "MASTER_PORT": port or free_port(), "WORLD_SIZE": world_size}
    environment["LOCAL_WORLD_SIZE"] = nproc
    with tempfile.TemporaryDirectory() as folder:
        arguments = (group_offset, environment, folder, (model, dataset, config_file_list, config_dict, saved))
        group = torch.multiprocessing.spawn(run_in_group, arguments, nprocs=nproc, join=False)
        try:
            while not group.join():
                pass
        except (torch.multiprocessing.ProcessExitedException, KeyboardInterrupt) as error:
            end_processes(group.processes)
            for kind in (UsageError, KeyboardInterrupt):
                for words in sorted(Path(folder).glob(f"{kind.__name__}-*.txt")):
                    raise kind(words.read_text(encoding="utf-8")) from None
            if getattr(error, "signal_name", None):
                raise UsageError(
                    f"process {error.error_index} was ended by {error.signal_name}, which a lack of memory may do: the "
                    f"same command with --resume goes on"
                ) from None
            raise
        return json.loads(Path(folder, "result-0.json").read_text(encoding="utf-8"))


def end_processes(group, patience=30):
    """Give processes that Ctrl-C has reached some seconds to end; one that waits for another's GPU never would."""
    deadline = time.monotonic() + patience
    for process in group:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.terminate()


def run_in_group(local_rank, group_offset, environment, folder, arguments):
    """What each process of :func:`run_processes` does: the same as under ``torchrun``, with its outcome in a file."""
    environment = {**environment, "LOCAL_RANK": local_rank, "RANK": group_offset + local_rank}
    os.environ.update({key: str(value) for key, value in environment.items()})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which the parent's end is told; a shell's job ignores it
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // environment["LOCAL_WORLD_SIZE"]))
    torch.multiprocessing.set_start_method(None, force=True)  # a DataLoader's workers start as in a run by itself
    try:
        write_json(run(*arguments), Path(folder, f"result-{local_rank}.json"))
    except (UsageError, KeyboardInterrupt) as error:
        kind = UsageError if isinstance(error, UsageError) else KeyboardInterrupt
        Path(folder, f"{kind.__name__}-{local_rank}.txt").write_text(str(error), encoding="utf-8")
        sys.exit(2)


def free_port():
    """A port of this machine that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def check_places(config):
    """Raise UsageError when nothing can be written where the settings, or RecBole's log, want files."""
    make_folder(config["checkpoint_dir"], "checkpoint_dir")
    make_folder(Path("log", config["model"]), "RecBole's log")
    make_folder("log_tensorboard", "RecBole's TensorBoard files")
    for key in ("result_file", "ranks_file"):
        if config[key]:
            make_folder(Path(config[key]).parent, key)


def start_torch(config):
    """Seed the random generators and choose how torch multiplies float32 matrices."""
    init_seed(config["seed"], config["reproducibility"])
    torch.set_float32_matmul_precision(config["float32_matmul_precision"])


def fit(trainer, loaders, saved, callback=None):
    """RecBole's ``fit``; Ctrl-C says how to go on."""
    try:
        with saying_how_to_go_on(trainer):
            return trainer.fit(
                loaders[0], loaders[1], saved=saved, show_progress=trainer.config["show_progress"], callback_fn=callback
            )
    finally:
        trainer.tensorboard.close()  # it holds a thread and a file


@contextmanager
def saying_how_to_go_on(trainer):
    """Let a Ctrl-C within the block tell how much is saved and where."""
    try:
        yield
    except KeyboardInterrupt:
        epochs = trainer.saved_epochs
        if not epochs:
            raise KeyboardInterrupt("no epoch was saved yet") from None
        raise KeyboardInterrupt(
            f"the same command with --resume goes on after {epochs} epochs, saved in {trainer.last_model_file}"
        ) from None


def objective_function(config_dict=None, config_file_list=None, saved=True):
    """What ``recbole.trainer.HyperTuning`` calls for one trial; returns its keys and all others of :func:`run`."""
    return run(config_dict=config_dict, config_file_list=config_file_list, saved=saved)


def load_data_and_model(model_file, data_path=None, trust_checkpoint=False):
    """Load a checkpoint with its data, on this machine's device.

    Args:
        model_file (str): checkpoint written by :func:`run`.
        data_path (str, optional): where the data sets are now, if they moved.
        trust_checkpoint (bool): read a pickle from elsewhere, such as RecBole's own checkpoints, and execute any code
            in it.

    Returns:
        tuple: ``(config, model, dataset, train_data, valid_data, test_data)`` as in RecBole.

    Raises:
        UsageError: when the file is missing or not such a checkpoint, or the data have other items than the model.
    """
    checkpoint = load_checkpoint(model_file, trust_checkpoint)
    saved = checkpoint["config"]
    try:
        settings = reusable_settings(saved, data_path)
        config = DiffusionConfig(saved["model"], saved["dataset"], config_dict=settings)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"'{model_file}' has damaged settings: {type(error).__name__} {error}") from error
    start_torch(config)
    data = create_dataset(config)
    loaders = build_loaders(config, data)
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
    return (config, network, data, *loaders)


def reusable_settings(saved, data_path):
    """The user-level part of saved settings: without what RecBole derives from them at start."""
    derived = {
        "device", "single_spec", "local_rank", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "model", "dataset",
        "data_path", "valid_neg_sample_args", "test_neg_sample_args", "train_neg_sample_args", "result_file",
        "resume", "world_size", "gpu_id", "log_wandb", "compile",
    }  # fmt: skip
    settings = {key: value for key, value in saved.items() if key not in derived}
    settings["allow_unknown_keys"] = True
    settings["data_path"] = str(data_path) if data_path else os.path.dirname(saved["data_path"])
    if saved["train_neg_sample_args"].get("distribution") != "none":
        settings["train_neg_sample_args"] = saved["train_neg_sample_args"]
    return settings


def create_dataset(config):
    """The plugin's data set, or RecBole's own class for the few models that need one.

    Raises:
        UsageError: see :class:`SequenceDataset`.
    """
    if int(pandas.__version__.split(".")[0]) >= 3:
        raise UsageError(
            f"pandas {pandas.__version__} leaves missing values in RecBole's data without a word: pip install 'pandas<3'"
        )
    stock = getattr(recbole.data.dataset, config["model"] + "Dataset", SequentialDataset)
    try:
        # Not RecBole's create_dataset, which unpickles what it finds in the folder of the checkpoints.
        dataset = (SequenceDataset if stock is SequentialDataset else stock)(config)
    except KeyError as error:
        raise UsageError(f"a setting names '{error.args[0]}', which the data do not have") from error
    except ValueError as error:  # RecBole's own refusals; UsageError is one as well
        raise error if isinstance(error, UsageError) else UsageError(str(error).splitlines()[0]) from error
    logging.getLogger().info(dataset)
    return dataset


def build_model(config, train_data):
    """A freshly initialised model on the configured device. Raises UsageError when RecBole's model wants more data."""
    init_seed(config["seed"], config["reproducibility"])
    try:
        network = config.model_class(config, train_data._dataset).to(config["device"])
    except (KeyError, ValueError, NotImplementedError) as error:
        if config.is_plugin_model:
            raise
        reason = f"field or setting {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"RecBole's {config['model']} cannot be built here: {reason}") from error
    if processes.world_size() > 1 and any(isinstance(part, _BatchNorm) for part in network.modules()):
        raise UsageError(f"{config['model']} normalises over batches, of which processes see parts: leave out --nproc")
    if not processes.is_first():  # the same weights, but other noise
        init_seed(config["seed"] + processes.rank(), config["reproducibility"])
    return network


def check_against_data(config, data):
    """Raise UsageError when a cut-off exceeds the number of items."""
    items = data.item_num - 1
    if max(config["topk"]) > items:
        raise UsageError(f"topk {max(config['topk'])} is larger than the number of items, {items}")


def evaluate_both_protocols(config, trainer, test_data, load_best_model):
    """Test results with and without the user's history in the ranking.

    Metrics are empty where the history cannot be masked: sampled ranking, and RecBole's special data sets.

    Returns:
        tuple: {mask_history: metrics} and {mask_history: ranks}. Ranks are a [n] int16 array: the place of each test
        target among the best max(topk) items from 1, or 0 outside; None where the metrics need more than a list.
    """
    results, ranks = {False: {}, True: {}}, {False: None, True: None}
    for masked in (False, True) if getattr(test_data, "can_mask_history", False) else (False,):
        test_data.mask_history = masked
        trainer.eval_collector.ranks = []
        found = trainer.evaluate(test_data, load_best_model, show_progress=config["show_progress"])
        results[masked] = plain_metrics(found)
        batches, trainer.eval_collector.ranks = trainer.eval_collector.ranks, None
        ranks[masked] = torch.cat(batches).numpy() if batches else None
        load_best_model = False
    test_data.mask_history = config["mask_history"]
    return results, ranks


def write_ranks(ranks, test_part, path):
    """Keep the rank of every test target, for tests that pair users.

    Args:
        ranks (dict[bool, np.ndarray | None]): see :func:`evaluate_both_protocols`; nothing is written without ranks.
        test_part (SequenceDataset): its rows in the order of the ranks.
        path (str | Path): ``.npz`` file with ``user`` and ``item`` (numbers of the data set), ``unmasked``, ``masked``.
    """
    named = {"unmasked": ranks[False], "masked": ranks[True]}
    found = {name: places for name, places in named.items() if places is not None}
    if not found:
        return
    rows = test_part.inter_feat
    who = {"user": rows[test_part.uid_field], "item": rows[test_part.iid_field]}
    content = {name: column.numpy().astype(numpy.int32) for name, column in who.items()}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, **content, **found)
    write_whole(path, buffer.getvalue())


def describe_split(config):
    """The split in words for result files."""
    if config["benchmark_filename"]:
        return f"files {config['benchmark_filename']}"
    return f"{config['eval_args']['split']}, order {config['eval_args']['order']}, {config['eval_args']['mode']}"


def data_counts(data):
    """Users, items and interactions after filtering; padding does not count. Call before the data are split."""
    return {"users": data.user_num - 1, "items": data.item_num - 1, "interactions": data.inter_num}


def plain_metrics(metrics):
    """RecBole's metrics as JSON values."""
    return {name: float(value) for name, value in (metrics or {}).items()}


def start_logging(config):
    """RecBole's logger, on standard output, with a file of its own for every run of a process.

    The settings go to the file only: on the terminal they would bury everything else.
    """
    logger = logging.getLogger()
    if not processes.is_first():
        logger.setLevel(logging.ERROR)
        return
    for handler in list(logger.handlers):
        if getattr(handler, "of_recbole_diffusion", False):
            logger.removeHandler(handler)
            handler.close()
    root_handlers, logger.handlers = logger.handlers, []  # RecBole's set-up does nothing beside other handlers
    streams = sys.stdout, sys.stderr
    init_logger(config)
    sys.stdout, sys.stderr = streams  # colorama wraps them again at every call, until Python's stack is too short
    ours, logger.handlers = logger.handlers, [*root_handlers, *logger.handlers]
    for handler in ours:
        handler.of_recbole_diffusion = True
        handler.handleError = partial(stop_logging, handler)
        if isinstance(handler, logging.FileHandler):
            handler.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, str(config), (), None))
        else:
            handler.setStream(sys.stdout)
            if not sys.stdout.isatty():  # colours are for terminals, not for files and pipes
                handler.addFilter(RemoveColorFilter())
                handler.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", "%d %b %H:%M"))


def stop_logging(handler, record):
    """Do without a log whose disk is full or whose reader has gone; Python would print a traceback for every line."""
    logging.getLogger().removeHandler(handler)


def versions():
    """Versions of everything that can change a number."""
    return {
        "recbole_diffusion": recbole_diffusion.__version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pandas": pandas.__version__,
        "python": platform.python_version(),
    }


def peak_memory_mb():
    """Peak resident memory of the process and, on a GPU, of its allocator, in MB."""
    peak = {}
    if resource:
        unit = 1024 if sys.platform != "darwin" else 1024**2
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated() // 1024**2
    return peak


class Clock:
    """Seconds per phase."""

    def __init__(self):
        self.laps, self._last = {}, time.perf_counter()

    def lap(self, name, earlier=0.0):
        """Close the phase that ran since the last call, and ``earlier`` seconds in a process before this one."""
        now = time.perf_counter()
        self.laps[name], self._last = round(earlier + now - self._last, 2), now


def write_json(result, path):
    """Write a result file whole or not at all."""
    write_whole(path, (json.dumps(result, indent=2) + "\n").encode())
