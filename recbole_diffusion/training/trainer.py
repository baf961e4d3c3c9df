"""RecBole's trainer with exact resumption, mixed precision, several processes and named losses."""

import math
import time
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score, dict2str, early_stopping, get_trainer
from torch.optim.lr_scheduler import StepLR

from recbole_diffusion import processes
from recbole_diffusion.errors import UsageError
from recbole_diffusion.training import console
from recbole_diffusion.training.checkpoint import load_checkpoint, random_state, restore_random_state
from recbole_diffusion.training.evaluation import plain_metrics
from recbole_diffusion.training.networks import compile_layers, first_batch_of, restore_model
from recbole_diffusion.training.pretrained import start_from_pretrained
from recbole_diffusion.training.resumable import SafeCheckpointMixin
from recbole_diffusion.training.sparse_table import WithSparseTable, clip_gradients, sparse_tables

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class EpochsMixin(SafeCheckpointMixin):
    """The loop over epochs, validation and reports, around checkpoints."""

    warned = False  # whether the model has warned in this run

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's ``fit``, which also writes ``last`` after every epoch. See there for arguments and result."""
        self._meet_data(train_data, valid_data)
        if self.start_epoch == 0:
            start_from_pretrained(self.model, self.config, self.item_tokens, self.item_counts)
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        verbose, show_progress = verbose and processes.is_first(), show_progress and processes.is_first()
        start = time.perf_counter() - self.training_seconds
        for epoch in range(self.start_epoch, self.epochs):
            if self.stopped:
                break
            began = time.perf_counter()
            self._train_and_report(train_data, epoch, verbose, show_progress)
            self._ask_model(epoch)
            self.history.setdefault("steps", []).append(len(train_data))
            score, is_best = None, True
            if self.eval_step > 0 and valid_data:
                score, is_best = self._validate_if_due(valid_data, epoch, verbose, show_progress)
            if is_best:
                self.best_epoch = epoch
            self.training_seconds = time.perf_counter() - start
            if verbose:
                self._say_epoch(epoch, time.perf_counter() - began, len(train_data), score, is_best)
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

    def _validate_if_due(self, valid_data, epoch, verbose, show_progress):
        """Score of an epoch and whether it is the best one; (None, False) when no validation is due.

        The last epoch is looked at whatever ``eval_step`` is. Where it is not its turn, the look leaves the random
        generators and the count of early stopping alone: a run that goes on with more epochs is trained as if it had
        had them from the start.
        """
        in_turn, is_last = (epoch + 1) % self.eval_step == 0, epoch + 1 == self.epochs
        if not getattr(self.model, "changes_scores", lambda _: True)(epoch):
            in_turn = False
        if in_turn:
            return self._validate_and_report(valid_data, epoch, True, verbose, show_progress)
        if not is_last:
            return None, False
        before = random_state(self._generators, self.device)
        found = self._validate_and_report(valid_data, epoch, False, verbose, show_progress)
        restore_random_state(before, self._generators, self.device)
        return found

    def _validate_and_report(self, valid_data, epoch, in_turn, verbose, show_progress):
        start = time.time()
        score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        if math.isnan(score):
            raise UsageError(f"valid_metric {self.valid_metric} has no value in the validation part: choose another")
        self.history["valid_epoch"].append(epoch)
        for name, value in plain_metrics(result).items():
            self.history["valid"].setdefault(name, []).append(value)
        is_best = score >= self.best_valid_score if self.valid_metric_bigger else score <= self.best_valid_score
        if is_best:
            self.best_valid_score, self.best_valid_result = score, result
        if in_turn:
            self.best_in_turn, self.cur_step, self.stopped, _ = early_stopping(
                score, self.best_in_turn, self.cur_step, self.stopping_step, self.valid_metric_bigger
            )
        if verbose:
            self.logger.info(f"epoch {epoch} evaluating [time: {time.time() - start:.2f}s, valid_score: {score:f}]")
            self.logger.info("valid result: \n" + dict2str(result))
            if self.stopped:
                self.logger.info(f"Finished training, best eval result in epoch {epoch if is_best else self.best_epoch}")
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
        with console.watched(eval_data, "evaluation", show_progress and processes.is_first()):
            return super().evaluate(eval_data, load_best_model=False, show_progress=False)

    # Reports

    def _ask_model(self, epoch):
        """Keep what the model reports of itself after an epoch, and pass its first warning on."""
        report = getattr(self.model, "epoch_report", dict)()
        for name, value in report.items():
            self.history.setdefault("report", {}).setdefault(name, []).append(value)
            self.tensorboard.add_scalar(f"Report/{name}", value, epoch)
        warning = self.model.epoch_warning(report) if report and not self.warned else None
        if warning:
            self.warned = True
            self.logger.warning(f"epoch {epoch}: {warning}")

    def _say_epoch(self, epoch, seconds, steps, score, is_best):
        """The line of an epoch at the console."""
        losses = {name: values[-1] for name, values in self.history["loss"].items()}
        validation = None if score is None else (self.config["valid_metric"], score)
        report = {name: values[-1] for name, values in self.history.get("report", {}).items()}
        text = console.describe_epoch(epoch, self.epochs, seconds, losses, steps, validation, is_best, report)
        console.say("epoch", text)
        if self.stopped:
            console.say("stopped", f"{self.stopping_step + 1} validations without a better {self.config['valid_metric']}")

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


class DiffusionTrainer(EpochsMixin, Trainer):
    """Trainer of all models that RecBole trains with its plain one: mixed precision, clipping, steps of the rate.

    RecBole's own loop makes a new gradient scaler every epoch and clips gradients that are still scaled.
    """

    def __init__(self, config, model):
        self._sides = sides_of(model)
        super().__init__(config, model)
        if config["lr_decay_step"]:
            self.scheduler = StepLR(self.optimizer, config["lr_decay_step"], config["lr_decay_gamma"])
        self.steps_taken = 0
        self.amp_type = AMP_TYPES[config["amp_type"]]
        self.scaler = make_scaler(self.device, self.enable_amp and self.amp_type == torch.float16)
        if config["compile"]:
            compile_layers(self.model)

    def _build_optimizer(self, **kwargs):
        """RecBole's, with a group of parameters for every critic of the model, and another optimizer for sparse tables."""
        tables = sparse_tables(self.model)
        apart = set(map(id, tables))
        if tables or len(self._sides) > 1:
            sides = [{"params": [p for p in side if id(p) not in apart], **rate} for side, rate in self._sides]
            kwargs.setdefault("params", sides)
        rest = super()._build_optimizer(**kwargs)
        return WithSparseTable(rest, tables, self.learning_rate) if tables else rest

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """Train on every batch once.

        Returns:
            float or tuple: the sum over batches of the loss, or of each of its parts.

        Raises:
            UsageError: when the loss is no longer a number.
        """
        getattr(self.model, "begin_epoch", lambda _: None)(epoch_idx)
        self.model.train()
        loss_func, totals = loss_func or self.model.calculate_loss, None
        batches = console.bar(train_data, f"epoch {epoch_idx}", show_progress)
        self.steps_taken = sum(self.history.get("steps", []))
        for number, interaction in enumerate(batches):
            with first_batch_of(self.config) if number == epoch_idx == 0 else nullcontext():
                losses = self._train_batch(interaction, loss_func)
            self.steps_taken += 1
            if show_progress:
                batches.set_postfix(loss=f"{sum(losses):.4f}", refresh=False)
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
        """The steps of the optimizer for a batch. Returns this process's share of the parts of the loss, as numbers.

        Of a part that several steps have, the first one counts.
        """
        steps = getattr(self.model, "training_steps", lambda: None)()
        if not steps:
            return self._take_step(interaction, loss_func)
        parts = {}
        for loss_parts, parameters in steps:
            with learning_only(parameters, self.model):
                losses = self._take_step(interaction, partial(self.model.calculate_loss, loss_parts=loss_parts))
            if losses:
                parts.update((name, loss) for name, loss in zip(self.model.loss_names, losses) if name not in parts)
        if parts:
            self.model.loss_names = tuple(parts)
        return tuple(parts.values())

    def _take_step(self, interaction, loss_func):
        """One step of the optimizer. Returns this process's share of the parts of the loss, as numbers."""
        self.optimizer.zero_grad()
        losses = self._share_of_losses(interaction, loss_func)
        if losses:
            self.scaler.scale(sum(losses)).backward()
        processes.sum_gradients(self.model.parameters())
        with at_part_of_rate(self.optimizer, min(1, (self.steps_taken + 1) / max(1, self.config["lr_warmup_steps"]))):
            self._update()
        getattr(self.model, "after_step", lambda: None)()
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
            with nullcontext() if all(everyones) else processes.apart():
                losses = loss_func(interaction)
        losses = losses if isinstance(losses, tuple) else (losses,)
        if len(everyones) == 1:
            return losses
        names = getattr(self.model, "loss_names", [None] * len(losses))
        return tuple(loss * share_of(name, everyones) for name, loss in zip(names, losses))

    def _update(self):
        if self.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            for side, _ in self._sides:
                clip_gradients(side, **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _describe_divergence(self, when):
        rate = self.optimizer.param_groups[0]["lr"]
        amp = ", or train without enable_amp" if self.enable_amp else ", or set clip_grad_norm"
        return f"the training loss is no number in {when}: lower learning_rate (now {rate:g}){amp}"


def trainer_class(config):
    """The trainer of a model: the plugin's, or RecBole's special one with the plugin's checkpoints."""
    stock = Trainer if config.is_plugin_model else get_trainer(config["MODEL_TYPE"], config["model"])
    return DiffusionTrainer if stock is Trainer else type(stock.__name__, (EpochsMixin, stock), {})


def evaluating_trainer(config, network, train_data):
    """A trainer for evaluations alone, which makes no file.

    Args:
        config (DiffusionConfig): its ``checkpoint_dir`` must be there, RecBole would make it.
        network (nn.Module): trained.
        train_data: loader of the training part, of which some metrics need counts.
    """
    kind = trainer_class(config)
    trainer = type(kind.__name__, (kind,), {"writes": False})(config, network)
    trainer.eval_collector.data_collect(train_data)
    return trainer


def sides_of(model):
    """The parameters that learn together: pairs of a list of them and their optimizer's settings, critics last."""
    critics, rest, sides = getattr(model, "critics", dict)(), dict(model.named_parameters()), []
    for start, rate in critics.values():
        own = [rest.pop(name) for name in list(rest) if name.startswith(start)]
        sides.append((own, {"lr": rate}))
    return [(list(rest.values()), {}), *sides]


def share_of(name, weights):
    """This process's part, 0 to 1, of the weight of a part of the loss. weights: of all processes, {} where idle."""
    everyones = [own.get(name, own.get(None, 0)) for own in weights]
    return everyones[processes.rank()] / sum(everyones)


@contextmanager
def learning_only(parameters, model):
    """Inside, only some parameters of a model get gradients, and with them steps of the optimizer."""
    chosen = set(map(id, parameters))
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@contextmanager
def at_part_of_rate(optimizer, part):
    """Inside, all learning rates are this part of theirs; a scheduler never sees it."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * part
    yield
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


def add_up(parts):
    """Sum tuples of numbers place by place; an empty tuple is nothing."""
    return tuple(map(sum, zip(*filter(None, parts))))


def make_scaler(device, enabled):
    """Gradient scaler that lives as long as the training."""
    old = not hasattr(torch.amp, "GradScaler")  # PyTorch 2.2
    scaler = torch.cuda.amp.GradScaler(enabled=enabled) if old else torch.amp.GradScaler(device.type, enabled=enabled)
    scaler.scale(torch.zeros((), device=device))  # makes its tensors, also in a process whose first batch has no rows
    return scaler
