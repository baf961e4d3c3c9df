"""Devices that the user names."""

import os
import re

import torch

from recbole_diffusion.errors import UsageError

_shown = []  # what CUDA_VISIBLE_DEVICES said when CUDA was first asked in this process, which is when CUDA reads it


def cuda_there():
    """Whether there is a GPU to see; from the first yes on, this process sees the same GPUs for ever."""
    there = torch.cuda.is_available()
    if there and not _shown:
        _shown.append(os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    return there


def show_gpus(names):
    """Let this process see these GPUs only, as far as CUDA can still be told.

    Args:
        names (str): numbers or names of GPUs, separated by commas, the first of which computes; empty for none.

    Raises:
        UsageError: when this process computes on another one already, where CUDA would silently stay.
    """
    if torch.cuda.is_initialized():
        cuda_there()
    first = _shown[0].split(",")[0] if _shown else None
    if names and first not in (None, names.split(",")[0]):
        raise UsageError(
            f"gpu_id {names} comes too late, this process computes on GPU {first} already: use one GPU for all runs of a "
            f"process, or start another"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = names


def usable_device(name, shown=None):
    """The device of that name, tried out.

    Args:
        name (str): ``cpu``, ``cuda``, ``cuda:1``, ...
        shown (str, optional): how the message calls it, by default ``device '<name>'``.

    Returns:
        torch.device

    Raises:
        UsageError: when PyTorch does not know it, cannot put anything there or cannot read it again, as on ``meta``.
    """
    called = shown or f"device '{name}'"
    try:
        device = torch.device(name)
    except RuntimeError:  # whose message lists all that any build of PyTorch could know
        raise UsageError(f"{called} cannot be used: PyTorch knows no device of that name") from None
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch without CUDA, without a module of the device
        raise UsageError(f"{called} cannot be used: {_first_sentence(error)}") from None
    return device


def _first_sentence(error):
    """What PyTorch says before its advice, which can be pages long."""
    return re.split(r"\.\s|\n", str(error), maxsplit=1)[0].rstrip(".")


def own_gpu():
    """Name of the GPU of this process among several of a launcher, where there are GPUs; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
