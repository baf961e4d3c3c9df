"""Trainings that a later run continues bit by bit."""

import glob
import os
import re
import secrets

from recbole.utils import get_local_time, set_color

import recbole_diffusion
from recbole_diffusion import processes
from recbole_diffusion.data.dataset import training_item_counts
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.free import FREE_SETTINGS
from recbole_diffusion.training.checkpoint import (
    CHECKPOINT_FORMAT,
    data_fingerprint,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_atomically,
    settings_fingerprint,
)
from recbole_diffusion.training.collector import OneTargetCollector
from recbole_diffusion.training.console import say
from recbole_diffusion.training.evaluation import plain_metrics
from recbole_diffusion.training.networks import on_device, plain_parameters, restore_model
from recbole_diffusion.training.tensorboard import LenientWriter, writing_files


class SafeCheckpointMixin:
    """Training that a later run can continue bit by bit, from checkpoints of plain tensors and JSON values.

    A run has two files: ``<name>-last.pth`` after every epoch and ``<name>-best.pth`` of the best one so far. The name
    carries a fingerprint of the settings, by which :meth:`resume_last_run` finds it.
    """

    writes = True  # TensorBoard's files

    def __init__(self, config, model):
        with writing_files(self.writes and processes.is_first()):
            super().__init__(config, model)
        self.tensorboard = LenientWriter(self.tensorboard, self.logger)
        processes.copy_from_first(model)
        self.eval_collector = OneTargetCollector(config)
        self.best_epoch, self.stopped = None, False
        self.eval_step = config["eval_step"]  # RecBole lowers it to the number of epochs, which may be raised later
        self.best_in_turn = self.best_valid_score  # of the validations that eval_step asks for; early stopping counts these
        self.scheduler, self.scaler = None, None
        self._resumed = None
        self.training_seconds = 0.0  # of all processes that had a part in this run, up to the last finished epoch
        self.history = {"epoch": [], "steps": [], "loss": {}, "valid_epoch": [], "valid": {}}
        self.fingerprint = settings_fingerprint(config.plain())
        # Seconds are not enough: two runs started together would overwrite each other.
        name = f"{get_local_time()}-{self.fingerprint}-{secrets.token_hex(2)}"
        self._use_run_name(processes.gather(name)[0])

    # Files

    def _use_run_name(self, name):
        folder, prefix = self.config["checkpoint_dir"], f"{self.config['model']}-{self.config['dataset']}-"
        self.saved_model_file = os.path.join(folder, f"{prefix}{name}-best.pth")
        self.last_model_file = os.path.join(folder, f"{prefix}{name}-last.pth")
        self.result_file = os.path.join(folder, f"{prefix}{name}-result.json")

    def checkpoint(self, epoch):
        """What a checkpoint holds: tensors and JSON values only. All processes have to call this together."""
        return {
            "format": CHECKPOINT_FORMAT,
            "config": self.config.plain(),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": plain_parameters(self.model),
            "optimizer": self.optimizer.state_dict(),
            "item_tokens": self.item_tokens,
            "item_counts": self.item_counts,
            "training": self._training_state(),
        }

    def _training_state(self):
        """What only a resumed training needs."""
        metrics = self.best_valid_result
        return {
            "version": recbole_diffusion.__version__,
            "fingerprint": self.fingerprint,
            "data": self.data,
            "stopped": self.stopped,
            "best_epoch": self.best_epoch,
            "best_in_turn": float(self.best_in_turn),
            "best_valid_result": metrics and plain_metrics(metrics),
            "train_loss_dict": self.train_loss_dict,
            "history": self.history,
            "seconds": self.training_seconds,
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "model": self.model.training_state() if hasattr(self.model, "training_state") else {},
            "random": processes.gather(random_state(self._generators, self.device)),
        }

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """RecBole's: one file, by default that of the best epoch."""
        self._write(self.checkpoint(epoch), kwargs.pop("saved_model_file", self.saved_model_file), verbose)

    def _save_epoch(self, epoch, is_best, verbose):
        """``last`` first: should the other file be lost, :meth:`resume_checkpoint` makes it from this one."""
        state = self.checkpoint(epoch)
        self._write(state, self.last_model_file, False)
        if is_best:
            self._write(to_use(state), self.saved_model_file, verbose)

    def saved_epochs(self):
        """How many epochs of this run a later one would find, as the file has them: an interruption may follow it at once."""
        return load_checkpoint(self.last_model_file)["epoch"] + 1 if os.path.isfile(self.last_model_file) else 0

    def _write(self, state, path, verbose):
        processes.first_does(save_atomically, state, path)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    # Resumption

    def resume_last_run(self):
        """Continue the latest run of the same settings in ``checkpoint_dir``; without one, start from the beginning.

        Raises:
            UsageError: see :meth:`resume_checkpoint`.
        """
        file = processes.first_does(self._find_last_run)
        if file:
            self.resume_checkpoint(file)
        else:
            say("resumed", f"no earlier run of these settings in '{self.config['checkpoint_dir']}': starting anew")

    def _find_last_run(self):
        start = os.path.join(self.config["checkpoint_dir"], f"{self.config['model']}-{self.config['dataset']}")
        return max(glob.glob(f"{glob.escape(start)}-*-{self.fingerprint}-????-last.pth"), key=os.path.getmtime, default=None)

    def resume_checkpoint(self, resume_file):
        """Go on where a ``last`` checkpoint was written. The random state follows when :meth:`fit` has its data.

        Args:
            resume_file (str): the file; it and its ``best`` are written again as training goes on.

        Raises:
            UsageError: damaged or foreign file, other model, settings, items or version, more epochs than wanted.
        """
        resume_file = str(resume_file)
        state = processes.first_does(load_checkpoint, resume_file)
        try:
            self._refuse_other_run(state, resume_file)
            self._go_back_to(state)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UsageError(f"'{resume_file}' cannot be resumed with these data and settings: {reason}") from error
        stem = re.sub(r"(-last|-best)?\.pth$", "", resume_file)
        self.saved_model_file, self.last_model_file = f"{stem}-best.pth", f"{stem}-last.pth"
        self.result_file = f"{stem}-result.json"
        self._require_best(state)
        self._resumed = state
        say("resumed", f"going on with epoch {self.start_epoch} of {resume_file}")

    def _go_back_to(self, state):
        """Everything of a checkpoint but the random generators."""
        restore_model(self.model, state, self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        training = state["training"]
        for part in ("scheduler", "scaler"):
            if training[part]:
                getattr(self, part).load_state_dict(training[part])
        if training["model"]:
            self.model.load_training_state(on_device(training["model"], self.device))
        self.start_epoch = state["epoch"] + 1
        self.cur_step, self.best_valid_score = state["cur_step"], state["best_valid_score"]
        for name in ("stopped", "best_epoch", "best_valid_result", "train_loss_dict", "history"):
            setattr(self, name, training[name])
        self.training_seconds = training.get("seconds", 0.0)
        self.best_in_turn = training.get("best_in_turn", self.best_valid_score)

    def _refuse_other_run(self, state, file):
        saved, training = state["config"], state.get("training")
        if saved["model"] != self.config["model"]:
            raise UsageError(f"'{file}' is a checkpoint of {saved['model']}, not of {self.config['model']}")
        if not training or "optimizer" not in state:
            raise UsageError(
                f"'{file}' cannot be resumed: it holds a model but not the state of its training, which NAME-last.pth has"
            )
        if training["version"] != recbole_diffusion.__version__:
            raise UsageError(
                f"'{file}' was written by recbole_diffusion {training['version']}, this is "
                f"{recbole_diffusion.__version__}: use that version, or start anew without --resume"
            )
        if training["fingerprint"] != self.fingerprint:
            own = self.config.plain()
            other = sorted(key for key in {*own, *saved} - FREE_SETTINGS if own.get(key) != saved.get(key))
            raise UsageError(f"'{file}' has other settings than this run: look at {', '.join(other[:5])}")
        if state["epoch"] >= self.epochs:
            raise UsageError(f"'{file}' has {state['epoch'] + 1} epochs already: set --epochs to that or more")
        if len(state["item_tokens"]) != self.model.n_items:
            raise UsageError(
                f"'{file}' was trained on other items ({len(state['item_tokens']) - 1}) than dataset "
                f"'{self.config['dataset']}' has now ({self.model.n_items - 1})"
            )

    def _require_best(self, state):
        if self.best_epoch == state["epoch"]:  # killed between the two files
            self._write(to_use(state), self.saved_model_file, False)
        elif self.best_epoch is not None:
            processes.first_does(self._read_best)

    def _read_best(self):
        if not os.path.isfile(self.saved_model_file):
            raise UsageError(f"'{self.saved_model_file}' is gone, without which the run cannot go on")
        load_checkpoint(self.saved_model_file)  # a damaged one would be noticed only at the end

    def _meet_data(self, train_data, valid_data):
        """Learn what a checkpoint says about the data, and after a resumption check it and go back in random time."""
        dataset = train_data._dataset
        self.item_tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
        self.item_counts = training_item_counts(dataset)
        loaders = [loader for loader in (train_data, valid_data) if loader]
        self.data = processes.gather([data_fingerprint(loader._dataset) for loader in loaders])  # each has own users
        self._generators = [loader.generator for loader in loaders]
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        if state["item_tokens"] != self.item_tokens or state["training"]["data"] != self.data:
            what = "items" if state["item_tokens"] != self.item_tokens else "interactions"
            raise UsageError(
                f"'{self.last_model_file}' was trained on other {what} than dataset '{self.config['dataset']}' has "
                f"now: start anew without --resume"
            )
        random = state["training"]["random"][processes.rank()]
        if (random["cuda"] is None) != (self.device.type != "cuda"):
            self.logger.warning(f"the run began on another kind of device than {self.device}: other noise from here on")
        restore_random_state(random, self._generators, self.device)


def to_use(state):
    """A checkpoint without the optimizer, which only a resumed training needs and which takes two thirds of the file."""
    return {key: value for key, value in state.items() if key != "optimizer"}
