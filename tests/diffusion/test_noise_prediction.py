"""DDIM steps by predicted noise: DiffuASR's constants, and the same points as steps by the clean vector."""

import pytest
import torch

from recbole_diffusion.diffusion.gaussian import reverse_chain
from recbole_diffusion.diffusion.noise_prediction import ddim_weights, strided_timesteps
from recbole_diffusion.diffusion.schedules import alpha_bars, linear_betas


def test_constants_of_diffuasr():
    betas = linear_betas(1000)
    bars = alpha_bars(betas)
    assert betas[[0, 1, 500, 999]].tolist() == pytest.approx([0.0001, 0.00012, 0.01006, 0.02], abs=1e-6)
    assert bars[[0, 500]].tolist() == pytest.approx([0.9999, 0.077797], abs=1e-6)
    assert bars[999].item() == pytest.approx(4.0358e-5, rel=1e-4) and bars.sqrt().mean().item() == pytest.approx(0.390905, abs=1e-6)
    steps = strided_timesteps(1000, 5)
    assert steps == [800, 600, 400, 200, 0]
    assert bars[steps].tolist() == pytest.approx([0.001508, 0.025567, 0.193572, 0.656347, 0.9999], abs=1e-6)
    state, noise = ddim_weights(betas, steps)
    assert state == pytest.approx([4.118247, 2.751549, 1.841389, 1.234274, 1.00005], abs=1e-6)
    assert noise == pytest.approx([-3.128008, -1.818133, -1.067372, -0.713555, -0.010001], abs=1e-6)


def test_the_same_points_as_by_the_clean_vector():
    """``reverse_chain`` mixes the clean vector that the predicted noise stands for."""
    betas, x = linear_betas(1000), torch.tensor(0.7, dtype=torch.float64)
    chain, bars = reverse_chain(betas, 4, "ddim"), alpha_bars(betas)
    state, noise = ddim_weights(betas, chain.timesteps)
    for step, t in enumerate(chain.timesteps):
        predicted = torch.tensor(0.3, dtype=torch.float64)
        clean = (x - (1 - bars[t]).sqrt() * predicted) / bars[t].sqrt()
        by_clean = chain.clean[step] * clean + chain.state[step] * x
        x = state[step] * x + noise[step] * predicted
        assert x.item() == pytest.approx(by_clean.item(), rel=1e-9)


def test_steps_that_do_not_divide_and_impossible_ones():
    assert strided_timesteps(10, 3) == [6, 3, 0] and strided_timesteps(7, 1) == [0]
    for wrong in (0, 8):
        with pytest.raises(ValueError, match="sampling_steps must lie in"):
            strided_timesteps(7, wrong)
