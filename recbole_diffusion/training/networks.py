"""Networks: made, restored from checkpoints, compiled."""

import os
import shutil
from contextlib import contextmanager

import torch
from recbole.utils import init_seed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recbole_diffusion import processes, threads
from recbole_diffusion.errors import UsageError, one_line


def build_model(config, train_data):
    """A freshly initialised model on the configured device. Raises UsageError when RecBole's model wants more data."""
    init_seed(config["seed"], config["reproducibility"])
    try:
        network = config.model_class(config, train_data._dataset).to(config["device"])
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if config.is_plugin_model:
            raise
        reason = f"field or setting {error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UsageError(f"RecBole's {config['model']} cannot be built here: {reason}") from error
    if processes.world_size() > 1 and any(isinstance(part, _BatchNorm) for part in network.modules()):
        raise UsageError(f"{config['model']} normalises over batches, of which processes see parts: leave out --nproc")
    if not processes.is_first():  # the same weights, but other noise
        init_seed(config["seed"] + processes.rank(), config["reproducibility"])
    return network


@contextmanager
def first_batch_of(config):
    """Say in one line that RecBole's model cannot train on these data. Raises UsageError; our own models raise as ever."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if config.is_plugin_model or isinstance(error, UsageError):
            raise
        reason = one_line(error, 200) if str(error) else type(error).__name__
        raise UsageError(f"RecBole's {config['model']} fails in its first batch with these data: {reason}") from error


def start_torch(config):
    """Seed the random generators, and choose how torch multiplies float32 matrices and how many threads it takes."""
    threads.follow(config["threads"])
    init_seed(config["seed"], config["reproducibility"])
    torch.set_float32_matmul_precision(config["float32_matmul_precision"])


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
    """A copy of a dict, and of dicts in it, whose tensors are on a device."""
    if isinstance(values, dict):
        return {key: on_device(value, device) for key, value in values.items()}
    return values.to(device) if torch.is_tensor(values) else values
