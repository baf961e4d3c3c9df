"""What is kept of a history gives the ends that the whole Transformer gives."""

import pytest
import torch

from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.past import Past
from recbole_diffusion.layers.transformer import PackedTransformer

LENGTHS = torch.tensor([3, 1, 17, 2, 9, 5, 1, 4, 33])


@pytest.fixture(params=[1, 2, 3], ids="{0} layers".format)
def transformer(request):
    torch.manual_seed(request.param)
    return PackedTransformer(request.param, 2, 8, 12, 0.3, 0.3).double().eval()


@torch.no_grad()
def test_every_end_equals_one_pass_over_the_whole_history(transformer):
    layout = PackedLayout(LENGTHS)
    x = torch.randn(layout.n_tokens, 8, dtype=torch.float64)
    past = Past(transformer, x, layout)
    for _ in range(3):
        ends = torch.randn(len(LENGTHS), 8, dtype=torch.float64)
        whole = transformer(x.index_put((layout.last,), ends).unsqueeze(1), layout, causal=True)[layout.last, 0]
        torch.testing.assert_close(past.end(ends), whole, atol=1e-13, rtol=1e-13)


@torch.no_grad()
def test_what_stood_at_the_end_does_not_matter_and_what_stood_before_does(transformer):
    layout = PackedLayout(LENGTHS)
    x, ends = torch.randn(layout.n_tokens, 8, dtype=torch.float64), torch.ones(len(LENGTHS), 8, dtype=torch.float64)
    found = Past(transformer, x, layout).end(ends)
    other = Past(transformer, x.index_put((layout.last,), torch.full_like(ends, 7)), layout).end(ends)
    assert torch.equal(found, other)
    changed = x.clone()
    changed[layout.last[2] - 5] += 1  # a token of the third row
    different = (Past(transformer, changed, layout).end(ends) != found).any(1)
    assert different.nonzero().flatten().tolist() == [2]


def test_gradients_and_dropout_are_those_of_the_transformer(transformer):
    layout = PackedLayout(LENGTHS)
    x = torch.randn(layout.n_tokens, 8, dtype=torch.float64, requires_grad=True)
    ends = torch.randn(len(LENGTHS), 8, dtype=torch.float64, requires_grad=True)
    whole = transformer(x.index_put((layout.last,), ends).unsqueeze(1), layout, causal=True)[layout.last, 0]
    wanted = [x, ends, *transformer.parameters()]
    weight = torch.randn(len(LENGTHS), 8, dtype=torch.float64)
    pair = [
        torch.autograd.grad((found * weight).sum(), wanted) for found in (Past(transformer, x, layout).end(ends), whole)
    ]
    torch.testing.assert_close(*pair, atol=1e-12, rtol=1e-12)
    past = Past(transformer.train(), x, layout)
    assert not torch.equal(past.end(ends), past.end(ends))
