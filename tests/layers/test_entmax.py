"""Entmax: known values, a plain bisection, gradients, and rows in which nothing or little may have a weight."""

import plain_msgat as plain
import pytest
import torch

from recbole_diffusion.layers.entmax import LEAST_SLACK, entmax, sparseness

NEVER = float("-inf")


@pytest.mark.parametrize(
    "alpha, known",
    [
        (1.25, [0.549876, 0.293634, 0.139483, 0.017007]),
        (1.5, [0.624198, 0.291667, 0.084136, 0]),
        (2, [0.75, 0.25, 0, 0]),
        (1.0001, [0.47402, 0.28749, 0.17436, 0.06413]),
    ],
)
def test_golden_weights(alpha, known):
    z = torch.tensor([1, 0.5, 0, -1], dtype=torch.float64)
    found = entmax(z, torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(known, dtype=torch.float64), atol=6e-6, rtol=0)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [1, 2, 5, 51, 300])
def test_weights_equal_those_of_halving(n, dtype, near):
    draw = torch.Generator().manual_seed(n)
    for scale in (0.01, 1, 20):
        z = (scale * torch.randn(12, n, generator=draw, dtype=torch.float64)).to(dtype)
        alpha = torch.tensor([1.01, 1.1, 1.3, 1.5, 1.9, 2.0] * 2, dtype=dtype)[:, None]
        found = entmax(z, alpha)
        wanted = torch.stack([plain.entmax(row, a) for row, a in zip(z.double(), alpha.double())])
        torch.testing.assert_close(found.double(), wanted, atol=near, rtol=0)
        torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=dtype))


@pytest.mark.parametrize("alpha", [1.5, 1.9, 2.0])
def test_weights_of_ladders_which_lose_one_step_at_a_time(alpha):
    steps = torch.arange(60, dtype=torch.float64)
    ladders = [c * -(r**steps) for r in (0.1, 0.5, 0.9, 0.99) for c in (0.01, 1, 30)] + [-0.02 * steps, -steps.sqrt()]
    for z in ladders:
        wanted = plain.entmax(z, torch.tensor(alpha, dtype=torch.float64))
        torch.testing.assert_close(entmax(z, torch.tensor(alpha, dtype=torch.float64)), wanted, atol=1e-9, rtol=0)


def test_gradients_of_logits_and_alpha():
    draw = torch.Generator().manual_seed(2)
    z = torch.randn(3, 2, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    for shape in ((3, 2, 1), (2, 1), (1,)):  # an alpha may be shared by many rows
        alpha = (1.1 + 0.8 * torch.rand(shape, generator=draw, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(entmax, (z, alpha))


def test_what_is_masked_changes_nothing_and_gets_no_gradient():
    z = torch.tensor([[0.3, NEVER, -0.2, NEVER], [NEVER, NEVER, 1.0, NEVER], [NEVER] * 4], requires_grad=True)
    alpha = torch.tensor([1.4], requires_grad=True)
    found = entmax(z, alpha)
    torch.testing.assert_close(found[0, [0, 2]], entmax(z[0, [0, 2]], alpha))
    assert found[1].tolist() == [0, 0, 1, 0] and found[2].tolist() == [0, 0, 0, 0]
    (found * torch.arange(4)).sum().backward()
    assert z.grad.isfinite().all() and alpha.grad.isfinite().all()
    assert z.grad[0, 0] < 0 < z.grad[0, 2] and not z.grad[0, [1, 3]].any() and not z.grad[1:].any()


def test_no_rows_at_all():
    z = torch.zeros(0, 4, requires_grad=True)
    found = entmax(z, torch.ones(0, 1) + 0.5)
    found.sum().backward()
    assert found.shape == z.grad.shape == (0, 4)


def test_alphas_lie_between_softmax_and_sparsemax():
    found = sparseness(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(found, torch.tensor([1 + LEAST_SLACK, 1.5, 2.0]))
    assert sparseness(torch.tensor([1.0], dtype=torch.bfloat16)).dtype == torch.float32
