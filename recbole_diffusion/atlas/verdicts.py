"""One word for a published row beside our runs of it, from the figures and from what is known of how they were made."""

import statistics
from dataclasses import dataclass, field

NOT_RUN = "not run"
UNPUBLISHED = "not published"
IMPOSSIBLE = "cannot be true"
REPRODUCED = "reproduced"
LEAKS = "leaks"
VALIDATION = "validation figure"
OTHER = "other protocol"
ABOVE = "above"
BELOW = "below"
VERDICTS = {
    NOT_RUN: "no run of ours yet",
    UNPUBLISHED: "the paper has no figure for these data",
    IMPOSSIBLE: "one of the published figures that decide contradicts others of the row",
    REPRODUCED: "ours is within two deviations of the published figures",
    LEAKS: "a run of ours that sees test labels is nearer to the published figures than the honest one",
    VALIDATION: "the released program prints validation figures, and ours are nearer to the published ones than our test figures",
    OTHER: "the published figures are of other data, or of a masked history to which ours, masked, are nearer",
    ABOVE: "ours is better than published, by the figure that is farther away",
    BELOW: "ours is worse than published, likewise",
}
DEVIATIONS = 2
KNOWN = ("validation", "masked", "data")  # what may be known of a published row, see Claim


@dataclass(frozen=True)
class Claim:
    """What is known of how published figures were made, from a paper's text or its released code.

    Attributes:
        kind (str): ``validation`` = the program prints validation figures; ``masked`` = the history was masked; ``data`` = the
            data are not ours.
        why (str): how it is known.
    """

    kind: str
    why: str


@dataclass
class Figures:
    """Our figures of a row on a data set, by metric as in RecBole; what was not run or kept is empty.

    Attributes:
        test (dict[str, list[float]]): one per seed, history not masked.
        masked (dict[str, list[float]]): the same runs, history masked.
        validation (dict[str, list[float]]): the best over the epochs, per seed.
        leaking (dict[str, list[float]]): test figures of a run of the same row that sees test labels.
    """

    test: dict = field(default_factory=dict)
    masked: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    leaking: dict = field(default_factory=dict)


def verdict(published, ours, impossible=(), claim=None, spread=0.0):
    """The word for a row.

    Args:
        published (dict[str, float | None]): the metrics that decide, such as HR@10 and NDCG@10, as fractions.
        ours (Figures): our runs.
        impossible (Collection[str]): metrics of the published row that cannot be true.
        claim (Claim, optional): what is known of the published figures.
        spread (float): relative deviation that a figure of a single seed is taken to have.

    Returns:
        str: a key of ``VERDICTS``. Figures that decide must agree where they are close: a row is reproduced when all of
        them are; whether it is above or below is told by the one that is farther away.
    """
    names = [name for name in published if ours.test.get(name)]
    if impossible:
        return IMPOSSIBLE
    if not names:
        return NOT_RUN
    if None in published.values():
        return UNPUBLISHED
    honest = distance(published, ours.test, names)
    kind = claim.kind if claim else None
    if is_nearer(published, ours.leaking, names, honest):
        return LEAKS
    if kind == "data":
        return OTHER
    if all(is_reproduced(published[name], ours.test[name], spread) for name in names):
        return REPRODUCED
    if kind == "validation" and is_nearer(published, ours.validation, names, honest):
        return VALIDATION
    if kind == "masked" and is_nearer(published, ours.masked, names, honest):
        return OTHER
    farthest = max(names, key=lambda name: distance(published, ours.test, [name]))
    return ABOVE if statistics.fmean(ours.test[farthest]) > published[farthest] else BELOW


def is_reproduced(published, values, spread):
    """Whether the mean of ours is within two deviations of a published figure; one seed has the deviation of others."""
    mean, deviation = mean_and_deviation(values, spread)
    return abs(mean - published) <= DEVIATIONS * deviation


def mean_and_deviation(values, spread):
    """Mean over seeds, and their sample deviation, for one seed ``spread`` times the mean."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) if len(values) > 1 else spread * mean


def is_nearer(published, figures, names, honest):
    """Whether figures of another kind are nearer to the published ones than the honest ones are."""
    return all(figures.get(name) for name in names) and distance(published, figures, names) < honest


def distance(published, figures, names):
    """Mean over metrics of the relative distance of our means from the published figures."""
    return statistics.fmean(abs(statistics.fmean(figures[name]) / published[name] - 1) for name in names)


def usual_spread(groups):
    """Relative deviation between seeds that is usual: the median over all figures of several seeds.

    Rows in which nothing is random, such as counters, have no part in it; runs that are kept as files and on a page count once.

    Args:
        groups (Iterable[list[float]]): figures of one metric, one list per row and data set.

    Returns:
        float: 0 when no such row has several seeds.
    """
    found = relative_deviations(set(map(tuple, groups)))
    return statistics.median(found) if found else 0.0


def relative_deviations(groups):
    """Sample deviation over mean, of those groups of figures that differ."""
    return [statistics.stdev(values) / statistics.fmean(values) for values in groups if len(set(values)) > 1]


def deciding(metrics):
    """The two metrics of a table that decide: hit rate and the one that ranks, at 10 where they are there, else at the largest
    cut-off."""
    found = []
    for family in (("hit", "recall"), ("ndcg", "mrr")):
        cutoffs = {int(name.partition("@")[2]): name for name in metrics if name.partition("@")[0] in family}
        if cutoffs:
            found.append(cutoffs.get(10) or cutoffs[max(cutoffs)])
    return found
