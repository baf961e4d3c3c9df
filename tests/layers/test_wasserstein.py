"""Distances between Gaussians as inner products: known values, naive loops, numbers that a float32 would lose."""

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.wasserstein import (
    WassersteinAttention,
    as_column,
    as_key,
    as_point,
    as_query,
    as_row,
    deviation,
    squared_distance,
    variance,
)


def test_distance_of_two_gaussians_by_hand():
    first = torch.tensor([0.0, 0.0, 1.0, 2.0])  # means (0, 0), variances (1, 4)
    second = torch.tensor([3.0, 4.0, 2.0, 3.0])  # means (3, 4), variances (4, 9)
    assert squared_distance(first, second) == 27
    assert first.square().sum() - as_query(first) @ as_key(second) == 27


def test_deviation_by_hand_and_by_its_definition():
    torch.testing.assert_close(deviation(torch.tensor([-10.0, 3.0])), torch.tensor([0.0067379, 2.0]))
    x = torch.linspace(-8, 8, 41, dtype=torch.float64, requires_grad=True)
    for ours, defined in ((variance, F.elu(x) + 1), (deviation, (F.elu(x) + 1).sqrt())):
        torch.testing.assert_close(ours(x), defined)
        (slope,) = torch.autograd.grad(ours(x).sum(), x)
        torch.testing.assert_close(slope, torch.autograd.grad(defined.sum(), x)[0])  # also at 0, where two pieces meet


def test_small_variances_keep_their_digits_and_gradients():
    x = torch.tensor([-20.0, -60.0], requires_grad=True)
    assert (F.elu(x) + 1 == 0).all()  # what the definition gives in float32
    torch.testing.assert_close(variance(x), x.double().exp().float())
    deviation(x).sum().backward()
    torch.testing.assert_close(x.grad, (x.double() / 2).exp().float().detach() / 2)


def loop(layer, mean, variances):
    """One history, one query, one head and one key at a time: [n, d] each -> mixed means, mixed variances."""
    width, size = mean.shape[-1], mean.shape[-1] // layer.n_heads
    means, spreads = layer.mean_qkv(mean), F.elu(layer.variance_qkv(variances)) + 1
    rows = []
    for i in range(len(mean)):
        row = []
        for head in range(layer.n_heads):
            q, k, v = (slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3))
            pairs = [
                ((means[i, q] - means[j, k]) ** 2).sum() + ((spreads[i, q].sqrt() - spreads[j, k].sqrt()) ** 2).sum()
                for j in range(i + 1)
            ]
            weight = (-torch.stack(pairs) / size**0.5).softmax(0)
            mixed_mean = sum(a * means[j, v] for j, a in enumerate(weight)) if layer.mean_parts == 3 else None
            row.append((mixed_mean, sum(a**2 * spreads[j, v] for j, a in enumerate(weight))))
        rows.append([torch.cat(parts) for parts in zip(*row) if parts[0] is not None])
    return [torch.stack(parts) for parts in zip(*rows)]


@pytest.mark.parametrize("mixes_means", [True, False])
def test_attention_equals_a_loop_over_pairs_in_value_and_gradient(mixes_means):
    torch.manual_seed(0)
    layer = WassersteinAttention(2, 8, 0.0, mixes_means).double()
    lengths = torch.tensor([3, 9, 1, 4])
    layout = PackedLayout(lengths)
    mean = torch.randn(layout.n_tokens, 8, dtype=torch.float64, requires_grad=True)
    variances = torch.rand(layout.n_tokens, 8, dtype=torch.float64, requires_grad=True)
    fast = layer(mean, variances, layout)
    rows = [loop(layer, mean[layout.row == row], variances[layout.row == row]) for row in layout.row.unique_consecutive()]
    slow = [torch.cat(parts) for parts in zip(*rows)]
    assert len(fast) == 1 + mixes_means
    weights = [torch.randn_like(part) for part in fast]
    inputs = [mean, variances, *layer.parameters()]
    for ours, naive in zip(fast, slow):
        torch.testing.assert_close(ours, naive)
    gradients = [torch.autograd.grad(sum((p * w).sum() for p, w in zip(parts, weights)), inputs) for parts in (fast, slow)]
    for ours, naive in zip(*gradients):
        assert naive.abs().sum() > 0
        torch.testing.assert_close(ours, naive)


def test_weights_of_a_head_by_hand():
    """Means (0, 0) and (1, 0), variances 1: the second token weighs by exp(-1 / sqrt 2) to 1."""
    layer = WassersteinAttention(1, 2, 0.0, mixes_means=True)
    with torch.no_grad():
        layer.mean_qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        layer.mean_qkv.bias.zero_()
        layer.variance_qkv.weight.zero_()
        layer.variance_qkv.bias.zero_()  # ELU(0) + 1 = 1
        mean, mixed = layer(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.ones(1, 2, 2), None)
    torch.testing.assert_close(mean[0, 1], torch.tensor([0.669762, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[0, 1], torch.full((2,), 0.109057 + 0.448581), atol=1e-6, rtol=0)
    assert mean[0, 0].tolist() == [0, 0] and mixed[0, 0].tolist() == [1, 1]  # the first sees itself only


def test_padded_rows_give_what_packed_ones_give():
    torch.manual_seed(1)
    layer = WassersteinAttention(2, 8, 0.0, mixes_means=True)
    lengths = torch.tensor([2, 5])
    layout = PackedLayout(lengths)
    mean, variances = torch.randn(2, 5, 8), torch.rand(2, 5, 8)
    packed = layer(layout.pack(mean), layout.pack(variances), layout)
    for ours, padded in zip(packed, layer(mean, variances, None)):
        torch.testing.assert_close(ours, layout.pack(padded))


def test_ranking_by_inner_product_is_ranking_by_distance():
    torch.manual_seed(2)
    user, items = (as_point(torch.randn(n, 64), torch.randn(n, 64)) for n in (20, 300))
    product = as_query(user) @ as_key(items).t()
    naive = squared_distance(user[:, None], items[None])
    torch.testing.assert_close(user.square().sum(1, keepdim=True) - product, naive, atol=1e-5, rtol=1e-5)
    assert torch.equal(product.argsort(1, descending=True)[:, :20], naive.argsort(1)[:, :20])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_reach_the_distances(half):
    torch.manual_seed(3)
    layer = WassersteinAttention(2, 8, 0.0, mixes_means=True)
    layout = PackedLayout(torch.tensor([6]))
    mean, variances = 100 + torch.randn(6, 8), torch.rand(6, 8)
    exact = layer(mean, variances, layout)
    with torch.autocast("cpu", dtype=half):
        found = layer(mean, variances, layout)
    for ours, wanted in zip(found, exact):
        assert ours.dtype == torch.float32 and torch.equal(ours, wanted)


@pytest.mark.parametrize("mixes_means", [True, False])
def test_the_last_token_alone_finds_what_it_finds_among_all(mixes_means):
    torch.manual_seed(4)
    layer = WassersteinAttention(2, 8, 0.0, mixes_means)
    layout = PackedLayout(torch.tensor([3, 1, 6]))
    mean, variances = torch.randn(10, 8), torch.rand(10, 8)
    found, wanted = layer.at_last(mean, variances, layout), layer(mean, variances, layout)
    assert len(found) == len(wanted)
    for ours, everywhere in zip(found, wanted):
        torch.testing.assert_close(ours, everywhere[layout.last])


def test_distances_as_an_inner_product():
    torch.manual_seed(5)
    users, items = (as_point(torch.randn(n, 8), torch.randn(n, 8)) for n in (5, 7))
    naive = squared_distance(users[:, None], items[None])
    torch.testing.assert_close(as_row(users) @ as_column(items).t(), naive, atol=1e-5, rtol=1e-5)
