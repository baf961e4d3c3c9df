"""Gaussian diffusion of single vectors: the forward process in closed form and the reverse chains.

Time steps are t = 0..T-1 and ``alpha_bar[-1]`` is 1, as in DDPM (Ho et al. 2020). The network that the chains
call predicts the clean vector x_0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from recbole_diffusion.diffusion.forward import ForwardProcess
from recbole_diffusion.diffusion.schedules import alpha_bars


class GaussianProcess(ForwardProcess):
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) (DiffuRecSys Eq. 5), with standard normal noise.

    Args:
        betas (torch.Tensor): [T] float64 variances, see :mod:`recbole_diffusion.diffusion.schedules`.
    """

    def __init__(self, betas: torch.Tensor) -> None:
        alpha_bar = alpha_bars(betas)
        super().__init__(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


@dataclass(frozen=True)
class ReverseChain:
    """Steps from pure noise to a clean vector, each a fixed linear mix of what is at hand.

    ``x' = clean * x_0 + state * x + noise * epsilon``, where x_0 is the network's prediction at the step.

    Attributes:
        timesteps (list[int]): original time steps, from the noisiest to 0.
        clean, state, noise (list[float]): the three weights of each step.
    """

    timesteps: list[int]
    clean: list[float]
    state: list[float]
    noise: list[float]

    def run(
        self,
        start: torch.Tensor,
        denoise: Callable[[torch.Tensor, int, int], torch.Tensor],
        draw: Callable[[int], torch.Tensor] | None,
    ) -> torch.Tensor:
        """Follow the chain.

        Args:
            start (torch.Tensor): x_T, any shape.
            denoise (callable): ``(x, t, step)`` -> predicted x_0; t is the time step, step counts from 0.
            draw (callable): ``step`` -> standard normals of the same shape; None for a chain without noise.

        Returns:
            torch.Tensor: x_0.
        """
        x = start
        for step, t in enumerate(self.timesteps):
            x = self.clean[step] * denoise(x, t, step) + self.state[step] * x
            if self.noise[step]:
                x = x + self.noise[step] * draw(step)  # type: ignore[misc]
        return x


def kept_timesteps(steps: int, sampling_steps: int) -> list[int]:
    """Evenly spaced time steps, the noisiest first, always ending at 0; all of them when the numbers are equal.

    Raises:
        ValueError: unless 1 <= sampling_steps <= steps.
    """
    if not 1 <= sampling_steps <= steps:
        raise ValueError(f"sampling_steps must lie in [1, {steps}], got {sampling_steps}")
    if sampling_steps == 1:
        return [0]
    return torch.linspace(0, steps - 1, sampling_steps).round().long().flip(0).tolist()


def reverse_chain(
    betas: torch.Tensor, sampling_steps: int, sampler: str = "ddpm", variance: str = "beta", eta: float = 0.0
) -> ReverseChain:
    """The chain over some of the time steps, its coefficients computed from the alpha-bars that are kept.

    Args:
        betas (torch.Tensor): [T] float64.
        sampling_steps (int): steps to take; ``T`` gives the chain of the paper, 1 a single prediction at t = 0.
        sampler (str): ``ddpm``, the posterior q(x_{t-1} | x_t, x_0) (DiffuRecSys Eq. 7-8), or ``ddim`` (Song et
            al. 2021).
        variance (str): of ddpm: ``beta`` (fixed large, the released code), ``posterior`` (Eq. 8), ``none``, the
            posterior's mean alone, or ``official_exp``, the posterior taken for its own logarithm (DiQDiff's code).
        eta (float): of ddim: 0 is deterministic given the start.

    Returns:
        ReverseChain

    Raises:
        ValueError: for impossible steps or an unknown name.
    """
    timesteps = kept_timesteps(len(betas), sampling_steps)
    now = alpha_bars(betas)[timesteps]
    before = torch.cat([now[1:], now.new_ones(1)])  # alpha-bar of the step that follows in the chain
    beta = 1 - now / before
    posterior = beta * (1 - before) / (1 - now)
    if sampler == "ddpm":
        variances = {"beta": beta, "posterior": posterior, "none": torch.zeros_like(beta), "official_exp": posterior.exp()}
        if variance not in variances:
            raise ValueError(f"variance must be one of {', '.join(variances)}, got '{variance}'")
        clean = beta * before.sqrt() / (1 - now)
        state = (1 - before) * (1 - beta).sqrt() / (1 - now)
        noise = variances[variance].sqrt()
    elif sampler == "ddim":
        noise = eta * posterior.sqrt()
        state = ((1 - before - noise**2).clamp(min=0) / (1 - now)).sqrt()
        clean = before.sqrt() - state * now.sqrt()
    else:
        raise ValueError(f"sampler must be ddpm or ddim, got '{sampler}'")
    noise[-1] = 0  # the last step is the prediction itself
    return ReverseChain(timesteps, clean.tolist(), state.tolist(), noise.tolist())
