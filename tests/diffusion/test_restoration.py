"""Restoration: the noise of training in copies, that of inference by key, and the time steps that networks are told."""

import pytest
import torch

from recbole_diffusion.diffusion.restoration import Restoration
from recbole_diffusion.diffusion.schedules import named_betas
from recbole_diffusion.diffusion.step_embedding import StepEmbedding

T, WIDTH = 8, 6
SETTINGS = {"corruption_steps": 3, "inference_times": "scaled", "seed": 1}


def restoration(**more):
    return Restoration(named_betas("trunc_lin", T), {**SETTINGS, **more}, WIDTH)


@pytest.mark.parametrize("copies", [1, 4])
def test_copies_of_a_vector_share_the_step_and_not_the_noise(copies):
    torch.manual_seed(0)
    process, clean = restoration(), torch.randn(500, WIDTH)
    noised, t = process.noised(clean, copies)
    assert noised.shape == (500, copies, WIDTH) and t.shape == (500, 1) and set(t.flatten().tolist()) == set(range(T))
    signal, scale = process.process.signal[t].unsqueeze(-1), process.process.noise[t].unsqueeze(-1)
    noise = (noised - signal * clean.unsqueeze(1)) / scale
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    if copies > 1:
        assert abs(torch.corrcoef(noise[:, :2].transpose(0, 1).flatten(1))[0, 1]) < 0.05


def test_the_noise_of_inference_belongs_to_the_key():
    process, clean, keys = restoration(), torch.randn(3, WIDTH), torch.tensor([5, 9, 5])
    start = process.corrupted(clean, keys)
    noise = (start - process.process.signal[2] * clean) / process.process.noise[2]
    torch.testing.assert_close(noise[0], noise[2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(noise[0], noise[1])
    assert restoration(corruption_steps=0).corrupted(clean, keys) is clean


class Told:
    """A network that keeps what it is told."""

    def prepare(self, condition, raw_times):
        self.raw_times, self.times = raw_times, []
        return condition

    def __call__(self, x, t, prepared):
        self.times.append(t)
        return prepared


@pytest.mark.parametrize("times", ["scaled", "raw"])
@pytest.mark.parametrize("steps, wanted", [(3, [2, 1, 0]), (0, [*range(T)][::-1])])
def test_the_chain_ends_at_the_prediction(times, steps, wanted):
    network, condition = Told(), torch.randn(2, 4, WIDTH)
    found = restoration(corruption_steps=steps, inference_times=times).restored(network, torch.randn(2, 1, WIDTH), condition)
    torch.testing.assert_close(found, condition)  # x_0 of the last step
    assert network.times == wanted and network.raw_times == (times == "raw")


def test_raw_time_steps_are_those_of_a_thousand_without_the_scale():
    """As if there were a thousand steps: the first T of them."""
    torch.manual_seed(0)
    few, many = StepEmbedding(T, WIDTH), StepEmbedding(1000, WIDTH)
    many.network = few.network
    torch.testing.assert_close(few(raw=True), many()[:T])
    torch.testing.assert_close(few(), many()[:: 1000 // T])
    assert not torch.allclose(few(), few(raw=True))
