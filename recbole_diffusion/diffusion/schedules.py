"""Variance schedules of the papers, built in float64.

``beta[t]`` is the variance added at step t and ``alpha_bar[t]`` the product of ``1 - beta`` up to t, both for
t = 0..T-1 as in DDPM (Ho et al. 2020).
"""

import torch


def linear_betas(steps, start=1e-4, end=0.02):
    """Linear schedule of DDPM. Returns [steps] float64.

    Raises:
        ValueError: when ``steps`` < 1 or the betas do not lie in (0, 1).
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    if not (0 < start < 1 and 0 < end < 1):
        raise ValueError(f"betas must lie in (0, 1), got {start} and {end}")
    return torch.linspace(start, end, steps, dtype=torch.float64)


def alpha_bars(betas):
    """Cumulative product of ``1 - betas``: [steps] float64."""
    return torch.cumprod(1 - betas, 0)


def zero_terminal_snr(alpha_bar):
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
