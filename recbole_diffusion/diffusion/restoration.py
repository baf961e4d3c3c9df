"""Vectors that are noised and restored: one random step in training, a deterministic chain at inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise


class Restoration(nn.Module):
    """Noise on vectors and the way back (DiffSBR Eq. 8-13). The networks that predict x_0 are the caller's.

    Args:
        betas (torch.Tensor): [T] float64 variances.
        settings (mapping): of inference: ``corruption_steps``, T' steps of noise, or 0, which restores the clean vector
            with all T steps; ``inference_times``, ``scaled`` or ``raw``; ``seed`` of the noise.
        width (int): d.
    """

    def __init__(self, betas: torch.Tensor, settings: Any, width: int) -> None:
        super().__init__()
        self.process, self.noise = GaussianProcess(betas), KeyedNoise(settings["seed"], width)
        self.corruption_steps, self.raw_times = settings["corruption_steps"], settings["inference_times"] == "raw"
        corrupted = betas[: self.corruption_steps or None]
        self.chain = reverse_chain(corrupted, len(corrupted), variance="none")

    def noised(self, clean: torch.Tensor, copies: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors at random time steps, for training.

        Args:
            clean (torch.Tensor): [B, d] x_0.
            copies (int): c, how often each vector is noised, every time at the same step.

        Returns:
            tuple: x_t [B, c, d] and t [B, 1].
        """
        t = torch.randint(self.process.steps, (len(clean),), device=clean.device).unsqueeze(1)
        clean = clean.unsqueeze(1)
        return self.process.add_noise(clean, torch.randn_like(clean.repeat(1, copies, 1)), t), t

    def corrupted(self, clean: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Vectors after T' steps of noise, which belongs to their keys. clean: [B, d]; keys: [B] -> [B, d]."""
        if not self.corruption_steps:
            return clean
        return self.process.add_noise(clean, self.noise(keys), torch.full_like(keys, self.corruption_steps - 1))

    def restored(self, network: Any, start: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The end of the deterministic reverse chain.

        Args:
            network (ConditionalDenoiser): predicts x_0.
            start (torch.Tensor): broadcast against the condition.
            condition (torch.Tensor): [..., d].

        Returns:
            torch.Tensor: [..., d].
        """
        prepared = network.prepare(condition, self.raw_times)
        return self.chain.run(start, lambda x, t, _: network(x, t, prepared), None)
