"""MFGAN's discriminators written plainly: every history with every last item as a sequence of its own."""

import torch

from recbole_diffusion.layers.packed import PackedLayout


def one_by_one(network, items, lengths, candidates):
    """Every history with every last item through the block as a sequence of its own."""
    logits = []
    for row, n in zip(range(len(items)), lengths.tolist()):
        for candidate in candidates[row]:
            sequence = torch.cat([items[row, :n], candidate[None]])
            later = torch.arange(n, -1, -1)
            x = network.scale * network.factor(sequence) + network.position_embedding(later)
            layout = PackedLayout(torch.tensor([n + 1]))
            logits.append(network.out(network.transformer(x.unsqueeze(1), layout, causal=False)[-1, 0]))
    return torch.cat(logits).view(candidates.shape)
