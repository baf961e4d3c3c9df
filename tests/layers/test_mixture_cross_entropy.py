"""The fused loss of a mixture of softmaxes: values and gradients of the naive form, logits that are left out."""

import pytest
import torch

from recbole_diffusion.layers import chunks
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy, mixture_cross_entropy
from recbole_diffusion.layers.repetition import Additions

N_ITEMS = 31


def inputs(n=20, n_mixed=3):
    torch.manual_seed(0)
    hidden = torch.randn(n, n_mixed, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(N_ITEMS, 5, dtype=torch.float64, requires_grad=True)
    log_weights = torch.randn(n, n_mixed, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(N_ITEMS, (n,)), log_weights


def naive(hidden, weight, target, log_weights, additions=None):
    logits = (hidden @ weight.t()).flatten(0, 1)
    logits = logits if additions is None else additions.to(logits)
    probability = logits.softmax(-1).unflatten(0, hidden.shape[:2])[torch.arange(len(target)), :, target]
    return -(log_weights.exp() * probability).sum(1).log().sum()


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
@pytest.mark.parametrize("n_mixed", [1, 2, 3])
def test_equals_naive_in_value_and_gradient(monkeypatch, rows_at_a_time, n_mixed):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", rows_at_a_time * N_ITEMS)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
    hidden, weight, target, log_weights = inputs(n_mixed=n_mixed)
    loss, expected = (form(hidden, weight, target, log_weights) for form in (mixture_cross_entropy, naive))
    torch.testing.assert_close(loss, expected)
    for one, two in zip(*(torch.autograd.grad(3 * value, (hidden, weight, log_weights)) for value in (loss, expected))):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("rows_at_a_time", [7, 1000])
def test_columns_that_are_left_out_have_no_probability(monkeypatch, rows_at_a_time):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", rows_at_a_time * N_ITEMS)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
    hidden, weight, target, log_weights = inputs()
    rows = torch.arange(60).repeat_interleave(2)
    columns = torch.stack([(target.repeat_interleave(3) + 1) % N_ITEMS, (target.repeat_interleave(3) + 5) % N_ITEMS], 1)
    left_out = Additions(rows, columns.flatten(), torch.full((120,), float("-inf"), dtype=torch.float64))
    loss = mixture_cross_entropy(hidden, weight, target, log_weights, left_out)
    expected = naive(hidden, weight, target, log_weights, left_out)
    torch.testing.assert_close(loss, expected)
    assert loss < mixture_cross_entropy(hidden, weight, target, log_weights)
    for one, two in zip(*(torch.autograd.grad(value, (hidden, weight, log_weights)) for value in (loss, expected))):
        torch.testing.assert_close(one, two)


def test_one_softmax_is_the_usual_loss():
    hidden, weight, target, _ = inputs(n_mixed=1)
    loss = mixture_cross_entropy(hidden, weight, target, torch.zeros(20, 1))
    torch.testing.assert_close(loss / 20, linear_cross_entropy(hidden[:, 0], weight, target)[0])


def test_no_rows_cost_nothing_and_have_a_gradient():
    hidden, weight, target, log_weights = inputs(n=0)
    none = Additions(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.empty(0).double())
    loss = mixture_cross_entropy(hidden, weight, target, log_weights, none)
    loss.backward()
    assert loss == 0 and not weight.grad.any() and log_weights.grad.shape == (0, 3)


def test_it_is_not_computed_in_half_precision():
    hidden, weight, target, log_weights = (t.float().detach() if t.is_floating_point() else t for t in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        found = mixture_cross_entropy(hidden, weight, target, log_weights)
    assert torch.equal(found, mixture_cross_entropy(hidden, weight, target, log_weights))


def test_nothing_as_large_as_rows_times_items_is_kept(monkeypatch):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", 4 * N_ITEMS)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda t: t):
        mixture_cross_entropy(*inputs(n=200))
    assert max(kept) == 200 * 3 * 5  # the gradient of hidden, and not 200 * 3 * 31
