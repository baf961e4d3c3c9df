"""What pseudo items are like, and whether the generator knows more than chance and popularity."""

import numpy as np
import torch

RANDOM_DIRECTIONS = 1000
CLEARLY = 0.1  # that a mean cosine must exceed that of random directions


def describe_items(items, guides):
    """Figures of pseudo items.

    Args:
        items (np.ndarray): [U, M] item numbers.
        guides (Histories): what they were made from.

    Returns:
        dict: ``distinct_items``; ``duplicates`` and ``in_history``, shares of the pseudo items of users.
    """
    ordered = np.sort(items, axis=1)
    place = items.max(initial=0) + int(guides.items.max()) + 1
    seen = np.unique(np.repeat(np.arange(len(guides)), guides.lengths.numpy()) * place + guides.items.numpy())
    met = np.isin(np.arange(len(items))[:, None] * place + items, seen)
    return {
        "distinct_items": len(np.unique(items)),
        "duplicates": round(float((ordered[:, 1:] == ordered[:, :-1]).sum() / items.size), 4),
        "in_history": round(float(met.mean()), 4),
    }


def describe_generator(generator, pairs, held_out, counts, cosines):
    """Figures of a trained generator.

    Args:
        generator (Generator): trained.
        pairs (Pairs): of all long histories.
        held_out (torch.LongTensor): rows that it was not trained on.
        counts (torch.Tensor): [V] how often items occur in the training part.
        cosines (np.ndarray): of all generated vectors to their items.

    Returns:
        dict: ``cosine``, their mean; ``cosine_of_chance``, that of random directions; of the held-out users, ``hits``,
        the share of the generated items that are among the M wanted ones, and ``hits_of_popularity``.
    """
    table, (target, rest, _) = generator.table, pairs.choose(held_out)
    random = torch.randn(RANDOM_DIRECTIONS, table.shape[1], generator=torch.Generator().manual_seed(0))
    chance = generator.round(random.to(table.device))[1].mean().item()
    generated = generator.round(generator.generate(rest))[0].cpu()
    popular = counts.topk(min(target.shape[1], len(counts) - 1)).indices.expand(len(target), -1)
    return {
        "cosine": round(float(cosines.mean()), 4),
        "cosine_of_chance": round(chance, 4),
        "hits": round(share_found(generated, target), 4),
        "hits_of_popularity": round(share_found(popular, target), 4),
    }


def share_found(items, wanted):
    """Share of items that are among the wanted ones of their row. items: [R, k]; wanted: [R, M]."""
    return (items[:, :, None] == wanted[:, None]).any(2).float().mean().item()


def doubts(figures):
    """Reasons not to trust a generator, from its figures: a list of texts."""
    found = []
    if figures["cosine"] < figures["cosine_of_chance"] + CLEARLY:
        found.append("what is generated is hardly nearer to items than random directions are: train longer")
    if figures["hits"] <= figures["hits_of_popularity"]:
        found.append("on held-out users the most popular items are as good as what is generated")
    return found
