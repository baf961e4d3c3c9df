"""Tokens that see and are not seen, against a loop over queries; and nothing changes where there are none."""

import pytest
import torch
from plain_encoders import BLOCKS, norm, softmax_attention

from recbole_diffusion.layers.encoders import named_encoder
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import hidden_at_end, hidden_cells

LONGEST, WIDTH = 9, 8
SETTINGS = {"n_heads": 2, "hidden_size": WIDTH, "inner_size": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
SETTINGS.update(hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
LENGTHS = torch.tensor([9, 1, 1, 4, 6, 3, 7, 2])
# First items, last items, a lone item, a whole history; rows 1 and 6 have none.
HOLES = [(0, 1, 4), (), (0,), (3,), (1, 2, 5), (0, 1, 2), (), (0,)]


def build(name, n_layers=2):
    torch.manual_seed(0)
    stack = named_encoder(name, SETTINGS, n_layers, LONGEST).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return stack


def histories(dig=True):
    x = torch.randn(len(LENGTHS), LONGEST, 2, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    layout, holes = PackedLayout(LENGTHS), torch.zeros(len(LENGTHS), LONGEST, dtype=torch.bool)
    for row, places in enumerate(HOLES):
        holes[row, list(places)] = True
    if dig:
        layout.dig(layout.pack(holes))
    return x, layout


def one_history(stack, x, causal, holes):
    """x: [n, d], query by query."""
    if not hasattr(stack, "blocks"):
        for attention, feed_forward in zip(stack.attention, stack.feed_forward):
            x = norm(attention.LayerNorm, x + softmax_attention(attention, x, causal, holes))
            inner = feed_forward.dense_2(feed_forward.activation(feed_forward.dense_1(x)))
            x = norm(feed_forward.LayerNorm, x + inner)
        return x
    for block in stack.blocks:
        x = BLOCKS[type(block).__name__](block, x, causal, holes)
    return norm(stack.norm, x)


def gradients(stack, x, states):
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return torch.autograd.grad((states * weight).sum(), [x, *stack.parameters()])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu", "macaron"])
def test_holes_equal_a_loop_over_queries_in_values_and_gradients(name, causal):
    stack, (x, layout) = build(name), histories()
    x.requires_grad_()
    packed = stack(layout.pack(x), layout, causal)
    rows = torch.zeros_like(x)
    for row, length in enumerate(LENGTHS.tolist()):
        states = [one_history(stack, x[row, :length, view], causal, HOLES[row]) for view in (0, 1)]
        rows = rows.index_put(
            (torch.tensor([row]),), torch.nn.functional.pad(torch.stack(states, 1), (0, 0) * 2 + (0, LONGEST - length))
        )
    torch.testing.assert_close(packed, layout.pack(rows), atol=1e-9, rtol=1e-9)
    for found, expected in zip(gradients(stack, x, packed), gradients(stack, x, layout.pack(rows))):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu", "macaron"])
def test_the_last_block_at_the_last_token_equals_the_whole_block(name, n_layers):
    stack, (x, layout) = build(name, n_layers), histories()
    x = layout.pack(x).requires_grad_()
    whole = stack(x, layout, True)[layout.last]
    last = stack.final_block_at_last(stack.first_blocks(x, layout, True), layout)
    torch.testing.assert_close(last, whole, atol=1e-9, rtol=1e-9)
    for found, expected in zip(gradients(stack, x, last), gradients(stack, x, whole)):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu", "macaron"])
def test_a_hole_is_seen_by_nobody_else_and_sees_others(name):
    stack, (x, layout) = build(name), histories()
    before = stack(layout.pack(x), layout, True)
    changed = x.clone()
    changed[0, 4] += 1  # a hole of the first history
    after = stack(layout.pack(changed), layout, True)
    moved = (before != after).flatten(1).any(1)
    assert moved.nonzero().flatten().tolist() == [((layout.row == 0) & (layout.position == 4)).nonzero().item()]
    changed = x.clone()
    changed[0, 3] += 1  # no hole, and stands before one
    moved = (stack(layout.pack(changed), layout, True) != before).flatten(1).any(1)
    assert set(layout.position[moved].tolist()) == {3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu", "macaron"])
def test_without_holes_nothing_changes_by_a_bit(name):
    stack, (x, layout) = build(name), histories(dig=False)
    for block in layout.blocks:
        width = block.shape[1]
        assert torch.equal(hidden_cells(block, True), torch.ones(width, width, dtype=torch.bool).triu(1))
        assert torch.equal(hidden_cells(block, False), ~block.real[:, None, None, None, :])
        assert torch.equal(hidden_at_end(block), hidden_cells(block, False))
    dug = histories(dig=False)[1]
    dug.dig(torch.zeros(layout.n_tokens, dtype=torch.bool))
    x = layout.pack(x)
    for causal in (True, False):
        assert torch.equal(stack(x, layout, causal), stack(x, dug, causal))
    assert torch.equal(stack.final_block_at_last(x, layout), stack.final_block_at_last(x, dug))
