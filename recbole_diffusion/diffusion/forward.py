"""The forward process: a vector is mixed with noise, more of it at every time step 0..T-1."""

import torch
from torch import nn


class ForwardProcess(nn.Module):
    """``x_t = signal[t] * x_0 + noise[t] * noise_vector``, the closed form of all steps up to t.

    Args:
        signal, noise (torch.Tensor): [T] the two factors of every time step.
    """

    signal: torch.Tensor
    noise: torch.Tensor

    def __init__(self, signal: torch.Tensor, noise: torch.Tensor) -> None:
        super().__init__()
        self.steps = len(signal)
        self.register_buffer("signal", signal.float(), persistent=False)
        self.register_buffer("noise", noise.float(), persistent=False)

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t.

        Args:
            clean, noise (torch.Tensor): [..., d] clean vectors x_0 and their noise vectors.
            t (torch.LongTensor): [...] time step of each vector.

        Returns:
            torch.Tensor: [..., d].
        """
        return self.signal[t].unsqueeze(-1) * clean + self.noise[t].unsqueeze(-1) * noise
