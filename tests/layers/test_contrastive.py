"""NT-Xent: golden values, the construction of released code, other processes' rows."""

import math

import plain_contrastive as plain
import plain_diqdiff
import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.contrastive import compression, info_nce, nt_xent, pair_logits


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


@pytest.mark.parametrize("rows, value", [(1024, 6.390e-4), (64, 3.937e-5)])
def test_golden_values_of_vectors_that_have_to_find_themselves(rows, value):
    """DiQDiff's contrast: orthogonal vectors, and equal ones."""
    unit, same = torch.eye(rows), torch.ones(rows, 3)
    assert info_nce(unit, unit, 0.07).item() == pytest.approx(value, rel=1e-2)
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log(rows), abs=1e-5)


@pytest.mark.parametrize("rows, value", [(1024, 0.00141), (512, 0.00071)])
def test_random_directions_are_nearly_orthogonal(rows, value):
    torch.manual_seed(0)
    vectors = torch.randn(rows, 128)
    assert info_nce(vectors, vectors, 0.07).item() == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize("mask_same_target", [False, True])
def test_vectors_that_have_to_find_themselves_equal_the_form_by_all_pairs(mask_same_target):
    torch.manual_seed(0)
    vectors, target = torch.randn(40, 8, dtype=torch.float64, requires_grad=True), torch.randint(9, (40,))
    hidden = (target[:, None] == target).fill_diagonal_(False) if mask_same_target else None
    fast = info_nce(vectors, vectors, 0.07, hidden)
    slow = plain_diqdiff.repulsion(vectors, target, 0.07, mask_same_target)
    torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-7)
    gradients = (torch.autograd.grad(loss, vectors)[0] for loss in (fast, slow))
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-6)


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


# The regulariser of MCLRec


def as_logits(positives, negatives):
    """Rows of a positive and its negatives in the form of pair_logits, with itself, which is no candidate, in front."""
    positives, negatives = torch.tensor(positives), torch.tensor(negatives)
    itself = torch.full((len(positives), 1), -math.inf)
    return torch.cat([itself, positives[:, None], negatives], 1), torch.ones(len(positives), dtype=torch.long)


@pytest.mark.parametrize("scope, value", [("row", 1.3250), ("batch", 1.2250)])
def test_golden_values_of_the_regulariser(scope, value):
    logits, positive = as_logits([0.9, 0.8], [[0.1, 0.2], [0.3, -0.1]])
    assert compression(logits, positive, scope).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_the_regulariser_pulls_positives_down_and_negatives_up(scope):
    logits, positive = as_logits([0.9, 0.8], [[0.1, 0.2], [0.3, -0.1]])
    logits.requires_grad_()
    compression(logits, positive, scope).backward()
    assert (logits.grad[:, 1] > 0).all() and (logits.grad[:, 2:].sum(1) < 0).all()
    assert logits.grad.isfinite().all() and (logits.grad[:, 0] == 0).all()


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_the_regulariser_of_rows_without_negatives_is_nothing(scope):
    logits = torch.tensor([[-math.inf, 0.4], [0.4, -math.inf]], requires_grad=True)
    loss = compression(logits, torch.tensor([1, 0]), scope)
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[True, True, True], [True, True, False], [True, False, True]])  # the first user is alone
    b[0] = 5 * a[0]  # no least of all pairs
    found = compression(*pair_logits(a, b, 1.0, hidden=hidden), scope)
    logits, positive = pair_logits(a, b, 1.0, hidden=hidden)
    rest = compression(logits[[1, 2, 4, 5]], positive[[1, 2, 4, 5]], scope)
    torch.testing.assert_close(found, rest * 2 / 3)


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_shares_of_a_batch_have_together_the_regulariser_of_the_whole(scope):
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 3, dtype=torch.float64)
    orders = [torch.arange(7).roll(-first)[:size] for first, size in ((0, 4), (4, 3))]
    shares = []
    for own in orders:
        order = torch.arange(7).roll(-int(own[0]))
        shares.append(pair_logits(a[own], b[own], 1.0, "dot", (a[order], b[order])))
    highest, lowest = (
        pick(value for logits, positive in shares for value in part(logits, positive))
        for pick, part in (
            (max, lambda logits, positive: logits.scatter(1, positive[:, None], -math.inf).amax(1)),
            (min, lambda logits, positive: logits.gather(1, positive[:, None]).squeeze(1)),
        )
    )
    total = 0.0
    for own, (logits, positive) in zip(orders, shares):
        others = iter((lowest, highest))
        every = lambda rows, others=others: torch.cat([rows, next(others)[None]])  # noqa: E731
        total += len(own) * compression(logits, positive, scope, every)
    torch.testing.assert_close(total / 7, compression(*pair_logits(a, b, 1.0), scope))
