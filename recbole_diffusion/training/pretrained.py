"""Item vectors of a trained model, for trainings and generators that start from them."""

from pathlib import Path

import torch

from recbole_diffusion import processes
from recbole_diffusion.data.pseudo_items import place_of
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.leaks import leaking_setting
from recbole_diffusion.training.checkpoint import load_checkpoint


def checkpoint_of_this_part(path, config, tokens, command, counts):
    """A checkpoint of the training part of the same data.

    Args:
        path (str): the file.
        config (DiffusionConfig): of the data.
        tokens (list[str]): token of every item number.
        command (str): what makes such a checkpoint, for the message.
        counts (torch.Tensor): [V] how often each item occurs in the training part; older checkpoints do not know theirs.

    Returns:
        dict: see :func:`recbole_diffusion.training.checkpoint.load_checkpoint`.

    Raises:
        UsageError: when it is missing, damaged, of other items or of another part, or may have seen more than the training part.
    """
    name, split = config["dataset"], config["eval_args"]["split"]
    if not Path(path).is_file():
        raise UsageError(f"checkpoint '{path}' does not exist: make one with '{command}'")
    checkpoint = load_checkpoint(path)
    saved = checkpoint["config"]
    if saved["dataset"] != name or checkpoint["item_tokens"] != tokens:
        raise UsageError(
            f"checkpoint '{path}' is of data set '{saved['dataset']}' with other items than '{name}' has now: make one "
            f"with '{command}'"
        )
    kept = checkpoint.get("item_counts")
    elsewhere = kept is not None and not torch.equal(kept, counts)
    if elsewhere or saved["eval_args"]["split"] != split:
        raise UsageError(
            f"checkpoint '{path}' was trained on another part of the data than {split} gives to training: make one "
            f"with '{command}'"
        )
    told = told_more(saved)
    if told:
        raise UsageError(
            f"checkpoint '{path}' was trained with {told}, by which validation or test items may have reached it: make one "
            f"with '{command}'"
        )
    return checkpoint


def told_more(saved):
    """The setting of a checkpoint by which its model may know more than the training part, or None."""
    augmented = f"augmented: {saved['augmented']}" if saved.get("augmented") else None
    return leaking_setting(saved) or augmented


def start_from_pretrained(model, config, tokens, counts):
    """Give a new model the item vectors of the checkpoint that ``pretrained_item_embedding`` names, if it has that.

    Args:
        model (DiffusionSequentialRecommender): on its device.
        config (DiffusionConfig): its settings.
        tokens (list[str]): token of every item number.
        counts (torch.Tensor): [V] how often each item occurs in the training part.

    Raises:
        UsageError: when the checkpoint does not serve, and for ``frozen_epochs`` without one.
    """
    path, width = config["pretrained_item_embedding"], config["hidden_size"]
    command = (
        f"recbole-diffusion run --model={config['model']} --twin=True --hidden_size={width} "
        f"--dataset={config['dataset']}{place_of(config)}"
    )
    if path:
        vectors = processes.first_does(_item_vectors, path, config, tokens, counts, command)
        with torch.no_grad():
            model.item_embedding.weight.copy_(vectors)
    elif config["frozen_epochs"]:
        raise UsageError(
            f"frozen_epochs {config['frozen_epochs']} is for trained item vectors: make some with '{command}' and name "
            f"its NAME-best.pth, --pretrained_item_embedding=FILE, or set frozen_epochs: 0"
        )


def _item_vectors(path, config, tokens, counts, command):
    """[V, d] float32, zeros for padding."""
    checkpoint = checkpoint_of_this_part(path, config, tokens, command, counts)
    table, width = checkpoint["state_dict"].get("item_embedding.weight"), config["hidden_size"]
    if table is None or table.dim() != 2 or table.shape[1] != width:
        found = "no item vectors" if table is None else f"item vectors of {table.shape[-1]} numbers"
        raise UsageError(f"checkpoint '{path}' has {found}, hidden_size is {width}: make one with '{command}'")
    vectors = table[: len(tokens)].float().clone()
    vectors[0] = 0
    return vectors
