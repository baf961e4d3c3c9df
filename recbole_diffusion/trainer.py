"""RecBole's trainer with exact resumption, safe checkpoints, mixed precision, several processes and named losses."""

import contextlib
import glob
import math
import os
import re
import secrets
import shutil
import time

import recbole.trainer.trainer
import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score, dict2str, early_stopping, get_local_time, get_trainer, set_color
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR
from tqdm import tqdm

import recbole_diffusion
from recbole_diffusion import processes
from recbole_diffusion.checkpoint import (
    CHECKPOINT_FORMAT,
    FREE_SETTINGS,
    data_fingerprint,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_atomically,
    settings_fingerprint,
)
from recbole_diffusion.data.dataset import training_item_counts
from recbole_diffusion.errors import UsageError

PER_ROW = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")  # collected batch by batch
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OneTargetCollector(Collector):
    """RecBole's collector for one target per row, without a second ``[B, V]`` matrix and a second top-k.

    Of several processes, each collects the rows of its users, and all get everybody's: metrics are computed from the
    same rows as in one process, whatever the sizes of the parts.

    Attributes:
        ranks (list[torch.Tensor] | None): an empty list makes it keep the ranks of the targets, a tensor per batch.
    """

    ranks = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        wanted = [name for name in ("rec.items", "rec.topk") if self.register.need(name)]
        others = any(self.register.need(name) for name in ("rec.meanrank", "rec.score", "data.label"))
        one_each = len(positive_u) == len(scores_tensor) and torch.equal(positive_u, torch.arange(len(positive_u)))
        if others or not one_each:
            return super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        best, top = scores_tensor.topk(max(self.topk), dim=-1)
        if "rec.items" in wanted:
            self.data_struct.update_tensor("rec.items", top)
        if "rec.topk" in wanted:
            # A list that runs out of unseen items is filled up with removed ones, which are no hits.
            hits = ((top == positive_i.to(top.device)[:, None]) & best.isfinite()).int()
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, torch.ones_like(hits[:, :1])], 1))
            if self.ranks is not None:
                self.ranks.append(ranks_of_hits(hits))

    def get_data_struct(self):
        """All that was collected; RecBole's fails on metrics that need counts of the data, such as ItemCoverage."""
        struct = DataStruct()
        for name, value in list(self.data_struct._data_dict.items()):
            if name in PER_ROW:
                value = torch.cat(processes.gather(value.cpu()))
                del self.data_struct[name]
            struct.set(name, value)
        return struct


def ranks_of_hits(hits):
    """Ranks of targets in their lists.

    Args:
        hits (torch.IntTensor): [B, K] 1 where the target stands in the list of K items.

    Returns:
        torch.ShortTensor: [B] from 1, or 0 where the target is not in the list. On the CPU.
    """
    return torch.where(hits.any(1), hits.argmax(1) + 1, 0).to(torch.int16).cpu()


def no_tensorboard(logger):
    """Stands for RecBole's maker of TensorBoard's writer, whose files appear as soon as it exists."""


class LenientWriter:
    """TensorBoard's writer, which stops instead of the training when its disk is full.

    Args:
        writer (torch.utils.tensorboard.SummaryWriter | None): without one, nothing is written.
    """

    def __init__(self, writer, logger):
        self._writer, self._logger = writer, logger

    def __getattr__(self, name):
        def call(*values):
            try:
                return self._writer and getattr(self._writer, name)(*values)
            except OSError as error:
                self._writer = None
                self._logger.warning(f"TensorBoard's files cannot be written any more: {error.strerror or error}")

        return call


class SafeCheckpointMixin:
    """Training that a later run can continue bit by bit, from checkpoints of plain tensors and JSON values.

    A run has two files: ``<name>-last.pth`` after every epoch and ``<name>-best.pth`` of the best one so far. The name
    carries a fingerprint of the settings, by which :meth:`resume_last_run` finds it.
    """

    def __init__(self, config, model):
        if not processes.is_first():
            recbole.trainer.trainer.get_tensorboard = no_tensorboard
        super().__init__(config, model)
        self.tensorboard = LenientWriter(self.tensorboard, self.logger)
        processes.copy_from_first(model)
        self.eval_collector = OneTargetCollector(config)
        self.best_epoch, self.stopped = None, False
        self.scheduler, self.scaler = None, None
        self._resumed = None
        self.saved_epochs = 0
        self.training_seconds = 0.0  # of all processes that had a part in this run, up to the last finished epoch
        self.history = {"epoch": [], "loss": {}, "valid_epoch": [], "valid": {}}
        self.fingerprint = settings_fingerprint(config.plain())
        # Seconds are not enough: two runs started together would overwrite each other.
        name = f"{get_local_time()}-{self.fingerprint}-{secrets.token_hex(2)}"
        self._use_run_name(processes.gather(name)[0])

    # Files

    def _use_run_name(self, name):
        folder, prefix = self.config["checkpoint_dir"], f"{self.config['model']}-{self.config['dataset']}-"
        self.saved_model_file = os.path.join(folder, f"{prefix}{name}-best.pth")
        self.last_model_file = os.path.join(folder, f"{prefix}{name}-last.pth")

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
            "best_valid_result": metrics and {name: float(value) for name, value in metrics.items()},
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
        self.saved_epochs = epoch + 1
        if is_best:
            self._write(state, self.saved_model_file, verbose)

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
            self.logger.info(f"no earlier run of these settings in '{self.config['checkpoint_dir']}': starting anew")

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
        self._require_best(state)
        self._resumed = state
        self.logger.info(f"going on with epoch {self.start_epoch} of {resume_file}")

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
        self.start_epoch = self.saved_epochs = state["epoch"] + 1
        self.cur_step, self.best_valid_score = state["cur_step"], state["best_valid_score"]
        for name in ("stopped", "best_epoch", "best_valid_result", "train_loss_dict", "history"):
            setattr(self, name, training[name])
        self.training_seconds = training.get("seconds", 0.0)

    def _refuse_other_run(self, state, file):
        saved, training = state["config"], state.get("training")
        if saved["model"] != self.config["model"]:
            raise UsageError(f"'{file}' is a checkpoint of {saved['model']}, not of {self.config['model']}")
        if not training:
            raise UsageError(f"'{file}' cannot be resumed: it holds a model but not the state of its training")
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
            self._write(state, self.saved_model_file, False)
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

    # Training

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's ``fit``, which also writes ``last`` after every epoch. See there for arguments and result."""
        self._meet_data(train_data, valid_data)
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        verbose, show_progress = verbose and processes.is_first(), show_progress and processes.is_first()
        start = time.perf_counter() - self.training_seconds
        for epoch in range(self.start_epoch, self.epochs):
            if self.stopped:
                break
            self._train_and_report(train_data, epoch, verbose, show_progress)
            score, is_best = None, True
            if self.eval_step > 0 and valid_data:
                score, is_best = self._validate_and_report(valid_data, epoch, verbose, show_progress)
            if is_best:
                self.best_epoch = epoch
            self.training_seconds = time.perf_counter() - start
            if saved:
                self._save_epoch(epoch, is_best, verbose)
            if callback_fn and score is not None:
                callback_fn(epoch, score)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _train_and_report(self, train_data, epoch, verbose, show_progress):
        start = time.time()
        losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
        self.train_loss_dict[epoch] = sum(losses) if isinstance(losses, tuple) else losses
        if verbose:
            self.logger.info(self._generate_train_loss_output(epoch, start, time.time(), losses))
        self._add_train_loss_to_tensorboard(epoch, losses)
        self.wandblogger.log_metrics({"epoch": epoch, "train_loss": losses, "train_step": epoch}, head="train")

    def _validate_and_report(self, valid_data, epoch, verbose, show_progress):
        """Score of an epoch and whether it is the best one; (None, False) when no validation is due."""
        if (epoch + 1) % self.eval_step:
            return None, False
        start = time.time()
        score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        self.history["valid_epoch"].append(epoch)
        for name, value in result.items():
            self.history["valid"].setdefault(name, []).append(float(value))
        self.best_valid_score, self.cur_step, self.stopped, is_best = early_stopping(
            score, self.best_valid_score, self.cur_step, self.stopping_step, self.valid_metric_bigger
        )
        if is_best:
            self.best_valid_result = result
        if verbose:
            self.logger.info(f"epoch {epoch} evaluating [time: {time.time() - start:.2f}s, valid_score: {score:f}]")
            self.logger.info("valid result: \n" + dict2str(result))
            if self.stopped:
                best = epoch - self.cur_step * self.eval_step
                self.logger.info(f"Finished training, best eval result in epoch {best}")
        self.tensorboard.add_scalar("Vaild_score", score, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch // self.eval_step}, head="valid")
        return score, is_best

    def _valid_epoch(self, valid_data, show_progress=False):
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        return calculate_valid_score(result, self.valid_metric), result

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's ``evaluate``, which reads checkpoints without executing anything."""
        if eval_data and load_best_model:
            file = model_file or self.saved_model_file
            checkpoint = processes.first_does(load_checkpoint, file)
            restore_model(self.model, checkpoint, self.device)
            self.logger.info(f"Loading model structure and parameters from {file}")
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    # Reports

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses):
        names = getattr(self.model, "loss_names", None)
        if not isinstance(losses, tuple) or names is None:
            return super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        named = {name: round(loss, self.config["loss_decimal_place"]) for name, loss in zip(names, losses)}
        return f"epoch {epoch_idx} training [time: {e_time - s_time:.2f}s, {dict2str(named)}]"

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train"):
        names = getattr(self.model, "loss_names", None)
        named = isinstance(losses, tuple) and names is not None
        parts = dict(zip(names, losses)) if named else {"loss": sum(losses) if isinstance(losses, tuple) else losses}
        self.history["epoch"].append(epoch_idx)
        for name, loss in parts.items():
            self.history["loss"].setdefault(name, []).append(float(loss))
        if not named:
            return super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        for name, loss in parts.items():
            self.tensorboard.add_scalar(f"{tag}/{name}", loss, epoch_idx)
        self.wandblogger.log_metrics({**parts, "train_step": epoch_idx}, head="train")


class DiffusionTrainer(SafeCheckpointMixin, Trainer):
    """Trainer of all models that RecBole trains with its plain one: mixed precision, clipping, steps of the rate.

    RecBole's own loop makes a new gradient scaler every epoch and clips gradients that are still scaled.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        if config["lr_decay_step"]:
            self.scheduler = StepLR(self.optimizer, config["lr_decay_step"], config["lr_decay_gamma"])
        self.amp_type = AMP_TYPES[config["amp_type"]]
        self.scaler = make_scaler(self.device, self.enable_amp and self.amp_type == torch.float16)
        if config["compile"]:
            compile_layers(self.model)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """Train on every batch once.

        Returns:
            float or tuple: the sum over batches of the loss, or of each of its parts.

        Raises:
            UsageError: when the loss is no longer a number.
        """
        self.model.train()
        loss_func, totals = loss_func or self.model.calculate_loss, None
        batches = tqdm(train_data, desc=f"Train {epoch_idx:>5}", ncols=100) if show_progress else train_data
        for number, interaction in enumerate(batches):
            losses = self._train_batch(interaction, loss_func)
            if any(map(math.isnan, losses)) and processes.world_size() == 1:
                raise UsageError(self._describe_divergence(f"epoch {epoch_idx}, batch {number}"))
            totals = losses if totals is None else add_up([totals, losses])
        totals = add_up(processes.gather(totals))
        if any(map(math.isnan, totals)):
            raise UsageError(self._describe_divergence(f"epoch {epoch_idx}"))
        if self.scheduler:
            self.scheduler.step()
        return totals if len(totals) > 1 else totals[0]

    def _train_batch(self, interaction, loss_func):
        """One step of the optimizer. Returns this process's share of the parts of the loss, as numbers."""
        self.optimizer.zero_grad()
        losses = self._share_of_losses(interaction, loss_func)
        if losses:
            self.scaler.scale(sum(losses)).backward()
        processes.sum_gradients(self.model.parameters())
        self._update()
        return tuple(loss.item() for loss in losses)

    def _share_of_losses(self, interaction, loss_func):
        """The parts of the loss, weighted so that their sums over all processes are the parts for the whole batch."""
        weigh = getattr(self.model, "loss_weights", lambda rows: {None: len(rows)})
        everyones = processes.gather({} if interaction is None else weigh(interaction))
        if interaction is None:
            return ()
        interaction = interaction.to(self.device)
        # Older versions of PyTorch (2.6) lose the gradient of a weight whose cached half copy was made without one.
        with torch.autocast(self.device.type, dtype=self.amp_type, enabled=self.enable_amp, cache_enabled=False):
            with contextlib.nullcontext() if all(everyones) else processes.apart():
                losses = loss_func(interaction)
        losses = losses if isinstance(losses, tuple) else (losses,)
        if len(everyones) == 1:
            return losses
        names = getattr(self.model, "loss_names", [None] * len(losses))
        return tuple(loss * share_of(name, everyones) for name, loss in zip(names, losses))

    def _update(self):
        if self.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _describe_divergence(self, when):
        rate = self.optimizer.param_groups[0]["lr"]
        amp = ", or train without enable_amp" if self.enable_amp else ", or set clip_grad_norm"
        return f"the training loss is no number in {when}: lower learning_rate (now {rate:g}){amp}"


def trainer_class(config):
    """The trainer of a model: the plugin's, or RecBole's special one with the plugin's checkpoints."""
    stock = Trainer if config.is_plugin_model else get_trainer(config["MODEL_TYPE"], config["model"])
    return DiffusionTrainer if stock is Trainer else type(stock.__name__, (SafeCheckpointMixin, stock), {})


def share_of(name, weights):
    """This process's part, 0 to 1, of the weight of a part of the loss. weights: of all processes, {} where idle."""
    everyones = [own.get(name, own.get(None, 0)) for own in weights]
    return everyones[processes.rank()] / sum(everyones)


def add_up(parts):
    """Sum tuples of numbers place by place; an empty tuple is nothing."""
    return tuple(map(sum, zip(*filter(None, parts))))


def make_scaler(device, enabled):
    """Gradient scaler that lives as long as the training."""
    old = not hasattr(torch.amp, "GradScaler")  # PyTorch 2.2
    scaler = torch.cuda.amp.GradScaler(enabled=enabled) if old else torch.amp.GradScaler(device.type, enabled=enabled)
    scaler.scale(torch.zeros((), device=device))  # makes its tensors, also in a process whose first batch has no rows
    return scaler


def compile_layers(model):
    """Compile the feed-forward layers for any number of tokens; the rest of a step changes shape too often to gain.

    Args:
        model (nn.Module): its layers of a class called ``FeedForward`` are compiled in place.

    Raises:
        UsageError: when there is no compiler or the model has no such layer.
    """
    candidates = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if not any(shutil.which(name) for name in candidates if name):
        raise UsageError("compile: True needs a C++ compiler such as g++, none was found: install one or leave it off")
    layers = [module for module in model.modules() if type(module).__name__ == "FeedForward"]
    if not layers:
        raise UsageError(f"compile: {type(model).__name__} has no feed-forward layers to compile: leave compile off")
    for layer in layers:
        layer.compile(dynamic=True)


def plain_parameters(model):
    """RecBole's ``other_parameter`` without modules, whose weights are in the state dict anyway."""
    return {key: value for key, value in model.other_parameter().items() if not isinstance(value, nn.Module)}


def restore_model(model, checkpoint, device):
    """Load the weights of a checkpoint and what RecBole's models keep beside them."""
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(on_device(checkpoint["other_parameter"] or {}, device))


def on_device(values, device):
    """A copy of a dict whose tensors are on a device."""
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in values.items()}
