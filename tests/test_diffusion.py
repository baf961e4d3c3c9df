"""Schedules and the process towards known noise: golden values and closed forms."""

import pytest
import torch

from recbole_diffusion.diffusion.guided_noise import GuidedNoiseProcess
from recbole_diffusion.diffusion.schedules import alpha_bars, linear_betas, zero_terminal_snr


def test_linear_schedule_golden_values():
    betas = linear_betas(1000)
    assert betas.dtype == torch.float64
    assert betas[[0, 999]].tolist() == pytest.approx([1e-4, 0.02])
    bars = alpha_bars(betas)
    assert bars[[0, 499, 999]].tolist() == pytest.approx([0.9999, 0.078590, 4.0358e-5], rel=1e-4)
    assert (bars.diff() < 0).all()


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step():
    bars = alpha_bars(linear_betas(1000))
    rescaled = zero_terminal_snr(bars)
    assert rescaled[-1] == 0 and rescaled[0] == pytest.approx(float(bars[0]))
    assert (rescaled.diff() < 0).all()


@pytest.mark.parametrize("arguments", [(0,), (10, 0.0), (10, 1e-4, 1.0)])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError):
        linear_betas(*arguments)


def test_unknown_parametrisation_is_refused():
    with pytest.raises(ValueError, match="noise_param"):
        GuidedNoiseProcess(10, 1e-4, 0.02, "sqrt")


@pytest.mark.parametrize("param", ["vp", "convex"])
def test_closed_form_equals_iterating_equation_8(param):
    process = GuidedNoiseProcess(50, 1e-4, 0.02, param)
    clean, noise = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    signal, scale = process.signal.double(), process.noise.double()
    state, last_signal, last_scale = clean, 1.0, 0.0
    for t in range(50):
        a = signal[t] / last_signal if last_signal else 0.0
        b = scale[t] - a * last_scale
        state = a * state + b * noise
        last_signal, last_scale = signal[t], scale[t]
        torch.testing.assert_close(process.mix(clean, noise, torch.full((3,), t)).double(), state, atol=1e-5, rtol=1e-5)
    if param == "convex":
        assert (1 - linear_betas(50)).prod() == pytest.approx(float(signal[-1]), rel=1e-6)


def test_state_never_explodes():
    vp, convex = (GuidedNoiseProcess(1000, 1e-4, 0.02, param) for param in ("vp", "convex"))
    assert float((vp.signal + vp.noise).max()) == pytest.approx(2**0.5, abs=1e-3)
    torch.testing.assert_close(convex.signal + convex.noise, torch.ones(1000))
    assert vp.signal[-1] == 0 and vp.noise[-1] == 1


def test_the_last_step_is_noise_alone_and_the_first_nearly_clean():
    process = GuidedNoiseProcess(100, 1e-4, 0.02, "vp")
    clean, noise = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.equal(process.mix(clean, noise, torch.full((5,), 99)), noise)
    assert process.mix(clean, noise, torch.zeros(5, dtype=torch.long)).sub(clean).abs().max() < 0.05
