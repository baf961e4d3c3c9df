"""Variance schedules of the papers, built in float64.

``beta[t]`` is the variance added at step t and ``alpha_bar[t]`` the product of ``1 - beta`` up to t, both for
t = 0..T-1 as in DDPM (Ho et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

REFERENCE_STEPS = 1000  # for which the ends of DDPM's linear schedule were chosen
LARGEST_BETA = 0.999  # Nichol and Dhariwal 2021: the last one would be 1


def linear_betas(steps: int, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """Linear schedule of DDPM. Returns [steps] float64.

    Raises:
        ValueError: when ``steps`` < 1 or the betas do not lie in (0, 1).
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    if not (0 < start < 1 and 0 < end < 1):
        raise ValueError(f"betas must lie in (0, 1), got {start} and {end}")
    return torch.linspace(start, end, steps, dtype=torch.float64)


def named_betas(name: str, steps: int, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """A schedule by the name that the papers give it.

    Args:
        name (str): ``linear``, DDPM's; ``trunc_lin``, the truncated linear one of DiffuRec, 0.01 above it; ``cosine``
            (Nichol and Dhariwal 2021); ``sqrt`` (Li et al. 2022, Diffusion-LM).
        steps (int): T.
        start, end (float): ends of the two linear schedules for 1000 steps; with T steps they are 1000 / T times as
            large, so that the sum of the betas stays the same.

    Returns:
        torch.Tensor: [steps] float64, each in (0, 1).

    Raises:
        ValueError: for an unknown name, ``steps`` < 1, or betas outside (0, 1).
    """
    scale = REFERENCE_STEPS / max(steps, 1)
    if name == "linear":
        return linear_betas(steps, scale * start, scale * end)
    if name == "trunc_lin":
        last = scale * end + 0.01
        if last > 1:
            last = scale * end / 20 + 0.01
        return linear_betas(steps, scale * start + 0.01, last)
    if name == "cosine":
        return betas_of_alpha_bar(steps, lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2)
    if name == "sqrt":
        return betas_of_alpha_bar(steps, lambda u: 1 - math.sqrt(u + 1e-4))
    raise ValueError(f"schedule must be linear, trunc_lin, cosine or sqrt, got '{name}'")


def dreamrec_betas(name: str, steps: int, start: float = 1e-4, end: float = 0.02) -> torch.Tensor:
    """The schedules of DreamRec, which do not follow DDPM's customs.

    Args:
        name (str): ``linear`` from ``start`` to ``end`` whatever T is; ``exp``, steps of a process in
            continuous time whose rate rises linearly from 0.1 to 10; ``cosine``, clipped to [1e-4, 0.9999]; ``sqrt``, as in :func:`named_betas`.
        steps (int): T.
        start, end (float): ends of ``linear``; the others do not read them.

    Returns:
        torch.Tensor: [steps] float64, each in (0, 1).

    Raises:
        ValueError: for an unknown name, ``steps`` < 1, or betas outside (0, 1).
    """
    if name == "linear":
        return linear_betas(steps, start, end)
    if name == "sqrt":
        return named_betas("sqrt", steps)
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    if name == "exp":
        u = torch.linspace(1, 2 * steps + 1, steps, dtype=torch.float64)
        return 1 - (-0.1 / steps - 4.95 * u / steps**2).exp()
    if name == "cosine":
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        bars = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return (1 - bars[1:] / bars[:-1]).clamp(1e-4, 0.9999)
    raise ValueError(f"schedule must be linear, exp, cosine or sqrt, got '{name}'")


def betas_of_alpha_bar(steps: int, alpha_bar: Callable[[float], float]) -> torch.Tensor:
    """Betas whose cumulative product follows a function of time. alpha_bar: maps u in [0, 1] to (0, 1]."""
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    ratios = [alpha_bar((t + 1) / steps) / alpha_bar(t / steps) for t in range(steps)]
    return torch.tensor([min(1 - ratio, LARGEST_BETA) for ratio in ratios], dtype=torch.float64)


def alpha_bars(betas: torch.Tensor) -> torch.Tensor:
    """Cumulative product of ``1 - betas``: [steps] float64."""
    return torch.cumprod(1 - betas, 0)


def zero_terminal_snr(alpha_bar: torch.Tensor) -> torch.Tensor:
    """Shift and scale ``sqrt(alpha_bar)`` so that the last step is pure noise and the first one unchanged.

    Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed". With one step only there is
    nothing to rescale: the step is pure noise.

    Args:
        alpha_bar (torch.Tensor): [steps] float64, decreasing.

    Returns:
        torch.Tensor: [steps], the last entry exactly 0.
    """
    root = alpha_bar.sqrt()
    if len(root) == 1:
        return torch.zeros_like(root)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
