"""Networks that see several vectors as images: size, pairs of layers, and what attention to one pixel is."""

import pytest
import torch

from recbole_diffusion.layers.su_net import FlatDenoiser, PixelAttention, SUNet, step_waves


def test_size_of_the_released_network():
    network = SUNet(10, 64, 0.1)
    assert sum(p.numel() for p in network.parameters()) == 141_818
    assert not network.up[-1].conv_in.weight.shape[1] % 8 and network.up[0].conv_in.weight.shape == (16, 32, 3, 3)


@pytest.mark.parametrize("make, length, width", [(SUNet, 3, 64), (SUNet, 1, 256), (FlatDenoiser, 3, 64), (FlatDenoiser, 2, 5)])
def test_every_weight_learns_and_rows_do_not_meet(make, length, width):
    torch.manual_seed(0)
    network = make(length, width, 0.0).double()
    x, t, vector = torch.randn(4, length, width).double(), torch.tensor([0, 3, 500, 999]), torch.randn(4, width).double()
    out = network(x, t, vector)
    assert out.shape == x.shape
    out.square().sum().backward()
    unmoved = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    of_one_pixel = {f"attention.{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")}
    assert set(unmoved) <= of_one_pixel  # a softmax over one pixel, or a bias that moves all of its entries alike
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], vector[i : i + 1]) for i in range(4)])
    assert torch.allclose(out, alone, atol=1e-10)
    assert not torch.allclose(out[0], network(x[:1], t[:1], vector[1:2])[0])
    assert not torch.allclose(out[0], network(x[:1], t[1:2], vector[:1])[0])


def test_attention_to_a_single_pixel_is_linear():
    torch.manual_seed(0)
    layer = PixelAttention(16)
    x = torch.randn(5, 16, 1, 1)
    assert torch.allclose(layer(x), x + layer.out(layer.value(layer.norm(x))), atol=1e-6)


@pytest.mark.parametrize("width", [32, 36, 100])
def test_other_widths_are_refused(width):
    with pytest.raises(ValueError, match="squares whose side is a multiple of 8"):
        SUNet(10, width, 0.1)


def test_waves_of_a_step():
    waves = step_waves(torch.tensor([0, 1]))
    assert waves[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert torch.allclose(waves[1, [0, 4]], torch.tensor([0.841471, 0.540302]), atol=1e-6)
    assert torch.allclose(waves[1, 3], torch.tensor(1e-4), atol=1e-8)
