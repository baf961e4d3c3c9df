"""Reverse steps of a network that predicts the noise instead of the clean vector."""

from __future__ import annotations

import torch

from recbole_diffusion.diffusion.schedules import alpha_bars


def strided_timesteps(steps: int, sampling_steps: int) -> list[int]:
    """Every n-th time step, the noisiest first, 0 the last: 800, 600, 400, 200, 0 for 5 of 1000.

    Raises:
        ValueError: unless 1 <= sampling_steps <= steps.
    """
    if not 1 <= sampling_steps <= steps:
        raise ValueError(f"sampling_steps must lie in [1, {steps}], got {sampling_steps}")
    stride = steps // sampling_steps
    return [stride * step for step in reversed(range(sampling_steps))]


def ddim_weights(betas: torch.Tensor, timesteps: list[int]) -> tuple[list[float], list[float]]:
    """Weights of deterministic DDIM steps (Song et al. 2021): ``x' = state * x + noise * predicted_noise``.

    Args:
        betas (torch.Tensor): [T] float64.
        timesteps (list[int]): from the noisiest on; the step from the last one leads to the clean vector.

    Returns:
        tuple: weights ``state`` and ``noise`` of each step.
    """
    now = alpha_bars(betas)[timesteps]
    then = torch.cat([now[1:], now.new_ones(1)])
    state = (then / now).sqrt()
    noise = (1 - then).sqrt() - state * (1 - now).sqrt()
    return state.tolist(), noise.tolist()
