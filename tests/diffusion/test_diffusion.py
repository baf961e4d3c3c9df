"""Schedules and the process towards known noise: golden values and closed forms."""

import pytest
import torch

from recbole_diffusion.diffusion.gaussian import GaussianProcess, kept_timesteps, reverse_chain
from recbole_diffusion.diffusion.guided_noise import GuidedNoiseProcess
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys
from recbole_diffusion.diffusion.schedules import alpha_bars, linear_betas, named_betas, zero_terminal_snr


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
        torch.testing.assert_close(process.add_noise(clean, noise, torch.full((3,), t)).double(), state, atol=1e-5, rtol=1e-5)
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
    assert torch.equal(process.add_noise(clean, noise, torch.full((5,), 99)), noise)
    assert process.add_noise(clean, noise, torch.zeros(5, dtype=torch.long)).sub(clean).abs().max() < 0.05


# Named schedules


def test_truncated_linear_golden_values():
    betas = named_betas("trunc_lin", 32)
    assert betas[[0, 31]].tolist() == pytest.approx([0.013125, 0.635])
    assert float(alpha_bars(betas)[-1]) == pytest.approx(9.9e-7, rel=0.01)
    assert (betas.diff() > 0).all()


def test_truncated_linear_falls_back_where_it_would_pass_one():
    assert float(named_betas("trunc_lin", 10)[-1]) == pytest.approx(0.11)  # 100 * 0.02 + 0.01 > 1


@pytest.mark.parametrize(
    "name, first, last, end",
    [
        ("linear", 0.003125, 0.625, 1.649e-6),
        ("cosine", 0.0035816, 0.999, 2.370e-6),
        ("sqrt", 0.168747, 0.999, 1.586e-5),
    ],
)
def test_named_schedules_golden_values(name, first, last, end):
    betas = named_betas(name, 32)
    assert betas.shape == (32,) and betas.dtype == torch.float64 and ((betas > 0) & (betas < 1)).all()
    assert betas[[0, 31]].tolist() == pytest.approx([first, last], rel=1e-4)
    assert float(alpha_bars(betas)[-1]) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize("arguments", [("linear", 10), ("linear", 32, 0.5), ("trunc_lin", 0), ("cosine", 0), ("exp", 9)])
def test_impossible_named_schedules_are_refused(arguments):
    with pytest.raises(ValueError):
        named_betas(*arguments)


# Gaussian process and its reverse


def test_closed_form_equals_iterating_in_mean_and_variance():
    betas = named_betas("trunc_lin", 32)
    process = GaussianProcess(betas)
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(betas.tolist()):
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
        assert float(process.signal[t]) == pytest.approx(mean, rel=1e-5)
        assert float(process.noise[t]) ** 2 == pytest.approx(variance, rel=1e-5)


def test_noised_vectors_have_the_stated_mean_and_variance():
    process = GaussianProcess(named_betas("trunc_lin", 32))
    torch.manual_seed(0)
    clean, t = torch.full((40000, 1), 2.0), torch.full((40000,), 5)
    noised = process.add_noise(clean, torch.randn(40000, 1), t)
    assert noised.mean().item() == pytest.approx(2 * float(process.signal[5]), abs=0.02)
    assert noised.var().item() == pytest.approx(float(process.noise[5]) ** 2, rel=0.03)


def test_the_last_posterior_step_is_the_prediction():
    chain = reverse_chain(named_betas("trunc_lin", 32), 32)
    assert chain.timesteps[-1] == 0
    assert (chain.clean[-1], chain.state[-1], chain.noise[-1]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [1, 4, 32])
def test_a_perfect_denoiser_recovers_the_clean_vector(sampler, steps):
    chain = reverse_chain(named_betas("trunc_lin", 32), steps, sampler, eta=0.3)
    clean = torch.randn(6, 4)
    found = chain.run(torch.randn(6, 4), lambda x, t, step: clean, lambda step: torch.randn(6, 4))
    torch.testing.assert_close(found, clean)


def test_the_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from its three Gaussians, against the chain's weights."""
    betas = named_betas("trunc_lin", 32)
    bars = alpha_bars(betas)
    chain = reverse_chain(betas, 32, variance="posterior")
    for step, t in enumerate(chain.timesteps[:-1]):
        prior, likelihood = 1 / (1 - bars[t - 1]), (1 - betas[t]) / betas[t]
        variance = 1 / (prior + likelihood)
        assert chain.noise[step] ** 2 == pytest.approx(float(variance), rel=1e-9)
        assert chain.clean[step] == pytest.approx(float(variance * prior * bars[t - 1].sqrt()), rel=1e-9)
        assert chain.state[step] == pytest.approx(float(variance * likelihood / (1 - betas[t]).sqrt()), rel=1e-9)


@pytest.mark.parametrize(
    "variance, scales",
    [
        ("official_exp", {1: 1.004759, 2: 1.012713, 16: 1.178263, 31: 1.373688}),
        ("posterior", {1: 0.097440, 2: 0.158952, 16: 0.572785, 31: 0.796868}),
    ],
)
def test_golden_scales_of_the_noise_of_diqdiff(variance, scales):
    chain = reverse_chain(named_betas("trunc_lin", 32), 32, variance=variance)
    noise = dict(zip(chain.timesteps, chain.noise))
    assert {t: noise[t] for t in scales} == pytest.approx(scales, abs=2e-6) and noise[0] == 0


def test_fewer_steps_keep_both_ends_and_recompute_the_coefficients():
    betas = named_betas("trunc_lin", 32)
    assert kept_timesteps(32, 32) == list(range(31, -1, -1))
    assert kept_timesteps(32, 1) == [0]
    assert kept_timesteps(32, 4) == [31, 21, 10, 0]
    chain, bars = reverse_chain(betas, 4), alpha_bars(betas)
    beta = 1 - bars[31] / bars[21]
    assert chain.clean[0] == pytest.approx(float(beta * bars[21].sqrt() / (1 - bars[31])), rel=1e-9)
    assert chain.noise[0] == pytest.approx(float(beta.sqrt()), rel=1e-9)


def test_all_steps_respaced_are_the_full_chain():
    betas = named_betas("cosine", 16)
    bars = alpha_bars(betas)
    chain = reverse_chain(betas, 16)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    wanted = (betas * before.sqrt() / (1 - bars)).flip(0).tolist()
    assert chain.clean == pytest.approx(wanted, rel=1e-6)
    assert chain.noise[:-1] == pytest.approx(betas.sqrt().flip(0).tolist()[:-1], rel=1e-6)


def test_ddim_without_eta_is_deterministic_and_follows_its_formula():
    betas = named_betas("trunc_lin", 32)
    chain, bars = reverse_chain(betas, 32, "ddim"), alpha_bars(betas)
    assert chain.noise == [0.0] * 32
    clean, x = 0.7, 1.3
    noise = (x - bars[31].sqrt() * clean) / (1 - bars[31]).sqrt()
    wanted = bars[30].sqrt() * clean + (1 - bars[30]).sqrt() * noise
    assert chain.clean[0] * clean + chain.state[0] * x == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("name", ["trunc_lin", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7, 32])
def test_ddim_with_eta_one_is_the_posterior_chain(name, steps):
    betas = named_betas(name, 32)
    found, wanted = reverse_chain(betas, steps, "ddim", eta=1.0), reverse_chain(betas, steps, variance="posterior")
    assert found.timesteps == wanted.timesteps
    for weights in ("clean", "state", "noise"):
        assert getattr(found, weights) == pytest.approx(getattr(wanted, weights), rel=0, abs=1e-6), weights


@pytest.mark.parametrize("steps", [0, 33])
def test_impossible_sampling_is_refused(steps):
    with pytest.raises(ValueError, match="sampling_steps"):
        reverse_chain(named_betas("trunc_lin", 32), steps)


def test_unknown_samplers_are_refused():
    with pytest.raises(ValueError, match="sampler"):
        reverse_chain(named_betas("trunc_lin", 32), 4, "euler")
    with pytest.raises(ValueError, match="variance"):
        reverse_chain(named_betas("trunc_lin", 32), 4, variance="learned")


# Noise that belongs to a key


def test_keyed_noise_is_standard_normal_and_repeats():
    noise, keys = KeyedNoise(3, 64), torch.arange(4000)
    rows = noise(keys, 1)
    assert rows.shape == (4000, 64) and torch.equal(rows, KeyedNoise(3, 64)(keys, 1))
    assert rows.mean().item() == pytest.approx(0, abs=0.02) and rows.std().item() == pytest.approx(1, abs=0.02)
    assert rows.pow(4).mean().item() == pytest.approx(3, abs=0.15)


def test_keyed_noise_of_other_keys_is_unrelated():
    noise, keys = KeyedNoise(3, 64), torch.arange(4000)
    rows = noise(keys, 1)
    for others in (noise(keys, 2), noise(keys + 1, 1), KeyedNoise(4, 64)(keys, 1)):
        assert (rows * others).mean().item() == pytest.approx(0, abs=0.01)
        assert (rows == others).all(1).float().mean() < 0.001


def test_history_keys_know_items_and_order_and_nothing_else():
    def keys(*sequences):
        items = torch.tensor([item for sequence in sequences for item in sequence])
        position = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
        row = torch.repeat_interleave(torch.arange(len(sequences)), torch.tensor([len(s) for s in sequences]))
        return history_keys(items, position, row, len(sequences))

    alone, among = keys([1, 2, 3]), keys([5], [1, 2, 3], [9, 9])
    assert alone[0] == among[1]
    assert len(set(keys([1, 2, 3], [3, 2, 1], [1, 2], [1, 2, 3, 3], [2, 2, 3]).tolist())) == 5
    many = keys(*[[a, b] for a in range(1, 200) for b in range(1, 200)])
    assert len(many.unique()) > 0.999 * len(many)
