"""Embedding of the time step (DDPM)."""

import math

import torch
from torch import nn

TIME_SCALE = 1000  # time steps are embedded as if there were this many


class StepEmbedding(nn.Module):
    """d: sinusoids of the time step through a small network, for all T steps at once.

    Args:
        steps (int): T.
        hidden_size (int): width d, even.
    """

    waves: torch.Tensor
    raw_waves: torch.Tensor

    def __init__(self, steps: int, hidden_size: int) -> None:
        super().__init__()
        frequency = torch.exp(-math.log(10000) * torch.arange(hidden_size // 2) / (hidden_size // 2))
        for name, scale in (("waves", TIME_SCALE / steps), ("raw_waves", 1.0)):
            angle = torch.arange(steps)[:, None] * scale * frequency
            self.register_buffer(name, torch.cat([angle.cos(), angle.sin()], 1), persistent=False)
        self.network = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(self, raw: bool = False) -> torch.Tensor:
        """Returns [T, d]; raw: of the time steps 0..T-1 as they are."""
        return self.network(self.raw_waves if raw else self.waves)


class SineEmbedding(nn.Module):
    """tau(t) of DreamRec: sines and cosines of the time step as it is, whatever T, through a small network.

    Args:
        steps (int): T.
        hidden_size (int): width d, even.
    """

    waves: torch.Tensor

    def __init__(self, steps: int, hidden_size: int) -> None:
        super().__init__()
        half = hidden_size // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / max(half - 1, 1))
        angle = torch.arange(steps)[:, None] * frequency
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], 1).float(), persistent=False)
        self.network = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, hidden_size)
        )

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t: [...] time steps -> [..., d]."""
        return self.network(self.waves[t])
