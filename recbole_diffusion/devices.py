"""Devices that the user names."""

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
        UsageError: when PyTorch does not know it or cannot put anything there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        called = shown or f"device '{name}'"
        raise UsageError(f"{called} cannot be used: {str(error).splitlines()[0]}") from None
    return device
