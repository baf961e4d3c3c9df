"""Reverse chains of a denoiser that is affine in the noised vector, in closed form.

When ``x_0 = W x_t + u + o_t``, with u fixed along the chain and o_t known for every time step, each step of a
:class:`~recbole_diffusion.diffusion.gaussian.ReverseChain` is affine in x, and so is the whole chain: what comes out is
``G u + m`` and Gaussian noise of a fixed covariance. G, m and the covariance depend on weights only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_diffusion.diffusion.gaussian import ReverseChain
from recbole_diffusion.diffusion.step_embedding import SineEmbedding

WORST_CONDITION = 1e8  # of the eigenvectors, with which 16 digits leave 8


class ClosedForm(NamedTuple):
    """All steps of a chain at once, in float64.

    Attributes:
        gain (torch.Tensor): [d, d], G.
        shift (torch.Tensor): [d], m.
        covariance (torch.Tensor): [d, d], of x_0 given u, from the start N(0, I) and the noise of the steps.
    """

    gain: torch.Tensor
    shift: torch.Tensor
    covariance: torch.Tensor


def closed_form(chain: ReverseChain, weight: torch.Tensor, offsets: torch.Tensor) -> ClosedForm:
    """What a chain does with an affine denoiser.

    Every factor is a polynomial of W, so that one decomposition of W leaves scalars; where W has no good one, the
    matrices are multiplied step by step.

    Args:
        chain (ReverseChain): its coefficients, for S steps.
        weight (torch.Tensor): [d, d], W.
        offsets (torch.Tensor): [S, d], o_t of each step in the order of the chain.

    Returns:
        ClosedForm
    """
    weight, offsets = weight.detach().cpu().double(), offsets.detach().cpu().double()
    eigenvalues, vectors = torch.linalg.eig(weight)
    if torch.linalg.cond(vectors) < WORST_CONDITION:
        return by_eigenvalues(chain, eigenvalues, vectors, offsets)
    return by_products(chain, weight, offsets)


def by_products(chain: ReverseChain, weight: torch.Tensor, offsets: torch.Tensor) -> ClosedForm:
    """:func:`closed_form` from the last step back to the first, for any weight; all in float64."""
    eye = torch.eye(len(weight), dtype=weight.dtype)
    after, gain, covariance = eye, torch.zeros_like(eye), torch.zeros_like(eye)
    shift = torch.zeros_like(offsets[0])
    for step in reversed(range(len(chain.timesteps))):
        clean, state, noise = chain.clean[step], chain.state[step], chain.noise[step]
        gain += clean * after
        shift += clean * (after @ offsets[step])
        if noise:
            covariance += noise**2 * after @ after.t()
        after = after @ (clean * weight + state * eye)
    return ClosedForm(gain, shift, covariance + after @ after.t())


def by_eigenvalues(
    chain: ReverseChain, eigenvalues: torch.Tensor, vectors: torch.Tensor, offsets: torch.Tensor
) -> ClosedForm:
    """:func:`closed_form` of a weight ``vectors @ diag(eigenvalues) @ inverse(vectors)``, both complex128."""
    parts = chain.clean, chain.state, chain.noise
    clean, state, noise = (torch.tensor(part, dtype=torch.float64).to(eigenvalues) for part in parts)
    steps = clean[:, None] * eigenvalues + state[:, None]  # [S, d] what a step does along each eigenvector
    after = steps.flip(0).cumprod(0).flip(0)
    start, after = after[0], torch.cat([after[1:], torch.ones_like(after[:1])])  # from behind each step to the end
    weighted, inverse = clean[:, None] * after, torch.linalg.inv(vectors)
    gain = (vectors * weighted.sum(0)) @ inverse
    shift = vectors @ (weighted * (offsets.to(vectors) @ inverse.t())).sum(0)
    noised = torch.cat([noise[:, None] * after, start[None]])
    spread = (noised.t() @ noised.conj()) * (inverse @ inverse.conj().t())
    covariance = vectors @ spread @ vectors.conj().t()
    return ClosedForm(gain.real, shift.real, covariance.real)


def root_of(covariance: torch.Tensor) -> torch.Tensor:
    """A matrix R with ``R @ R.t()`` equal to a covariance, which rounding may have left not quite positive: [d, d]."""
    values, vectors = torch.linalg.eigh((covariance + covariance.t()) / 2)
    return vectors * values.clamp(min=0).sqrt()


class AffineDenoiser(nn.Module):
    """``x_0 = W_x x_t + W_h h + W_t tau(t) + b``: a single linear layer of noised vector, guide and time step (DreamRec).

    Args:
        steps (int): T.
        hidden_size (int): width d, even.
    """

    def __init__(self, steps: int, hidden_size: int) -> None:
        super().__init__()
        self.time = SineEmbedding(steps, hidden_size)
        self.linear = nn.Linear(3 * hidden_size, hidden_size)

    def forward(self, noised: torch.Tensor, guide: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Restored vectors.

        Args:
            noised (torch.Tensor): [..., d] x_t.
            guide (torch.Tensor): [..., d] h.
            t (torch.LongTensor): [...] time step of each vector.

        Returns:
            torch.Tensor: [..., d].
        """
        return self.linear(torch.cat([noised, guide, self.time(t)], -1))

    @torch.no_grad()
    def sampler(self, chain: ReverseChain) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The chain as a map of the guide: ``x_0 = M h + m``, and noise.

        Returns:
            tuple: M [d, d], m [d], covariance [d, d], in float64 on the CPU.
        """
        of_state, of_guide, of_time = self.linear.weight.cpu().double().chunk(3, 1)
        times = self.time(torch.tensor(chain.timesteps, device=self.linear.weight.device)).cpu().double()
        gain, shift, covariance = closed_form(chain, of_state, times @ of_time.t() + self.linear.bias.cpu().double())
        return gain @ of_guide, shift, covariance
