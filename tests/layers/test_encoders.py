"""LiGR's and HSTU's packed blocks equal their plain twins, see no future and do not depend on the batch.

In double precision, where two orders of one sum are the same to the last digits that are compared.
"""

import plain_encoders
import pytest
import torch

from recbole_diffusion.layers.encoders import named_encoder
from recbole_diffusion.layers.packed import PackedLayout

LONGEST = 11
SETTINGS = {"n_heads": 2, "hidden_size": 8, "inner_size": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
SETTINGS.update(hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
pytestmark = pytest.mark.parametrize("name", ["ligr", "hstu", "macaron"])


def build(name, n_layers=2, **more):
    """An encoder whose biases, norms and tables stand at values that hide no mistake."""
    torch.manual_seed(0)
    stack = named_encoder(name, {**SETTINGS, **more}, n_layers, LONGEST).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return stack


def histories(rows=9, views=1):
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, LONGEST + 1, (rows,), generator=random)
    lengths[:2] = torch.tensor([LONGEST, 1])
    return torch.randn(rows, LONGEST, views, SETTINGS["hidden_size"], generator=random, dtype=torch.double), lengths


def gradients(stack, x, states):
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return torch.autograd.grad((states * weight).sum(), [x, *stack.parameters()])


@pytest.mark.parametrize("causal", [True, False])
def test_packed_equals_plain_in_values_and_gradients(name, causal):
    stack = build(name)
    x, lengths = histories(views=2)
    x.requires_grad_()
    layout, mask = PackedLayout(lengths), torch.arange(LONGEST) < lengths[:, None]
    assert len(layout.blocks) > 2
    packed = stack(layout.pack(x), layout, causal)
    plain = torch.stack([plain_encoders.encoder(stack, x[:, :, view], mask, causal) for view in (0, 1)], 2)
    torch.testing.assert_close(packed, layout.pack(plain), atol=1e-9, rtol=1e-9)
    for found, expected in zip(gradients(stack, x, packed), gradients(stack, x, layout.pack(plain))):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_final_block_at_the_last_token_equals_the_whole_block(name, n_layers, causal):
    stack = build(name, n_layers)
    x, lengths = histories(views=3)
    layout = PackedLayout(lengths)
    x = layout.pack(x).requires_grad_()
    whole = stack(x, layout, causal)[layout.last]
    last = stack.final_block_at_last(stack.first_blocks(x, layout, causal), layout)
    torch.testing.assert_close(last, whole, atol=1e-9, rtol=1e-9)
    for found, expected in zip(gradients(stack, x, last), gradients(stack, x, whole)):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_a_token_sees_no_future_and_without_the_mask_it_does(name):
    stack = build(name)
    x, lengths = histories()
    layout = PackedLayout(lengths)
    changed = x.clone()
    changed[torch.arange(len(x)), lengths - 1] += 1
    before = layout.position < layout.length - 1
    for causal in (True, False):
        first, second = (stack(layout.pack(given), layout, causal)[before] for given in (x, changed))
        assert torch.equal(first, second) is causal


def test_a_history_does_not_depend_on_its_batch(name):
    stack = build(name)
    x, lengths = histories()
    layout = PackedLayout(lengths)
    together = stack.final_block_at_last(stack.first_blocks(layout.pack(x), layout, True), layout)
    for row, length in enumerate(lengths):
        alone = PackedLayout(length[None])
        state = stack.final_block_at_last(stack.first_blocks(x[row, :length], alone, True), alone)
        torch.testing.assert_close(state[0], together[row], atol=1e-9, rtol=1e-9)


def test_cells_that_are_masked_by_hand_are_not_seen(name):
    """Padding that counts as tokens, which the released diffusion loss has."""
    stack = build(name)
    x, lengths = histories()
    layout, padded = PackedLayout(lengths), PackedLayout.with_padding(len(x), LONGEST, x.device)
    padded.blocks[0].real = torch.arange(LONGEST) < lengths[:, None]
    states = stack(padded.pack(x), padded, causal=False).unflatten(0, (-1, LONGEST))
    torch.testing.assert_close(layout.pack(states), stack(layout.pack(x), layout, causal=False), atol=1e-9, rtol=1e-9)


def test_dropout_is_where_it_is_set(name):
    x, lengths = histories()
    layout = PackedLayout(lengths)
    x, expected = layout.pack(x), None
    for key in ("hidden_dropout_prob", "attn_dropout_prob"):
        stack = build(name, **{key: 0.5})
        assert not torch.equal(stack(x, layout, True), stack(x, layout, True)), key
        still = stack.eval()(x, layout, True)
        assert expected is None or torch.equal(still, expected)
        expected = still
