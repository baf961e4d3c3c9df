"""Which published figures cannot be true: one target per user ties the metrics of a row to one another."""

import math
from itertools import combinations

# Gain of a target at place r, and whether a metric of this name can be bounded by the hit rate.
GAINS = {"ndcg": lambda place: 1 / math.log2(place + 1), "mrr": lambda place: 1 / place}


def impossible_metrics(values, unit):
    """Metrics of one row that contradict its hit rates, even allowing for rounding.

    With one target per user, the targets that enter between cut-offs ``k`` and ``K`` stand at places ``k + 1 .. K``, so
    NDCG and MRR grow by the growth of the hit rate times a gain between those of these places. ``k = 0`` bounds a
    metric by the hit rate at its own cut-off.

    Args:
        values (dict[str, float]): ``hit@k``, ``ndcg@k``, ``mrr@k`` of one model on one data set.
        unit (float): the last printed place, in the unit of the values; each is known to half of it.

    Returns:
        dict[str, str]: metric -> the reason, with the bounds of what it could be.
    """
    cutoffs = sorted({int(name.partition("@")[2]) for name in values})
    hits = {0: 0.0, **{k: values[f"hit@{k}"] for k in cutoffs if values.get(f"hit@{k}") is not None}}
    found = {}
    for metric, gain in GAINS.items():
        known = {0: 0.0, **{k: values[f"{metric}@{k}"] for k in hits if values.get(f"{metric}@{k}") is not None}}
        for low, high in combinations(sorted(known), 2):
            slack = unit if low else unit / 2  # zero at a cut-off of zero is exact
            growth = [max(0.0, hits[high] - hits[low] + sign * slack) for sign in (-1, 1)]
            least, most = growth[0] * gain(high), growth[1] * gain(low + 1)
            change = known[high] - known[low]
            if not least - slack <= change + 1e-12 or not change - 1e-12 <= most + slack:
                found.setdefault(f"{metric}@{high}", describe(metric, low, high, known[low], least, most, slack, unit))
    return found


def describe(metric, low, high, start, least, most, slack, unit):
    """The reason in words: the smallest and the largest printed figure that would be possible."""
    places = max(0, round(-math.log10(unit)))
    smallest = math.ceil((start + least - slack) / unit - 1e-6) * unit
    largest = math.floor((start + most + slack) / unit + 1e-6) * unit
    given = f"the hit rates and {metric.upper()}@{low}" if low else "the hit rate"
    return f"{metric.upper()}@{high} must lie between {smallest:.{places}f} and {largest:.{places}f}, given {given}"
