"""What a reader can quote of the atlas, computed from its evidence."""

import math
import statistics
from dataclasses import dataclass
from itertools import combinations

from recbole_diffusion.atlas.evidence import paper_of
from recbole_diffusion.atlas.verdicts import NOT_RUN, VERDICTS, mean_and_deviation, relative_deviations
from recbole_diffusion.reports.significance import (
    MIN_SEEDS,
    correct,
    load_ranks,
    paired_over_seeds,
    paired_over_users,
)

WATTS_PER_THREAD = 10  # of a server processor at work, its share of memory and cooling included; an assumption
USUAL = ("hit@10", "ndcg@10")


@dataclass
class Pair:
    """A model beside itself without its idea, or with another seed, on one data set.

    Attributes:
        dataset, model, twin (str): data set and labels of the runs.
        seeds (tuple[int, int]): how many runs each has.
        metric (str): what is compared.
        mean, other (float): of the model and of the twin, test part, history not masked.
        error (float): standard error of their difference from seeds, see :func:`means_and_error`.
        test (PairedTest | None): over users where both have ranks of the same users, else over seeds from three on;
            corrected by Holm over all pairs.
        over (str): ``users``, ``seeds`` or nothing.
    """

    dataset: str
    model: str
    twin: str
    seeds: tuple
    metric: str
    mean: float
    other: float
    error: float
    test: object = None
    over: str = ""

    @property
    def difference(self):
        """Of the means."""
        return self.mean - self.other

    @property
    def relative(self):
        """Size of the difference as a share of the mean of both; 0 where both are 0."""
        return 2 * abs(self.difference) / (self.mean + self.other) if self.difference else 0.0

    @property
    def is_beyond_seeds(self):
        """Whether the difference is more than two standard errors from seeds."""
        return abs(self.difference) > 2 * self.error


def count_words(entries):
    """Paper -> verdict -> how many published rows, in the order of ``VERDICTS``."""
    papers = {}
    for entry in entries:
        papers.setdefault(paper_of(entry.table), dict.fromkeys(VERDICTS, 0))[entry.word] += 1
    return papers


TWIN_METRICS = (("hit@10", "hit@20"), ("ndcg@10", "mrr@20"))


def compare_twins(evidence, plan):
    """Every model with a twin on every data set that has runs of both.

    Args:
        evidence (Evidence): what :func:`recbole_diffusion.atlas.evidence.gather` found.
        plan (Plan): names the twins.

    Returns:
        list[Pair]: in the order of the plan, for each pair a hit rate and a metric that ranks, the first of ``TWIN_METRICS`` that
        both have; p-values corrected over all of them.
    """
    pairs = []
    for model, twin in plan.twins.items():
        for dataset in dict.fromkeys(dataset for dataset, _ in evidence.runs):
            runs, others = evidence.runs.get((dataset, model)), evidence.runs.get((dataset, twin))
            if runs and others:
                pairs += compare_pair(dataset, (model, runs), (twin, others), evidence.spread)
    correct([pair.test for pair in pairs])
    return pairs


def compare_seeds(evidence):
    """Trainings of one setting that differ in the seed alone, by the test over users that twins are compared by.

    That test knows of users only, so what it finds here is what it makes of chance in training.

    Args:
        evidence (Evidence): what :func:`recbole_diffusion.atlas.evidence.gather` found.

    Returns:
        list[Pair]: every two runs of a setting that both have ranks, with p-values that are not corrected.
    """
    pairs = [pair for runs in evidence.repeated for one, other in combinations(runs, 2)
             for pair in compare_pair(one["dataset"], (one["row"], [one]), (other["row"], [other]), evidence.spread)]  # fmt: skip
    return [pair for pair in pairs if pair.over == "users"]


def compare_pair(dataset, model, twin, spread):
    """A :class:`Pair` for a hit rate and one for a metric that ranks, the first of ``TWIN_METRICS`` that all runs have."""
    ranks = [ranks_of(runs) for _, runs in (model, twin)]
    found = (compare_by(metrics, dataset, model, twin, ranks, spread) for metrics in TWIN_METRICS)
    return [pair for pair in found if pair]


def compare_by(metrics, dataset, model, twin, ranks, spread):
    """One :class:`Pair`, or None where no metric is one of all runs."""
    (label, runs), (other, others) = model, twin
    results = [[run["test_result_unmasked"] for run in group] for group in (runs, others)]
    metric = next((name for name in metrics if all(name in result for group in results for result in group)), None)
    if metric is None:
        return None
    mean, base, error = means_and_error(*([result[metric] for result in group] for group in results), spread)
    pair = Pair(dataset, label, other, (len(runs), len(others)), metric, mean, base, error)
    pair.test = paired_over_users(*ranks, metric)
    if pair.test:
        pair.over = "users"
    elif min(pair.seeds) >= MIN_SEEDS:
        found = [{run["seed"]: run["test_result_unmasked"][metric] for run in group} for group in (runs, others)]
        pair.test = paired_over_seeds(*found)
        pair.over = "seeds" if pair.test else ""
    return pair


def means_and_error(values, others, spread):
    """Means of both, and the standard error of their difference from seeds.

    One seed has no deviation of its own: it is taken to have that of the other side, relative to the mean, at least ``spread``.
    """
    usual = max([spread, *relative_deviations([values, others])])
    (mean, deviation), (base, base_deviation) = (mean_and_deviation(group, usual) for group in (values, others))
    return mean, base, math.hypot(deviation / len(values) ** 0.5, base_deviation / len(others) ** 0.5)


def ranks_of(runs):
    """Ranks of some runs, which lie beside them; None where one has none, such as that of a CSV page."""
    if not all("settings" in run for run in runs):
        return None
    return load_ranks([{**run, "ranks_file": str(run["file"].with_suffix(".npz"))} for run in runs], "unmasked")


def worth_of_masking(evidence):
    """Data set -> metric -> median over all rows of what masking the history adds, as a share of the figure; and how many rows."""
    found = {}
    for (dataset, _), runs in evidence.runs.items():
        for name in USUAL:
            before = [run["test_result_unmasked"].get(name) for run in runs]
            after = [run["test_result_masked"].get(name) for run in runs]
            if runs and all(before) and all(value is not None for value in after):
                lift = statistics.fmean(after) / statistics.fmean(before) - 1
                found.setdefault(dataset, {}).setdefault(name, []).append(lift)
    return {dataset: {name: (statistics.median(values), len(values)) for name, values in lifts.items()}
            for dataset, lifts in found.items()}  # fmt: skip


def below_counter(evidence, counters=("Successors", "CoOccurrence", "SKNN")):
    """Data set -> counter -> its figures, and the published rows whose last deciding figure is below it."""
    found = {}
    for (dataset, label), runs in evidence.runs.items():
        if label not in counters or not runs:
            continue
        result = runs[0]["test_result_unmasked"]
        rows = [entry for entry in evidence.entries if entry.dataset == dataset and row_metric(entry) in result
                and entry.published[row_metric(entry)] is not None and not (entry.claim and entry.claim.kind == "data")]  # fmt: skip
        low = [entry for entry in rows if entry.published[row_metric(entry)] < result[row_metric(entry)]]
        found.setdefault(dataset, {})[label] = (result, low, len(rows))
    return found


def row_metric(entry):
    """The last deciding metric of a row, which ranks."""
    return list(entry.published)[-1]


def timed(runs):
    """Those of which the time of training on a CPU was kept; the formula of energy knows threads only."""
    return [run for run in runs if run.get("seconds", {}).get("training") and str(run.get("device", "cpu")) == "cpu"]


def cost_of(runs):
    """Mean seconds of training and kilowatt-hours of a run on a CPU, or None where nothing was kept of its time."""
    runs = timed(runs)
    seconds = [run["seconds"]["training"] for run in runs]
    if not seconds:
        return None
    threads = max(run.get("threads") or 1 for run in runs)
    mean = statistics.fmean(seconds)
    return mean, mean * threads * WATTS_PER_THREAD / 3.6e6


def missing(evidence, sizes):
    """Published rows without a run that could be run, and how long that would take: the same row on another data set, by its interactions.

    Args:
        evidence (Evidence): what was found.
        sizes (dict[str, int]): interactions of the data sets that there are; rows on others are not counted.

    Returns:
        list[tuple]: table, data set, row, and seconds or None where no run of the row exists; once per data set and row.
    """
    known, found = {}, {}
    for entry in evidence.entries:
        cost = cost_of(entry.runs)
        if cost and entry.dataset in sizes:
            known.setdefault(entry.row, []).append(cost[0] / sizes[entry.dataset])
    for entry in evidence.entries:
        if (entry.word == NOT_RUN or not entry.runs) and entry.dataset in sizes and not entry.lacks:  # one that cannot be true may have none
            rate = statistics.fmean(known[entry.row]) if entry.row in known else None
            seconds = rate * sizes[entry.dataset] if rate else None
            found.setdefault((entry.dataset, entry.row), (entry.table, entry.dataset, entry.row, seconds))
    return sorted(found.values(), key=lambda row: (row[3] is None, row[3] or 0))
