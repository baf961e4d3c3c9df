"""Networks that see a few item vectors at once and predict the noise in them.

The SU-Net of DiffuASR (Liu et al. 2023) takes every vector for a square image and its place in the sequence for a
channel. A plain network of three layers on all numbers at once does the same for a tenth of the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = 8  # of the normalisation, so that numbers of channels are multiples of it
WIDTHS = (8, 16, 16, 16)  # channels at full, half, quarter and eighth size
BLOCKS = 2  # at every size on the way down; one more on the way up
WAVES = 8  # numbers that a time step is first described by
CONDITION = 32  # width of what a block hears of time step and condition


def step_waves(t: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of time steps, sines first. t: [B] -> [B, 8]."""
    half = WAVES // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / (half - 1))
    angle = t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class Condition(nn.Module):
    """What the blocks hear: the time step and a vector, each through a small network, added up.

    Args:
        width (int): d of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_step, self.of_vector = (
            nn.Sequential(nn.Linear(size, CONDITION), nn.SiLU(), nn.Linear(CONDITION, CONDITION))
            for size in (WAVES, width)
        )

    def forward(self, t: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """t: [B]; vector: [B, d] -> [B, 32]."""
        return self.of_step(step_waves(t).to(vector.dtype)) + self.of_vector(vector)


class ResidualBlock(nn.Module):
    """Two convolutions around a shift by the condition, added to the input."""

    def __init__(self, channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.conv_in = normalisation(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(CONDITION, out_channels)
        self.norm_out, self.conv_out = normalisation(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: [B, channels, h, w]; condition: [B, 32] -> [B, out_channels, h, w]."""
        y = self.conv_in(F.silu(self.norm_in(x))) + self.shift(F.silu(condition))[:, :, None, None]
        return self.shortcut(x) + self.conv_out(self.dropout(F.silu(self.norm_out(y))))


class PixelAttention(nn.Module):
    """Attention between the pixels of an image, added to it; of a single pixel it is a linear map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalisation(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, channels, h, w] -> the same shape."""
        y = self.norm(x)
        query, key, value = (part(y).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def normalisation(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of channels."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class SUNet(nn.Module):
    """Noise in M vectors of width d, an image of side sqrt(d) each.

    Args:
        length (int): M.
        width (int): d, the square of a multiple of 8.
        dropout (float): of the blocks.

    Raises:
        ValueError: for another width.
    """

    def __init__(self, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.side = math.isqrt(width)
        if self.side**2 != width or self.side % 2 ** (len(WIDTHS) - 1):
            raise ValueError(f"vectors of {width} numbers are no squares whose side is a multiple of 8, such as 64")
        self.condition = Condition(width)
        self.entry = nn.Conv2d(length, WIDTHS[0], 3, padding=1)
        channels, kept = WIDTHS[0], [WIDTHS[0]]
        self.down = nn.ModuleList()
        for size, out_channels in enumerate(WIDTHS):
            if size:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2))
                kept.append(channels)
            for _ in range(BLOCKS):
                self.down.append(ResidualBlock(channels, out_channels, dropout))
                channels = out_channels
                kept.append(channels)
        self.middle = ResidualBlock(channels, channels, dropout)
        self.attention = PixelAttention(channels)
        self.middle_out = ResidualBlock(channels, channels, dropout)
        self.up = nn.ModuleList()
        for size, out_channels in reversed(list(enumerate(WIDTHS))):
            for _ in range(BLOCKS + 1):
                self.up.append(ResidualBlock(channels + kept.pop(), out_channels, dropout))
                channels = out_channels
            if size:
                self.up.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm, self.exit = normalisation(channels), nn.Conv2d(channels, length, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Noise in noised vectors.

        Args:
            x (torch.Tensor): [B, M, d].
            t (torch.LongTensor): [B] time steps.
            vector (torch.Tensor): [B, d] condition.

        Returns:
            torch.Tensor: [B, M, d].
        """
        condition = self.condition(t, vector)
        maps = [self.entry(x.unflatten(2, (self.side, self.side)))]
        for layer in self.down:
            if isinstance(layer, ResidualBlock):
                maps.append(layer(maps[-1], condition))
            else:
                maps.append(layer(F.pad(maps[-1], (0, 1, 0, 1))))
        y = self.middle_out(self.attention(self.middle(maps[-1], condition)), condition)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                y = layer(torch.cat([y, maps.pop()], 1), condition)
            else:
                y = layer(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return self.exit(F.silu(self.norm(y))).flatten(2)


class FlatDenoiser(nn.Module):
    """The same by three layers on all M * d numbers.

    Args:
        length (int): M.
        width (int): d.
        dropout (float): between the layers.
    """

    def __init__(self, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.condition = Condition(width)
        inner = 4 * width
        self.entry, self.inner, self.exit = (
            nn.Linear(length * width, inner),
            nn.Linear(inner, inner),
            nn.Linear(inner, length * width),
        )
        self.shift = nn.Linear(CONDITION, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, t: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """x: [B, M, d]; t: [B]; vector: [B, d] -> [B, M, d]."""
        y = self.entry(x.flatten(1)) + self.shift(F.silu(self.condition(t, vector)))
        y = y + self.inner(self.dropout(F.silu(y)))
        return self.exit(F.silu(y)).unflatten(1, x.shape[1:])
