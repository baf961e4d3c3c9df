"""Paired tests of one row against the others, over users and over seeds, corrected for their number."""

import zipfile
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
MIN_SEEDS = 3  # two differences have a deviation, but a test of two says nothing


@dataclass
class PairedTest:
    """A two-sided paired t-test.

    Attributes:
        n (int): pairs.
        p (float): p-value.
        effect (float): Cohen's d of the differences, their mean over their sample standard deviation.
        p_holm (float | None): p-value after Holm's correction; see :func:`correct`.
    """

    n: int
    p: float
    effect: float
    p_holm: float = None


@dataclass
class Comparison:
    """One metric of the row under test against another row's.

    Attributes:
        other (str): label of the other row.
        metric (str): name as in RecBole, such as ``hit@10``.
        difference (float): mean over seeds of the row under test minus the other's.
        users (PairedTest | None): pairs are users, values are means over the seeds.
        seeds (PairedTest | None): pairs are seeds, values are the metric.
    """

    other: str
    metric: str
    difference: float
    users: PairedTest = None
    seeds: PairedTest = None


def compare_rows(rows, ours, protocol, names):
    """Tests of ``ours`` against every other row under one protocol, corrected over all of them.

    Args:
        rows (dict[str, list[dict]]): row label -> finished results. ``ranks_file`` of a result names its ranks.
        ours (str): label of the row under test.
        protocol (str): ``unmasked`` or ``masked``.
        names (list[str]): metrics.

    Returns:
        list[Comparison]: empty when ``ours`` has no finished result.
    """
    found = []
    ranks = {label: load_ranks(results, protocol) for label, results in rows.items()}
    for other in rows:
        for name in names:
            pair = [by_seed(rows.get(label, []), protocol, name) for label in (ours, other)]
            if other == ours or not all(pair):
                continue
            difference = np.mean(list(pair[0].values())) - np.mean(list(pair[1].values()))
            users = paired_over_users(ranks[ours], ranks[other], name)
            found.append(Comparison(other, name, float(difference), users, paired_over_seeds(*pair)))
    correct([comparison.users for comparison in found])
    correct([comparison.seeds for comparison in found])
    return found


def by_seed(results, protocol, name):
    """Seed -> value of a metric."""
    key = f"test_result_{protocol}"
    return {result["seed"]: result[key][name] for result in results if result.get(key, {}).get(name) is not None}


def paired_over_seeds(ours, other):
    """Paired test over the seeds that both rows have, or None where they are too few."""
    common = sorted(set(ours) & set(other))
    if len(common) < MIN_SEEDS:
        return None
    return paired_test([ours[seed] for seed in common], [other[seed] for seed in common])


def paired_over_users(ours, other, name):
    """Paired test over users, or None where ranks are missing, are of other users or do not give the metric."""
    if ours is None or other is None or not np.array_equal(ours["who"], other["who"]):
        return None
    values = [user_values(ranks, name) for ranks in (ours, other)]
    return None if values[0] is None or values[1] is None else paired_test(*values)


def paired_test(ours, other):
    """Two-sided paired t-test of two series of equal length.

    Returns:
        PairedTest | None: None where all differences are one and the same number other than zero, or fewer than two.
    """
    difference = np.asarray(ours, dtype=float) - np.asarray(other, dtype=float)
    if len(difference) < 2:
        return None
    deviation = difference.std(ddof=1)
    if deviation <= 1e-12 * max(1.0, np.abs(difference).max()):
        return PairedTest(len(difference), 1.0, 0.0) if abs(difference.mean()) <= 1e-12 else None
    p = stats.ttest_rel(ours, other).pvalue
    return PairedTest(len(difference), float(p), float(difference.mean() / deviation))


def correct(tests):
    """Set ``p_holm`` of tests in place: Holm's step-down correction over all that exist."""
    tests = sorted((test for test in tests if test), key=lambda test: test.p)
    largest = 0.0
    for i, test in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - i) * test.p))
        test.p_holm = largest


# Ranks


def load_ranks(results, protocol):
    """The stored ranks of some runs that differ in their seed only.

    Returns:
        dict | None: ``who`` [2, n] users and targets, ``ranks`` [seeds, n], ``longest`` list that was kept. None when a
        run has no ranks, or its users are others.
    """
    found = [read_ranks(result, protocol) for result in results]
    if not found or any(ranks is None for ranks in found):
        return None
    who = found[0][0]
    if any(not np.array_equal(who, other) for other, _ in found[1:]):
        return None
    longest = min(max(result["settings"]["topk"]) for result in results)
    return {"who": who, "ranks": np.stack([ranks for _, ranks in found]), "longest": longest}


def read_ranks(result, protocol):
    """``(who, ranks)`` of one run, or None."""
    try:
        with np.load(result["ranks_file"]) as file:
            return np.stack([file["user"], file["item"]]), file[protocol]
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile):  # not there, or damaged
        return None


def user_values(ranks, name):
    """Mean over seeds of a metric for every user.

    Args:
        ranks (dict): see :func:`load_ranks`.
        name (str): metric with cut-off, such as ``ndcg@10``.

    Returns:
        np.ndarray | None: [n], None for a metric that one rank does not give.
    """
    metric, _, k = name.partition("@")
    if not is_of_ranks(name, ranks["longest"]):
        return None
    place = ranks["ranks"].astype(float)
    hit = (place > 0) & (place <= int(k))
    return np.where(hit, GAINS[metric](np.where(hit, place, 1.0), int(k)), 0.0).mean(0)


def is_of_ranks(name, longest):
    """Whether a metric follows from ranks that were kept up to a place."""
    metric, _, k = name.partition("@")
    return metric in GAINS and k.isdecimal() and 1 <= int(k) <= longest


def add_metrics(result, names):
    """Add metrics to the test results of a finished run in place, computed from its stored ranks.

    Args:
        result (dict): its ``ranks_file`` may be missing.
        names (list[str]): as in RecBole.

    Returns:
        list[str]: those that it still has not.
    """
    missing = set()
    for protocol in ("unmasked", "masked"):
        found = result[f"test_result_{protocol}"]
        wanted = [name for name in names if name not in found]
        stored = read_ranks(result, protocol) if wanted else None
        settings = result["settings"]
        for name in wanted:
            values = stored and user_values({"ranks": stored[1][None], "longest": max(settings["topk"])}, name)
            if values is None:
                missing.add(name)
            else:
                found[name] = round(float(values.mean()), settings.get("metric_decimal_place", 5))
    return [name for name in names if name in missing]


GAINS = {  # of a target at a place of a list of length k, with one target per user
    "hit": lambda place, k: np.ones_like(place),
    "recall": lambda place, k: np.ones_like(place),
    "precision": lambda place, k: np.full_like(place, 1 / k),
    "ndcg": lambda place, k: 1 / np.log2(place + 1),
    "mrr": lambda place, k: 1 / place,
    "map": lambda place, k: 1 / place,
}
