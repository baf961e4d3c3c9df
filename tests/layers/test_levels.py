"""Reading sessions out by levels: known values, and what cannot change them."""

import math

import pytest
import torch

from recbole_diffusion.layers.levels import (
    LevelAttention,
    LevelQueries,
    MeanWeights,
    ReleasedAttention,
    SessionMixer,
    latest_items,
)

SIZES = dict(hidden_size=8, n_heads=2, n_levels=3, level="concat", power=4.0)


def padded(*lengths, width=None, d=8, seed=0):
    """Sessions of random unit vectors, zeros on the right: x [b, w, d], real [b, w]."""
    lengths = torch.tensor(lengths)
    real = torch.arange(width or int(lengths.max())) < lengths[:, None]
    x = torch.randn(*real.shape, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1) * real.unsqueeze(-1), real


def test_latest_items_by_hand():
    x = torch.arange(1.0, 9.0).view(2, 4, 1)
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    assert latest_items(x, real, 2).squeeze(-1).tolist() == [[3, 2], [5, 0]]


def test_levels_of_short_sessions_see_zeros():
    queries = LevelQueries(2, 3, "concat").double()
    x, real = padded(1, 3, d=2)
    found = queries(x, real)
    for place, layer in enumerate(queries.levels):
        alone = layer(torch.cat([x[0, 0], torch.zeros(2 * place, dtype=torch.float64)]))
        torch.testing.assert_close(found[0, place], alone)
        torch.testing.assert_close(found[1, place], layer(x[1].flip(0)[: place + 1].flatten()))


def test_sums_do_not_know_the_order():
    queries = LevelQueries(8, 3, "sum").double()
    x, real = padded(3, 3, 3)
    swapped = x[:, [1, 0, 2]]
    torch.testing.assert_close(queries(x, real)[:, 2], queries(swapped, real)[:, 2])
    assert not torch.allclose(queries(x, real)[:, 1], queries(swapped, real)[:, 1])


@pytest.mark.parametrize("make", [
    lambda: LevelAttention(**SIZES),
    lambda: LevelAttention(**{**SIZES, "level": "sum", "power": 1.0}),
    lambda: ReleasedAttention(**SIZES, longest=9),
    lambda: MeanWeights(2),
])  # fmt: skip
def test_weights_sum_to_one_over_items_whatever_the_padding(make):
    torch.manual_seed(0)
    weights = make().double()
    x, real = padded(1, 2, 5, 3)
    found = weights(x, real)
    assert found.shape == (4, 2, 5) and (found[~real.unsqueeze(1).expand_as(found)] == 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 2, dtype=torch.float64))
    torch.testing.assert_close(found[0, :, 0], torch.ones(2, dtype=torch.float64))  # a session of one item
    wider = weights(torch.nn.functional.pad(x, (0, 0, 0, 3)), torch.nn.functional.pad(real, (0, 3)))
    torch.testing.assert_close(wider[..., :5], found)


def test_pooling_by_a_large_power_is_that_of_the_largest_and_never_underflows():
    layer = LevelAttention(**{**SIZES, "power": 400.0}).double()
    x, real = padded(3)
    sharp = layer(x, real)
    maps = []
    for level in range(3):  # one level at a time is a softmax
        alone = LevelAttention(**{**SIZES, "n_levels": 3, "power": 1.0}).double()
        alone.load_state_dict(layer.state_dict())
        alone.queries.forward = lambda x, real, level=level: layer.queries(x, real)[:, [level]]
        maps.append(alone(x, real))
    largest = torch.stack(maps).amax(0)
    torch.testing.assert_close(sharp, largest / largest.sum(-1, keepdim=True), atol=1e-2, rtol=0)
    assert torch.isfinite(torch.autograd.grad(sharp.square().sum(), layer.query.weight)[0]).all()


@pytest.mark.parametrize("longest, bound", [(21, 2.14), (70, 1.31)])
def test_released_weights_are_almost_alike_whatever_is_learned(longest, bound):
    """Two softmaxes of numbers below one."""
    torch.manual_seed(0)
    sizes = {**SIZES, "n_levels": 7}
    layer = ReleasedAttention(**sizes, longest=longest).double()
    x, real = padded(*[longest] * 200)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(100)
        found = layer(x, real)
    ratio = (found.amax(-1) / found.amin(-1)).max().item()
    exact = math.exp(2 * 7**0.25 * (math.e**2 - 1) / (math.e**2 + longest - 1))
    assert exact == pytest.approx(bound, abs=0.005) and 1.05 < ratio <= exact + 1e-9


def test_the_released_weight_of_an_item_comes_from_another_one():
    """Eight heads and 20 items: what stands in row 9 of head 0 is cut from token 1, in head 7 from padding."""
    torch.manual_seed(0)
    layer = ReleasedAttention(32, 8, 1, "concat", 4.0, longest=20).double()
    x, real = padded(12, width=20, d=32)
    x.requires_grad_()
    with torch.no_grad():
        layer.queries.levels[0].weight.zero_()  # so that only keys matter
    key = layer._cut(layer.key(x))
    own = [
        token for token in range(20) if torch.autograd.grad(key[0, 0, 9].sum(), x, retain_graph=True)[0][0, token].any()
    ]
    far = [
        token for token in range(20) if torch.autograd.grad(key[0, 7, 9].sum(), x, retain_graph=True)[0][0, token].any()
    ]
    assert own == [1] and far == [18] and not real[0, 18]


def test_a_session_of_one_item_by_hand():
    mixer = SessionMixer(8, LevelAttention(**SIZES), 0.0).double()
    x, real = padded(1)
    expected = mixer.output(torch.cat([mixer.norm(mixer.value(x[0, 0])), x[0, 0]]))
    torch.testing.assert_close(mixer(x, real)[0], expected)
