"""LiGR's, HSTU's and MFGAN's blocks written plainly from their equations: padded tensors, one history and one query at a time.

They read the weights of a packed stack, which has to give the same values and gradients.
"""

import torch
import torch.nn.functional as F


def norm(layer, x):
    """A layer norm from its definition."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def dropped(layer, x):
    return F.dropout(x, layer.p, layer.training)


def keys_of(i, n, causal, holes=()):
    """The items that item i of n sees: no holes, but itself where nothing else is left."""
    return [j for j in range(i + 1 if causal else n) if j not in holes] or [i]


def softmax_attention(attention, z, causal, holes=()):
    """z: [n, d], the items of one history."""
    q, k, v = (heads(t, attention.n_heads) for t in attention.qkv(z).chunk(3, -1))
    rows = []
    for i in range(len(z)):
        seen = keys_of(i, len(z), causal, holes)
        scores = torch.einsum("hd,jhd->hj", q[i], k[seen]) / q.shape[-1] ** 0.5
        weights = dropped(attention.attn_dropout, scores.exp() / scores.exp().sum(-1, keepdim=True))
        rows.append(torch.einsum("hj,jhd->hd", weights, v[seen]).flatten())
    return attention.dense(torch.stack(rows))


def heads(x, n_heads):
    return x.view(len(x), n_heads, -1)


def ligr_block(block, x, causal, holes=()):
    first, second = block.attention_residual, block.feed_forward_residual
    z = norm(first.norm, x)
    x = x + torch.sigmoid(first.gate(z)) * dropped(first.dropout, softmax_attention(block.attention, z, causal, holes))
    z = norm(second.norm, x)
    w_1, w_3 = block.feed_forward.inner.weight.chunk(2)
    inner = F.silu(z @ w_1.t()) * (z @ w_3.t())
    change = dropped(block.feed_forward.dropout, inner) @ block.feed_forward.outer.weight.t()
    return x + torch.sigmoid(second.gate(z)) * dropped(second.dropout, change)


def hstu_block(block, x, causal, holes=()):
    u, q, k, v = F.silu(norm(block.norm, x) @ block.uqkv.weight.t()).chunk(4, -1)
    q, k, v = (heads(t, block.n_heads) for t in (q, k, v))
    bias, rows = block.relative_bias.weight[:, 0], []
    for i in range(len(x)):
        total = 0.0
        for j in keys_of(i, len(x), causal, holes):
            score = (q[i] * k[j]).sum(-1) + bias[i - j + block.longest - 1]
            weight = dropped(block.attn_dropout, F.silu(score) / block.longest)
            total = total + weight[:, None] * v[j]
        rows.append(total.flatten())
    return x + block.dense(dropped(block.out_dropout, norm(block.mixed_norm, torch.stack(rows)) * u))


def half_feed_forward(half, x):
    z = norm(half.norm, x)
    inner = dropped(half.dropout, half.activation(z @ half.inner.weight.t() + half.inner.bias))
    return z + dropped(half.dropout, inner @ half.outer.weight.t() + half.outer.bias) / 2


def macaron_block(block, x, causal, holes=()):
    x = half_feed_forward(block.before, x)
    z, rows = norm(block.norm, x), []
    q, (k, v) = heads(block.query(z), block.attention.n_heads), block.key_value(x).chunk(2, -1)
    k, v = heads(k, block.attention.n_heads), heads(v, block.attention.n_heads)
    for i in range(len(x)):
        seen = keys_of(i, len(x), causal, holes)
        scores = torch.einsum("hd,jhd->hj", q[i], k[seen]) / q.shape[-1] ** 0.5
        weights = dropped(block.attention.attn_dropout, scores.exp() / scores.exp().sum(-1, keepdim=True))
        rows.append(torch.einsum("hj,jhd->hd", weights, v[seen]).flatten())
    return half_feed_forward(block.after, z + dropped(block.dropout, block.attention.dense(torch.stack(rows))))


BLOCKS = {"LiGRBlock": ligr_block, "HSTUBlock": hstu_block, "MacaronBlock": macaron_block}


def encoder(stack, x, mask, causal):
    """x: [B, L, d]; mask: [B, L] True at real items, which stand first -> [B, L, d], zeros at padding."""
    rows = []
    for row, length in zip(x, mask.sum(1).tolist()):
        state = row[:length]
        for block in stack.blocks:
            state = BLOCKS[type(block).__name__](block, state, causal)
        rows.append(F.pad(norm(stack.norm, state), (0, 0, 0, len(row) - length)))
    return torch.stack(rows)
