"""DreamRec's schedules, its embedding of time steps, and reverse chains in closed form."""

import pytest
import torch

from recbole_diffusion.diffusion import affine
from recbole_diffusion.diffusion.affine import AffineDenoiser, by_products, closed_form, root_of
from recbole_diffusion.diffusion.gaussian import reverse_chain
from recbole_diffusion.diffusion.schedules import alpha_bars, dreamrec_betas
from recbole_diffusion.diffusion.step_embedding import SineEmbedding

# schedule, T: beta at 0, 1, T/2, T-1; alpha-bar at 0, T/2, T-1; mean of its root; posterior weights and variance at 1.
GOLDEN = {
    ("linear", 500): ([0.000100, 0.000140, 0.010070, 0.020000], [0.999900, 0.277859, 6.3527e-3], 0.541449,
                      (0.583129, 0.416871, 0.000058)),
    ("exp", 500): ([0.000220, 0.000259, 0.010088, 0.019821], [0.999780, 0.272502, 6.3462e-3], 0.538121,
                   (0.541395, 0.458605, 0.000119)),
    ("linear", 2000): ([0.000100, 0.000110, 0.010055, 0.020000], [0.999900, 0.006099, 1.6288e-9], 0.275587,
                       (0.523709, 0.476291, 0.000052)),
    ("cosine", 2000): ([0.000100, 0.000100, 0.001578, 0.999900], [0.999900, 0.491749, 6.0557e-11], 0.632681,
                       (0.500000, 0.500000, 0.000050)),
    ("sqrt", 1000): ([0.023400, 0.013094, 0.002413, 0.999000], [0.976600, 0.295066, 4.5465e-7], 0.535419,
                     (0.357572, 0.642389, 0.008467)),
}  # fmt: skip
# gain, variance and what is left of the start, of a scalar chain: (schedule, T, weight) -> values or None
SCALAR = {
    ("linear", 500, 0.3): (1.428073, 0.000025, 6.86e-5),
    ("linear", 500, 0.5): (1.991439, 0.000347, 9.44e-4),
    ("linear", 500, 0.8): (4.383026, 0.061327, 3.13e-2),
    ("exp", 500, 0.3): (1.427749, None, None),
    ("exp", 500, 0.5): (1.987958, None, None),
    ("exp", 500, 0.8): (4.298802, None, None),
    ("cosine", 2000, 0.3): (1.428129, None, None),
    ("cosine", 2000, 0.5): (1.992460, None, None),
    ("cosine", 2000, 0.8): (4.425967, None, None),
}


def chain_of(name="linear", steps=500, **more):
    return reverse_chain(dreamrec_betas(name, steps), steps, **{"sampler": "ddpm", "variance": "posterior", **more})


def near(values):
    return pytest.approx(values, rel=1e-4, abs=6e-7)


@pytest.mark.parametrize("name, steps", GOLDEN)
def test_schedules_golden_values(name, steps):
    betas, bars, root, posterior = GOLDEN[name, steps]
    found = dreamrec_betas(name, steps)
    assert found.dtype == torch.float64 and found[[0, 1, steps // 2, -1]].tolist() == near(betas)
    assert alpha_bars(found)[[0, steps // 2, -1]].tolist() == near(bars)
    assert float(alpha_bars(found).sqrt().mean()) == near(root)
    chain = chain_of(name, steps)
    assert (chain.clean[-2], chain.state[-2], chain.noise[-2] ** 2) == near(posterior)
    assert (chain.clean[-1], chain.state[-1], chain.noise[-1]) == pytest.approx((1, 0, 0), abs=1e-9)


def test_the_cosine_schedule_is_clipped_at_both_ends():
    betas = dreamrec_betas("cosine", 2000)
    assert ((betas == 1e-4).sum(), (betas == 0.9999).sum()) == (66, 1)


@pytest.mark.parametrize("arguments", [("exp", 0), ("cosine", 0), ("linear", 0), ("linear", 5, 0.0), ("trunc_lin", 5)])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError):
        dreamrec_betas(*arguments)


def test_the_embedding_takes_the_time_step_as_it_is():
    waves = SineEmbedding(2000, 64).waves
    sine, cosine = waves[1].chunk(2)
    assert sine[:2].tolist() == near([0.841471, 0.676474]) and cosine[:2].tolist() == near([0.540302, 0.736467])
    assert sine[31].asin() == near(1e-4)
    assert torch.equal(SineEmbedding(500, 64).waves, waves[:500])
    assert SineEmbedding(3, 2).waves.isfinite().all()


@pytest.mark.parametrize("name, steps, weight", SCALAR)
def test_scalar_chains_golden_values(name, steps, weight):
    gain, variance, start = SCALAR[name, steps, weight]
    found = closed_form(chain_of(name, steps), torch.tensor([[weight]], dtype=torch.float64), torch.zeros(steps, 1))
    assert float(found.gain) == pytest.approx(gain, abs=1e-6)
    if variance:
        assert float(found.covariance) == pytest.approx(variance, abs=1e-6)
        silent = closed_form(chain_of(name, steps, variance="none"), torch.tensor([[weight]]).double(), torch.zeros(steps, 1))
        assert float(silent.covariance) ** 0.5 == pytest.approx(start, rel=5e-3)


@pytest.mark.parametrize("chain", [chain_of(steps=60), chain_of("cosine", 40, sampler="ddim"), chain_of(steps=1)])
def test_eigenvalues_and_products_agree(chain):
    torch.manual_seed(0)
    weight = 0.1 * torch.randn(16, 16, dtype=torch.float64)
    offsets = torch.randn(len(chain.timesteps), 16, dtype=torch.float64)
    for found, expected in zip(closed_form(chain, weight, offsets), by_products(chain, weight, offsets)):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_a_weight_without_eigenvectors_is_multiplied_out(monkeypatch):
    """A Jordan block has a single eigenvector."""
    monkeypatch.setattr(affine, "by_eigenvalues", None)
    weight = 0.3 * torch.eye(6, dtype=torch.float64) + torch.diag(torch.ones(5, dtype=torch.float64), 1)
    chain, u = chain_of(steps=50), torch.randn(6, dtype=torch.float64)
    found = closed_form(chain, weight, torch.zeros(50, 6))
    x = chain_of(steps=50, variance="none").run(torch.zeros(6).double(), lambda x, t, step: weight @ x + u, None)
    torch.testing.assert_close(found.gain @ u, x, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_closed_form_has_the_mean_and_covariance_of_the_chain(sampler):
    torch.manual_seed(0)
    denoiser, n = AffineDenoiser(30, 6).double(), 40000
    chain = reverse_chain(dreamrec_betas("linear", 30, 1e-3, 0.2), 30, sampler, "posterior")
    guide = torch.randn(6, dtype=torch.float64)
    with torch.no_grad():
        gain, shift, covariance = denoiser.sampler(chain)

        def denoise(x, t, step):
            return denoiser(x, guide.expand(n, -1), torch.full((n,), t))

        x = chain.run(torch.randn(n, 6, dtype=torch.float64), denoise, lambda step: torch.randn(n, 6, dtype=torch.float64))
    error = (x.mean(0) - gain @ guide - shift) / (covariance.diagonal() / n).sqrt()
    assert error.abs().max() < 4
    assert (x.t().cov() - covariance).norm() < 0.03 * covariance.norm()
    torch.testing.assert_close(root_of(covariance) @ root_of(covariance).t(), covariance)


def test_without_history_the_loss_has_its_known_floor():
    """The best multiple of x_t leaves 1 - (mean of sqrt(alpha-bar))^2 of a normal vector."""
    for (name, steps), floor in {("linear", 500): 0.706833, ("exp", 500): 0.710426, ("linear", 2000): 0.924052,
                                 ("cosine", 2000): 0.599715}.items():  # fmt: skip
        bars = alpha_bars(dreamrec_betas(name, steps))
        signal, noise = bars.sqrt().mean(), 1.0  # x_t of a normal vector is normal
        assert float(1 - signal**2 / noise) == pytest.approx(floor, abs=2e-6)
