"""Companions of items: who they are, what holds on to them, and layers of sessions that DIMO brought along."""

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_diffusion.layers.companions import Companions, preference
from recbole_diffusion.layers.graph import SparseMatrix
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.sessions import LastItemAttention, mean_within, softmax_within

COUNTS = [[0, 0, 0, 0, 0, 0],
          [0, 0, 3, 1, 3, 0],
          [0, 3, 0, 0, 0, 0],
          [0, 1, 0, 0, 6, 0],
          [0, 3, 0, 6, 0, 0],
          [0, 0, 0, 0, 0, 0]]  # fmt: skip


def companions(k, counts=COUNTS):
    return Companions(SparseMatrix(scipy.sparse.csr_matrix(np.array(counts, dtype=np.float32))), k)


def test_the_heaviest_edges_and_their_shares():
    found = companions(2)
    assert found.items.tolist() == [[0, 0], [2, 4], [1, 0], [4, 1], [3, 1], [0, 0]]
    wanted = [[0, 0], [0.5, 0.5], [1, 0], [6 / 7, 1 / 7], [2 / 3, 1 / 3], [0, 0]]
    torch.testing.assert_close(found.weights, torch.tensor(wanted))


@pytest.mark.parametrize("k", [1, 3, 40])
def test_companions_equal_a_sort_of_dense_rows(k):
    random = np.random.default_rng(k)
    counts = random.integers(0, 4, (30, 30)) * random.integers(0, 2, (30, 30))
    counts[0] = counts[:, 0] = 0
    found = companions(k, counts)
    for row, items in zip(counts, found.items.tolist()):
        wanted = [item for item in np.argsort(-row, kind="stable") if row[item]][:k]
        assert items == wanted + [0] * (k - len(wanted))


def orthogonal(cosine):
    """Item 1, its companion 2 at a cosine, and ten others at right angles."""
    table = torch.zeros(13, 13, dtype=torch.float64)
    table[1, 1], table[2, 1], table[2, 2] = 3, 5 * cosine, 5 * (1 - cosine**2) ** 0.5
    table[range(3, 13), range(3, 13)] = 2
    return table


@pytest.mark.parametrize("cosine, known", [(1, 0.670134), (0.5, 0.849131), (0, 1.041393)])
def test_golden_loss_of_ten_negatives_at_right_angles(cosine, known):
    """The known values have decimal logarithms, as in the released code."""
    counts = np.zeros((13, 13))
    counts[1, 2] = 4
    loss = companions(3, counts).loss(orthogonal(cosine), torch.tensor([1]), torch.arange(3, 13)[None])
    assert (loss / np.log(10)).item() == pytest.approx(known, abs=1e-6)


def test_an_item_without_companions_has_a_finite_gradient():
    table = torch.randn(6, 4, requires_grad=True)
    companions(2).loss(table, torch.tensor([5]), torch.tensor([[1, 2]])).backward()
    assert torch.isfinite(table.grad).all() and not table.grad[0].any() and table.grad[5].any()


def test_negatives_are_neither_the_anchor_nor_its_companions():
    counts = np.zeros((40, 40))
    counts[1:, 1:4] = 1
    np.fill_diagonal(counts, 0)
    found = companions(3, counts)
    for n_anchors in (7, 0, 1000):
        anchors, negatives = found.draw(n_anchors, 10)
        assert len(set(anchors.tolist())) == len(anchors) == (7 if n_anchors == 7 else 39)
        assert negatives.shape == (len(anchors), 10) and anchors.min() > 0
        assert negatives.min() > 3 and not (negatives == anchors[:, None]).any() and negatives.max() < 40
    assert len(set(negatives.flatten().tolist())) == 36


def test_who_has_met_the_target():
    lengths = torch.tensor([2, 1, 3])
    layout = PackedLayout(lengths)
    items = layout.pack(torch.tensor([[5, 3, 0], [2, 0, 0], [5, 2, 5]]))
    met = companions(2).met(items, layout, torch.tensor([4, 3, 1]))
    assert met.tolist() == [True, False, True]


def test_preference_is_minus_the_log_of_a_share():
    near, far = torch.tensor([1.0, -0.3]), torch.tensor([0.2, 0.8])
    torch.testing.assert_close(preference(near, far), -(near.exp() / (near.exp() + far.exp())).log())


def test_softmax_within_equals_one_of_each_group():
    group, logits = torch.tensor([2, 0, 2, 3, 0, 2]), torch.randn(6, 3) * 200  # exponentials would overflow
    found = softmax_within(logits, group, 5)
    for number in (0, 2, 3):
        torch.testing.assert_close(found[group == number], logits[group == number].softmax(0))


def test_means_within_rows():
    layout, padded = PackedLayout(torch.tensor([3, 1])), torch.randn(2, 3, 4)
    wanted = torch.stack([padded[0].mean(0), padded[1, 0]])
    torch.testing.assert_close(mean_within(layout.pack(padded), layout), wanted)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="hidden_size 10 is not a multiple of n_heads 4"):
        LastItemAttention(4, 10, 0.0)
