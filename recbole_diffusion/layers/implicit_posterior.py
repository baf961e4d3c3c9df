"""Latent vectors of a history as ACVAE draws them, and the two critics that watch them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.packed import PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.transformer import Dropout


def packed_gru(gru: nn.GRU, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """States of a GRU, which takes time first, at every token, block by block of similar length: [N, d] -> [N, hidden]."""
    states = (gru(pad_block(x, block).transpose(0, 1))[0].transpose(0, 1) for block in layout.blocks)
    return torch.cat([unpad_block(state, block) for state, block in zip(states, layout.blocks)])


def windows(x: torch.Tensor, position: torch.Tensor, size: int) -> torch.Tensor:
    """Every token with the ``size - 1`` before it in its sequence, zeros where there are none.

    Args:
        x (torch.Tensor): [n, d] tokens, in time order within a sequence.
        position (torch.LongTensor): [n] 0-based place in its sequence.
        size (int): of a window.

    Returns:
        torch.Tensor: [n, size, d], oldest first.
    """
    back = torch.arange(size - 1, -1, -1, device=x.device)
    place = torch.arange(len(x), device=x.device)[:, None] - back
    return x[place.clamp(min=0)] * (position[:, None] >= back).unsqueeze(-1)


class NoisyLayer(nn.Module):
    """``u + tanh(W e + b)`` with noise ``e``; one layer for both places where ACVAE has noise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noise = nn.Linear(width, width)

    def forward(self, u: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """u, noise: [n, width] -> [n, width]."""
        return u + torch.tanh(self.noise(noise))


class ImplicitPosterior(nn.Module):
    """A GRU and a causal convolution with noise inside: samples of a posterior that has no formula.

    Args:
        item_size, gru_size, latent_size (int): widths of items, of the GRU and of latent vectors.
        kernel_size (int): items that the convolution sees.
        embedding_dropout_prob, hidden_dropout_prob (float): dropout of the item vectors and before the last layer.
        noisy (bool): whether there is noise.
    """

    def __init__(
        self,
        item_size: int,
        gru_size: int,
        latent_size: int,
        kernel_size: int,
        embedding_dropout_prob: float,
        hidden_dropout_prob: float,
        noisy: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.embedding_dropout = Dropout(embedding_dropout_prob)
        self.gru = nn.GRU(item_size, gru_size)
        self.noisy_layer = NoisyLayer(gru_size) if noisy else None
        self.first = nn.Linear(gru_size, gru_size)
        self.convolution = nn.Linear(kernel_size * gru_size, 2 * gru_size)
        self.second = nn.Linear(2 * gru_size, gru_size)
        self.dropout = Dropout(hidden_dropout_prob)
        self.out = nn.Linear(gru_size, latent_size)

    def states(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """The GRU. x: [N, item_size] -> [N, gru_size]."""
        return packed_gru(self.gru, self.embedding_dropout(x), layout)

    def forward(
        self, states: torch.Tensor, position: torch.Tensor, draw: Callable[[int], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Latent vectors of tokens.

        Args:
            states (torch.Tensor): [n, gru_size] of the GRU; of a sequence maybe only the latest ``kernel_size``.
            position (torch.LongTensor): [n] 0-based place among the states of its sequence.
            draw (callable, optional): noise [n, gru_size] of the first (0) and of the second place (1); by default new
                standard normals.

        Returns:
            torch.Tensor: [n, latent_size].
        """
        a = F.softplus(self.first(self._noised(states, 0, draw)))
        seen = windows(self._noised(a, 1, draw), position, self.kernel_size)
        d = F.softplus(self.second(F.softplus(self.convolution(seen.flatten(1)))))
        return self.out(self.dropout(states + d))

    def _noised(self, u: torch.Tensor, place: int, draw: Callable[[int], torch.Tensor] | None) -> torch.Tensor:
        if self.noisy_layer is None:
            return u
        return self.noisy_layer(u, torch.randn_like(u) if draw is None else draw(place).to(u))


class PriorCritic(nn.Module):
    """Estimates ``log q(z | context) / p(z)`` for each of its outputs, of which every one sees everything.

    Half the square of z is the exact logarithm of one over the density of a standard normal, but for a constant.
    """

    def __init__(self, context_size: int, latent_size: int, width: int, dropout_prob: float) -> None:
        super().__init__()
        self.enter = nn.Linear(context_size + latent_size, width)
        self.dropout = Dropout(dropout_prob)
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Linear(width, width)) for _ in range(2))
        self.leave = nn.Linear(width, latent_size)
        self.leave_dropout = Dropout(dropout_prob)

    def forward(self, context: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """context: [n, context_size], z: [n, latent_size] -> [n, latent_size]."""
        n = self.dropout(self.enter(torch.cat([context, z], 1)))
        for layers in self.inner:
            n = F.elu(n + layers(n))
        return (self.leave_dropout(self.leave(n)) + 0.5 * z.square()).to(self.leave.weight.dtype)


class ContrastCritic(nn.Module):
    """Tells items with their own latent vectors from items with another user's."""

    def __init__(self, context_size: int, latent_size: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(context_size + latent_size, width)
        self.out = nn.Linear(width, 1)

    def forward(self, context: torch.Tensor, z: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """context: [N, context_size], z: [N, latent_size] -> [N]."""
        return self.out(F.gelu(packed_gru(self.gru, torch.cat([context, z], 1), layout))).squeeze(1).to(self.out.weight.dtype)
