"""Devices that the user names."""

import re

import torch

from recbole_diffusion.errors import UsageError


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
