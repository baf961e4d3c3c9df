"""NT-Xent: golden values, the construction of released code, other processes' rows."""

import math

import plain_contrastive as plain
import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.contrastive import info_nce, nt_xent, pair_logits


@pytest.mark.parametrize(
    "rows, tau, value", [(2, 1, 0.551445), (4, 1, 1.165422), (4, 0.5, 0.594438), (256, 1, 5.239727)]
)
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_golden_values_of_nt_xent(rows, tau, value, similarity):
    unit = torch.eye(rows)
    assert nt_xent(unit, unit, tau, similarity).item() == pytest.approx(value, abs=2e-6)
    assert math.log(1 + (2 * rows - 2) * math.exp(-1 / tau)) == pytest.approx(value, abs=1e-6)


def test_equal_views_of_equal_users_cannot_be_told_apart():
    same = torch.ones(4, 3)
    assert nt_xent(same, same, 1.0).item() == pytest.approx(math.log(7), abs=1e-6)


def test_golden_value_of_info_nce():
    assert info_nce(torch.eye(256), torch.eye(256), 0.05).item() == pytest.approx(5.256e-7, rel=0.1)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_nt_xent_equals_the_released_construction(tau):
    torch.manual_seed(0)
    a, b = (torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    fast, slow = nt_xent(a, b, tau), plain.nt_xent(a, b, tau)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-9)
    for one, other in zip(torch.autograd.grad(fast, (a, b)), torch.autograd.grad(slow, (a, b))):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=0)


def test_cosine_ignores_lengths_of_vectors():
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 4)
    torch.testing.assert_close(nt_xent(3 * a, b / 2, 0.5, "cosine"), nt_xent(a, b, 0.5, "cosine"))
    torch.testing.assert_close(
        nt_xent(a, b, 0.5, "cosine"), nt_xent(F.normalize(a, dim=1), F.normalize(b, dim=1), 0.5, "dot")
    )


def test_hidden_users_are_no_negatives_but_everybody_keeps_the_own_positive():
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 3)
    target = torch.tensor([7, 7, 8, 7])
    hidden, total = target[:, None] == target, 0.0
    for view, twin in ((a, b), (b, a)):
        for u in range(4):
            negatives = [v for v in range(4) if target[v] != target[u]]
            scores = torch.cat([twin[u : u + 1], a[negatives], b[negatives]]) @ view[u]
            total -= scores.log_softmax(0)[0]
    torch.testing.assert_close(nt_xent(a, b, 1.0, hidden=hidden), total / 8)
    torch.testing.assert_close(plain.nt_xent(a, b, 1.0, hidden), total / 8)
    logits, positive = pair_logits(a, b, 1.0, hidden=hidden)
    assert logits.gather(1, positive[:, None]).isfinite().all() and logits.diagonal().isinf().all()


@pytest.mark.parametrize("masked", [False, True])
def test_shares_of_a_batch_have_together_the_loss_of_the_whole(masked):
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 3, dtype=torch.float64)
    target = torch.tensor([1, 2, 1, 3, 1, 2, 4])
    total = 0.0
    for first, size in ((0, 4), (4, 3)):
        order = torch.arange(7).roll(-first)  # own rows first
        hidden = target[order[:size], None] == target[order] if masked else None
        own = order[:size]
        total += size * nt_xent(a[own], b[own], 0.7, "dot", (a[order], b[order]), hidden)
    whole = nt_xent(a, b, 0.7, hidden=target[:, None] == target if masked else None)
    torch.testing.assert_close(total / 7, whole)


def test_nt_xent_is_not_computed_in_half_precision():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(a, b, 0.01)
    assert torch.equal(loss, nt_xent(a, b, 0.01))


def test_a_single_row_has_only_its_positive():
    a, b = torch.randn(2, 1, 4)
    assert nt_xent(a, b, 1.0) == 0
