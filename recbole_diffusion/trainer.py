"""RecBole's trainers with safe checkpoints, named losses and a faster collector."""

import os
import secrets
import tempfile

import torch
from recbole.evaluator import Collector
from recbole.trainer import Trainer
from recbole.utils import dict2str, get_local_time, get_trainer, set_color
from torch import nn
from torch.optim.lr_scheduler import StepLR

from recbole_diffusion.data.dataset import training_item_counts

CHECKPOINT_FORMAT = 1


class OneTargetCollector(Collector):
    """RecBole's collector for one target per row, without a second ``[B, V]`` matrix and a second top-k.

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


def ranks_of_hits(hits):
    """Ranks of targets in their lists.

    Args:
        hits (torch.IntTensor): [B, K] 1 where the target stands in the list of K items.

    Returns:
        torch.ShortTensor: [B] from 1, or 0 where the target is not in the list. On the CPU.
    """
    return torch.where(hits.any(1), hits.argmax(1) + 1, 0).to(torch.int16).cpu()


class SafeCheckpointMixin:
    """Checkpoints of plain tensors and JSON values, written whole or not at all; losses by name."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = OneTargetCollector(config)
        self.best_epoch = None
        self.history = {"epoch": [], "loss": {}, "valid_epoch": [], "valid": {}}
        # RecBole's name has seconds only: two runs started together would overwrite each other.
        name = f"{config['model']}-{config['dataset']}-{get_local_time()}-{secrets.token_hex(2)}.pth"
        self.saved_model_file = os.path.join(config["checkpoint_dir"], name)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        self.best_epoch = epoch
        save_atomically(self.checkpoint(epoch), path)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def checkpoint(self, epoch):
        """What a checkpoint holds: tensors and JSON values only."""
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
        }

    def fit(self, train_data, *args, **kwargs):
        dataset = train_data._dataset
        self.item_tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
        self.item_counts = training_item_counts(dataset)
        return super().fit(train_data, *args, **kwargs)

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        self.history["valid_epoch"].append(max(self.train_loss_dict))
        for name, value in result.items():
            self.history["valid"].setdefault(name, []).append(float(value))
        return score, result

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses):
        names = getattr(self.model, "loss_names", None)
        if not isinstance(losses, tuple) or names is None:
            return super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        named = {name: round(loss, 4) for name, loss in zip(names, losses)}
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
    """Trainer of the plugin's models: RecBole's with a learning rate that falls in steps."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.scheduler = None
        if config["lr_decay_step"]:
            self.scheduler = StepLR(self.optimizer, config["lr_decay_step"], config["lr_decay_gamma"])

    def _train_epoch(self, *args, **kwargs):
        losses = super()._train_epoch(*args, **kwargs)
        if self.scheduler:
            self.scheduler.step()
        return losses

    def checkpoint(self, epoch):
        state = super().checkpoint(epoch)
        state["scheduler"] = self.scheduler.state_dict() if self.scheduler else None
        return state

    def resume_checkpoint(self, resume_file):
        """RecBole's, and the schedule of the learning rate."""
        super().resume_checkpoint(resume_file)
        state = torch.load(resume_file, weights_only=True, map_location=self.device)["scheduler"]
        if self.scheduler and state:
            self.scheduler.load_state_dict(state)


def trainer_class(config):
    """The trainer of a model: the plugin's, or RecBole's own with the plugin's checkpoints."""
    if config.is_plugin_model:
        return DiffusionTrainer
    stock = get_trainer(config["MODEL_TYPE"], config["model"])
    return type(stock.__name__, (SafeCheckpointMixin, stock), {})


def plain_parameters(model):
    """RecBole's ``other_parameter`` without modules, whose weights are in the state dict anyway."""
    return {key: value for key, value in model.other_parameter().items() if not isinstance(value, nn.Module)}


def save_atomically(state, path):
    """Write a checkpoint beside its target and rename it, so that a crash leaves the old file or the new one."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp hides its files from everybody else
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
