"""Packed layout and Transformer, cross-entropies, InfoNCE, nearest items: fast equals plain."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.layers import chunks
from recbole_diffusion.layers.contrastive import info_nce
from recbole_diffusion.layers.cross_entropy import binary_cross_entropy, linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout, pad_block, unpad_block
from recbole_diffusion.layers.top_items import GROUP, top_items, top_of_long
from recbole_diffusion.layers.transformer import Dropout, PackedTransformer


def random_lengths(rows=20, width=23, seed=0):
    return torch.randint(1, width + 1, (rows,), generator=torch.Generator().manual_seed(seed))


def test_layout_covers_every_real_item_once_in_order():
    lengths = random_lengths()
    layout = PackedLayout(lengths)
    assert layout.n_tokens == lengths.sum()
    cells = {(int(r), int(p)) for r, p in zip(layout.row, layout.position)}
    assert cells == {(row, place) for row, n in enumerate(lengths.tolist()) for place in range(n)}
    assert (layout.group.diff() >= 0).all() and torch.equal(layout.length, lengths[layout.row])
    assert torch.equal(layout.row[layout.last], torch.arange(len(lengths)))
    assert torch.equal(layout.position[layout.last], lengths - 1)


def test_blocks_partition_the_tokens_and_waste_at_most_half():
    layout = PackedLayout(random_lengths(rows=200, width=50))
    tokens = [t for block in layout.blocks for t in range(block.tokens.start, block.tokens.stop)]
    assert tokens == list(range(layout.n_tokens))
    for block in layout.blocks:
        shortest = int(block.real.sum(1).min())
        assert block.shape[1] <= max(PackedLayout.SHORTEST_WIDTH, 2 * shortest)


def test_wide_blocks_as_a_gpu_gets_them_compute_the_same(monkeypatch):
    torch.manual_seed(0)
    lengths = random_lengths(rows=30, width=50)
    network, outputs = PackedTransformer(2, 2, 8, 16, 0.0, 0.0).eval(), []
    tokens = torch.randn(int(lengths.sum()), 1, 8)
    for width in (PackedLayout.SHORTEST_WIDTH, PackedLayout.SHORTEST_ON_GPU):
        monkeypatch.setattr(PackedLayout, "SHORTEST_WIDTH", width)
        layout = PackedLayout(lengths)
        outputs.append(network(tokens, layout, True))
    assert len(layout.blocks) == 1
    torch.testing.assert_close(*outputs)


def test_pad_and_unpad_are_inverse():
    layout = PackedLayout(random_lengths())
    tokens = torch.randn(layout.n_tokens, 3, 2)
    for block in layout.blocks:
        padded = pad_block(tokens, block)
        assert torch.equal(unpad_block(padded, block), tokens[block.tokens])
        assert (padded[~block.real] == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_packed_transformer_equals_torchs_own(causal):
    torch.manual_seed(0)
    packed = PackedTransformer(2, 2, 8, 16, 0.0, 0.0, layer_norm_eps=1e-5).eval()
    reference = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    copy_weights(packed, reference)
    lengths = random_lengths(rows=7)
    layout = PackedLayout(lengths)
    padded = torch.randn(7, int(lengths.max()), 8)
    padding = torch.arange(padded.shape[1]) >= lengths[:, None]
    future = torch.nn.Transformer.generate_square_subsequent_mask(padded.shape[1]) if causal else None
    expected = reference(padded, mask=future, src_key_padding_mask=torch.where(padding, float("-inf"), 0.0))
    views = torch.stack([layout.pack(padded), layout.pack(padded)], 1)
    result = packed(views, layout, causal)
    for view in (0, 1):
        torch.testing.assert_close(result[:, view], layout.pack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_final_block_at_the_last_token_equals_the_whole_block(causal):
    torch.manual_seed(0)
    packed = PackedTransformer(2, 2, 8, 16, 0.0, 0.0)
    layout = PackedLayout(random_lengths())
    x = torch.randn(layout.n_tokens, 3, 8, requires_grad=True)
    weight = torch.randn(len(layout.last), 3, 8)
    gradients = []
    for states in (
        packed(x, layout, causal)[layout.last],
        packed.final_block_at_last(packed.first_blocks(x, layout, causal), layout),
    ):
        (states * weight).sum().backward()
        gradients.append((states.detach(), x.grad.clone(), packed.attention[1].qkv.weight.grad.clone()))
        packed.zero_grad()
        x.grad = None
    for whole, last in zip(*gradients):
        torch.testing.assert_close(whole, last, atol=1e-5, rtol=1e-4)


def copy_weights(packed, reference):
    for attention, feed_forward, layer in zip(packed.attention, packed.feed_forward, reference.layers):
        pairs = [
            (layer.self_attn.in_proj_weight, attention.qkv.weight),
            (layer.self_attn.in_proj_bias, attention.qkv.bias),
            (layer.self_attn.out_proj.weight, attention.dense.weight),
            (layer.self_attn.out_proj.bias, attention.dense.bias),
            (layer.linear1.weight, feed_forward.dense_1.weight),
            (layer.linear1.bias, feed_forward.dense_1.bias),
            (layer.linear2.weight, feed_forward.dense_2.weight),
            (layer.linear2.bias, feed_forward.dense_2.bias),
        ]
        for target, source in pairs:
            target.data.copy_(torch.randn_like(source) * 0.3)
            source.data.copy_(target.data)


def test_hidden_size_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="multiple"):
        PackedTransformer(1, 3, 8, 16, 0.0, 0.0)


def test_dropout_keeps_the_mean_and_the_rate():
    torch.manual_seed(0)
    dropout = Dropout(0.3)
    x = torch.ones(200_000)
    y = dropout(x)
    assert abs((y == 0).float().mean() - 0.3) < 0.01 and abs(y.mean() - 1) < 0.01
    assert dropout.eval()(x) is x or torch.equal(dropout(x), x)
    assert Dropout(0.999995)(x).isfinite().all()  # rounded, this would be all


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 1000])
def test_linear_cross_entropy_equals_naive(monkeypatch, rows_at_a_time):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", rows_at_a_time * 31)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 1)
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 5, requires_grad=True), torch.randn(31, 5, requires_grad=True)
    target = torch.randint(31, (20,))
    loss, logsumexp, maximum = linear_cross_entropy(hidden, weight, target)
    (3 * loss).backward()
    gradients = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None

    logits = hidden @ weight.t()
    expected = F.cross_entropy(logits, target)
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logsumexp, logits.logsumexp(1).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maximum, logits.amax(1).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[1], weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_cross_entropy_is_not_computed_in_half_precision(dtype):
    hidden, weight = torch.randn(4096, 8, requires_grad=True), (torch.randn(3000, 8) + 1).requires_grad_()
    target = torch.randint(3000, (4096,))
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, target)[0], (hidden, weight))
    with torch.autocast("cpu", dtype):
        loss = linear_cross_entropy(hidden, weight, target)[0]
    for found, gradient in zip(torch.autograd.grad(loss, (hidden, weight)), expected):
        assert torch.equal(found, gradient)


def test_linear_cross_entropy_survives_large_logits():
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    loss, _, _ = linear_cross_entropy(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    loss.backward()
    assert loss == 1e4 and torch.isfinite(hidden.grad).all()


def test_binary_cross_entropy_equals_its_definition():
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 3), torch.randn(10, 3)
    target, negatives = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    positive, negative = (hidden * weight[target]).sum(1), (hidden * weight[negatives]).sum(1)
    expected = -(positive.sigmoid().log() + (1 - negative.sigmoid()).log()).mean()
    torch.testing.assert_close(binary_cross_entropy(hidden, weight, target, negatives), expected)


def test_info_nce_ignores_hidden_pairs():
    torch.manual_seed(0)
    anchor, candidates = torch.randn(2, 4), torch.randn(3, 4)
    hidden_pairs = torch.tensor([[False, False, True], [False, False, True]])
    torch.testing.assert_close(
        info_nce(anchor, candidates, 0.5, hidden_pairs), info_nce(anchor, candidates[:2], 0.5)
    )


def test_info_nce_is_not_computed_in_half_precision():
    torch.manual_seed(0)
    anchor, candidates = torch.randn(2, 4), torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(anchor, candidates, 0.01)
    assert torch.equal(loss, info_nce(anchor, candidates, 0.01))


@pytest.mark.parametrize("n_items, k", [(GROUP * 40 + 5, 7), (GROUP * 40, 40), (GROUP * 3 + 1, 30), (9, 9)])
def test_the_top_of_a_long_table_is_that_of_all_products(n_items, k, monkeypatch):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", 5 * GROUP * 4)  # pieces of four groups
    torch.manual_seed(0)
    queries, table = torch.randn(5, 8), torch.randn(n_items, 8)
    assert torch.equal(top_of_long(queries, table, k), (queries @ table.t()).topk(k).indices)


def test_top_items_excludes_padding_and_the_given_item():
    table = torch.tensor([[9.0], [3.0], [2.0], [1.0]])
    queries = torch.ones(2, 1)
    assert top_items(queries, table, 2).tolist() == [[1, 2], [1, 2]]
    assert top_items(queries, table, 2, excluded=torch.tensor([1, 2])).tolist() == [[2, 3], [1, 3]]
    assert top_items(queries[:0], table, 2).shape == (0, 2)


@pytest.mark.parametrize(
    "n_items, k", [(5, 1), (5, 3), *itertools.product([20 * GROUP - 1, 20 * GROUP, 20 * GROUP + 1, 1003], [1, 4, 19, 21])]
)
@pytest.mark.parametrize("clustered", [False, True])
def test_top_items_equals_one_selection_among_all(n_items, k, clustered, monkeypatch):
    monkeypatch.setattr(chunks, "NUMBERS_ON_CPU", 10)
    monkeypatch.setattr(chunks, "FEWEST_ROWS", 7)
    generator = torch.Generator().manual_seed(n_items + k)
    table = torch.randn(n_items, 6, generator=generator)
    if clustered:  # the best items share groups
        table[:: -(-n_items // GROUP)] += 5
    queries = torch.randn(17, 6, generator=generator)
    excluded = torch.randint(1, n_items, (len(queries),), generator=generator)

    scores = queries @ table.t()
    scores[:, 0] = float("-inf")
    scores[torch.arange(len(queries)), excluded] = float("-inf")
    expected = scores.topk(k).values
    found = top_items(queries, table, k, excluded)
    torch.testing.assert_close((queries @ table.t()).gather(1, found), expected)
    assert all(len(set(row)) == k for row in found.tolist())
