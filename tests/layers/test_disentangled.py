"""Attention by content and distance: packed equals the padded reference, and what it may and may not depend on."""

import plain_cadirec as plain
import pytest
import torch

from recbole_diffusion.layers.disentangled import DisentangledTransformer, named_denoiser
from recbole_diffusion.layers.packed import PackedLayout

SETTINGS = {"denoiser_layers": 2, "denoiser_dropout_prob": 0.0, "n_heads": 2, "hidden_size": 8, "inner_size": 16}
SETTINGS.update(hidden_act="gelu", layer_norm_eps=1e-12, pos_align="end", hidden_dropout_prob=0.0)


def build(name="deberta"):
    torch.manual_seed(0)
    network = named_denoiser(name, SETTINGS, 9).double()
    for parameter in network.parameters():  # zeros and ones at the start would hide a mistake
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def rows(lengths, width=9, seed=1):
    x = torch.randn(len(lengths), width, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(width) < lengths[:, None]


def test_packed_equals_the_padded_reference_in_values_and_gradients():
    network, lengths = build(), torch.tensor([9, 1, 4, 2, 7, 4])
    x, mask = rows(lengths)
    layout = PackedLayout(lengths)
    one, two = network(layout.pack(x), layout), layout.pack(plain.disentangled(network, x, mask))
    torch.testing.assert_close(one, two)
    gradients = [torch.autograd.grad(y.cos().sum(), list(network.parameters())) for y in (one, two)]
    for (name, _), first, second in zip(network.named_parameters(), *gradients):
        torch.testing.assert_close(first, second, msg=name)
        assert first.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["deberta", "transformer"])
def test_every_position_sees_its_whole_sequence_and_no_other(name):
    network, lengths = build(name), torch.tensor([3, 5])
    x, _ = rows(lengths)
    layout = PackedLayout(lengths)
    before = network(layout.pack(x), layout)
    x[1, 4] += torch.randn(8, dtype=torch.float64)  # the last item of the longer sequence
    x[0, 3:] += 1  # padding
    changed = (network(layout.pack(x), layout) != before).any(1)
    assert changed.tolist() == (layout.row == 1).tolist()


def test_distances_count_and_not_places():
    """The same items in another order give other states; where they stand within the padded row does not matter."""
    network = build()
    x, _ = rows(torch.tensor([4]))
    layout = PackedLayout(torch.tensor([4]))
    forwards, backwards = network(x[0, :4], layout), network(x[0, :4].flip(0), layout).flip(0)
    assert not torch.allclose(forwards, backwards)
    network.distance_embedding.weight.data[:] = network.distance_embedding.weight.data[0].clone()
    forwards, backwards = network(x[0, :4], layout), network(x[0, :4].flip(0), layout).flip(0)
    torch.testing.assert_close(forwards, backwards)  # all distances alike: a set


def test_scale_of_the_released_width():
    network = DisentangledTransformer(1, 2, 64, 128, 50, 0.5, 0.2, "gelu", 1e-12)
    assert 1 / network.attention[0].scale == pytest.approx(9.797959, abs=1e-6)
    assert network.distance_embedding.weight.shape == (100, 64)


def test_hidden_size_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="multiple"):
        DisentangledTransformer(1, 3, 8, 16, 9, 0.0, 0.0, "gelu", 1e-12)
