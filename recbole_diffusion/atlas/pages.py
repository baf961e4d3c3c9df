"""The atlas as Markdown and CSV."""

import csv
import io
import statistics

from recbole_diffusion.atlas.evidence import entries_by, is_cut
from recbole_diffusion.atlas.summary import (
    WATTS_PER_THREAD,
    below_counter,
    compare_seeds,
    compare_twins,
    cost_of,
    count_words,
    missing,
    timed,
    worth_of_masking,
)
from recbole_diffusion.atlas.verdicts import VERDICTS, mean_and_deviation
from recbole_diffusion.experiments.progress import format_duration
from recbole_diffusion.reports.significance import ALPHA
from recbole_diffusion.reports.study import NOTHING, PROTOCOLS, format_mean, format_p, metric_title
from recbole_diffusion.reports.tables import bullets, markdown_table

ABOUT = """\
Every row of the papers' tables beside runs of this package: leave-one-out or ready-made sessions, ranking of all items, history not masked,
the epoch chosen on the validation part. Written by `{command}` from kept runs; no verdict is typed.

Of several settings of a row, the one with most seeds counts, of these the best on the validation part; the test part has no say. Two metrics
decide, a hit rate and one that ranks. A row of one seed is taken to have the relative deviation that is usual between seeds here,
{spread:.1%} (median over all rows of several seeds whose figures differ), in brackets. † = a training that its number of epochs ended, so that more of it could
change the figure and the verdict."""


def format_atlas(evidence, plan, command, sizes, pictures=()):
    """The whole page as Markdown.

    Args:
        evidence (Evidence): what :func:`recbole_diffusion.atlas.evidence.gather` found.
        plan (Plan): the file of the atlas.
        command (str): what writes the page.
        sizes (dict[str, int]): interactions of the data sets that there are.
        pictures (Collection[str]): names of the files in the folder ``pictures`` beside the page, without suffix.
    """
    parts = ["# Atlas of the papers' tables", ABOUT.format(command=command, spread=evidence.spread), format_words(), format_summary(evidence, plan)]
    for title, entries in entries_by(evidence.entries, "title").items():
        parts += [f"## {title}", show(f"atlas.{entries[0].table}", pictures), format_table(entries, evidence, plan)]
    parts += [format_beyond(evidence, plan), "## What a run costs", format_costs(evidence),
              *(show(name, pictures) for name in pictures if name.endswith(".costs")), "## What is missing", format_missing(evidence, sizes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def show(name, pictures):
    """A picture, where it was drawn."""
    return f"![{name}](pictures/{name}.png)" if name in pictures else ""


def format_words():
    """The legend of the verdicts."""
    return bullets(f"**{word}**: {meaning}" for word, meaning in VERDICTS.items())


# Summary


def format_summary(evidence, plan):
    """What can be quoted."""
    papers = count_words(evidence.entries)
    columns = {"paper": list(papers), "rows": [sum(words.values()) for words in papers.values()]}
    columns.update({word: [words[word] for words in papers.values()] for word in VERDICTS})
    table = markdown_table({title: [str(value) for value in values] for title, values in columns.items()})
    return "\n\n".join(["## In short", "Published rows, one per data set, by verdict:", table, format_twins(evidence, plan),
                        format_seeds(evidence), format_masking(evidence), format_counters(evidence)])  # fmt: skip


def format_twins(evidence, plan):
    """Which models beat themselves without their idea."""
    pairs = compare_twins(evidence, plan)
    if not pairs:
        return ""
    better = [pair for pair in pairs if pair.difference > 0]
    sure = [pair for pair in pairs if pair.test and pair.test.p_holm < ALPHA]
    text = (
        f"A model beside its twin, which is the same without its diffusion, noise or adversaries: ahead in {len(better)} of "
        f"{len(pairs)} comparisons; of {len(sure)} that are more than chance given these trainings (p < {ALPHA}, paired, Holm's correction over all), "
        f"{for_whom(sure)}; of {sum(pair.is_beyond_seeds for pair in sure)} that are more than two standard errors of the seeds as well, "
        f"{for_whom([pair for pair in sure if pair.is_beyond_seeds])}. One seed is taken to have the deviation of the other side, "
        "at least the usual one."
    )
    table = markdown_table({
        "data set": [pair.dataset for pair in pairs],
        "model": [pair.model for pair in pairs],
        "seeds": [" / ".join(map(str, pair.seeds)) for pair in pairs],
        "metric": [metric_title(pair.metric) for pair in pairs],
        "model's": [f"{pair.mean:.4f}" for pair in pairs],
        "twin's": [f"{pair.other:.4f}" for pair in pairs],
        "difference": [f"{pair.difference:+.4f}" for pair in pairs],
        "standard error of the seeds": [f"{pair.error:.4f}" for pair in pairs],
        "p": [f"{format_p(pair.test)} (over {pair.over})" if pair.test else NOTHING for pair in pairs],
    })  # fmt: skip
    return f"### Does the idea help?\n\n{text}\n\n{table}"


def for_whom(pairs):
    """How many comparisons each side has won."""
    won = sum(pair.difference > 0 for pair in pairs)
    return f"{won} for the model and {len(pairs) - won} for its twin"


def format_seeds(evidence):
    """What the test over users makes of trainings that differ in their seeds alone."""
    metrics = entries_by(compare_seeds(evidence), "metric")
    if not metrics:
        return ""
    apart = {name: [pair.relative for pair in pairs] for name, pairs in metrics.items()}
    table = markdown_table({
        "metric": [metric_title(name) for name in metrics],
        "pairs of trainings": [str(len(pairs)) for pairs in metrics.values()],
        **{f"p < {level}": [f"{share_below(level, pairs):.0%}" for pairs in metrics.values()] for level in (ALPHA, 0.001)},
        "median difference": [f"{statistics.median(found):.1%}" for found in apart.values()],
        "one in ten differs by": [f"{statistics.quantiles(found, n=10, method='inclusive')[-1]:.1%}" if len(found) > 1 else NOTHING
                                  for found in apart.values()],
    })  # fmt: skip
    text = (
        "Two trainings of one setting that differ in the seed alone, by the same test over users, without correction. A test that knew of seeds "
        "would find 5% of them different; what it finds beyond that is chance of training, which a test over users takes for a difference."
    )
    return f"### What a seed alone does\n\n{text}\n\n{table}"


def share_below(level, pairs):
    """Share of comparisons with a smaller p-value."""
    return sum(pair.test.p < level for pair in pairs) / len(pairs)


def format_masking(evidence):
    """What masking the history is worth."""
    found = worth_of_masking(evidence)
    rows = [f"{dataset}: " + ", ".join(f"{metric_title(name)} {lift:+.1%}" for name, (lift, _) in lifts.items())
            + f" ({max(count for _, count in lifts.values())} rows)" for dataset, lifts in found.items()]  # fmt: skip
    return f"### What masking the history is worth\n\nMedian over all rows, relative to the history not masked:\n\n{bullets(rows)}"


def format_counters(evidence):
    """What a counter reaches, and which published rows are below it."""
    lines = []
    for dataset, counters in below_counter(evidence).items():
        for label, (result, low, count) in counters.items():
            names = [name for name in ("hit@10", "ndcg@10", "mrr@10") if name in result][:2]
            figures = ", ".join(f"{metric_title(name)} {result[name]:.4f}" for name in names)
            rows = ", ".join(dict.fromkeys(entry.row for entry in low))
            beaten = f"; {len(low)} of {count} published rows are below it in the metric that ranks: {rows}" if low else ""
            lines.append(f"{dataset}, {label}: {figures}{beaten}")
    return f"### What a counter reaches\n\n{bullets(lines)}"


# Tables


def format_table(entries, evidence, plan):
    """One published table: a line per data set and row, and what is known of its figures."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.published))
    columns = {"data set": [e.dataset for e in entries], "row": [page_link(e, plan) for e in entries]}
    for name in names:
        columns[f"{metric_title(name)} published"] = [format_published(entry, name) for entry in entries]
        columns[f"{metric_title(name)} ours"] = [format_ours(entry, name, evidence.spread) for entry in entries]
    columns["seeds"] = [str(len(entry.runs) or NOTHING) for entry in entries]
    columns["seeing test labels"] = [format_leaking(entry, names) for entry in entries]
    columns["verdict"] = [entry.word for entry in entries]
    if not any(entry.figures.leaking for entry in entries):
        del columns["seeing test labels"]
    known = dict.fromkeys(f"{e.row if e.row in plan.claims.get(e.table, {}) else 'all rows'}: {e.claim.why}" for e in entries if e.claim)
    doubts = doubts_of(entries, names)
    parts = [markdown_table(columns)]
    parts += ["What is known of the published figures:", bullets(known)] if known else []
    parts += ["‡ cannot be true, even allowing for rounding:", bullets(doubts)] if doubts else []
    hidden = [line for line in doubts_of(entries) if line not in doubts]
    parts += ["Nor can these of their figures at other cut-offs, which decide nothing here:", bullets(hidden)] if hidden else []
    return "\n\n".join(parts)


def doubts_of(entries, names=None):
    """Why printed figures cannot be true, of some metrics or of all: lines, once each."""
    return list(dict.fromkeys(f"{entry.dataset}, {entry.row}: {reason}" for entry in entries for name, reason in entry.doubts.items()
                              if names is None or name in names))  # fmt: skip


def page_link(entry, plan):
    """The row with a link to the page that explains it."""
    page = plan.pages.get(entry.row)
    return f"[{entry.row}]({page})" if page else entry.row


def format_published(entry, name):
    """A published figure, marked when it cannot be true."""
    value = entry.published.get(name)
    return NOTHING if value is None else f"{value:.4f}{' ‡' if name in entry.doubts else ''}"


def format_ours(entry, name, spread):
    """Our mean with its deviation; in brackets where it is that of other rows."""
    values = entry.figures.test.get(name)
    if not values:
        return NOTHING
    mean, deviation = mean_and_deviation(values, spread)
    text = f"{mean:.4f} ± {deviation:.4f}" if len(values) > 1 else f"{mean:.4f} (± {deviation:.4f})"
    return f"{text} †" if is_cut(entry.runs) else text


def format_leaking(entry, names):
    """Figures of a run that sees test labels."""
    found = [entry.figures.leaking[name] for name in names if entry.figures.leaking.get(name)]
    return " / ".join(f"{sum(values) / len(values):.4f}" for values in found) or NOTHING


def format_beyond(evidence, plan):
    """Floors, twins and models of other papers, under both protocols."""
    lines = [(dataset, label, runs) for (dataset, label), runs in evidence.runs.items()
             if label in plan.beyond or label in plan.twins.values()]  # fmt: skip
    if not lines:
        return ""
    names = {title: [name for name in (("hit@10", "ndcg@10", "mrr@10")) if any(name in run[key] for *_, runs in lines for run in runs)]
             for title, key in PROTOCOLS.items()}  # fmt: skip
    columns = {"data set": [dataset for dataset, *_ in lines], "row": [label + (" †" if is_cut(runs) else "") for _, label, runs in lines]}
    for title, key in PROTOCOLS.items():
        for name in names[title]:
            found = [[run[key][name] for run in runs if name in run[key]] for *_, runs in lines]
            columns[f"{metric_title(name)} {title}"] = [format_mean(values) if values else NOTHING for values in found]
    columns["seeds"] = [str(len(runs)) for *_, runs in lines]
    return f"## Floors, twins, and models of other papers\n\n{markdown_table(columns)}"


# Costs


def format_costs(evidence):
    """Time and energy of the runs that count."""
    rows = [(dataset, label, timed(runs), cost_of(runs)) for (dataset, label), runs in evidence.runs.items()]
    rows = [row for row in rows if row[3]]
    about = (
        "Mean seconds of training of a run on a CPU, beside other jobs of the machine, so that they are upper bounds; energy = seconds × threads "
        f"× {WATTS_PER_THREAD} W per thread, an assumption that only serves to compare."
    )
    table = markdown_table({
        "data set": [dataset for dataset, *_ in rows],
        "row": [label for _, label, *_ in rows],
        "epochs": [f"{sum(run['epochs'] or 0 for run in runs) / len(runs):.4g}" for _, _, runs, _ in rows],
        "seconds": [f"{cost[0]:.0f}" for *_, cost in rows],
        "kWh": [f"{cost[1]:.4f}" for *_, cost in rows],
    })  # fmt: skip
    return f"{about}\n\n{table}"


def format_missing(evidence, sizes):
    """Rows without a run and how long they would take."""
    return "\n\n".join(filter(None, [format_gaps(missing(evidence, sizes)), format_lacking(evidence)]))


def format_lacking(evidence):
    """Rows that the data at hand cannot have, by what they lack; empty without such a row."""
    found = {}
    for entry in evidence.entries:
        if entry.lacks and not entry.runs:
            found.setdefault(entry.lacks, {}).setdefault(entry.dataset, {})[entry.row] = None  # once, in order
    lines = ["; ".join(f"{dataset}: {', '.join(rows)}" for dataset, rows in places.items()) + f" ({why})" for why, places in found.items()]
    return f"Rows that cannot be run on the data at hand:\n\n{bullets(lines)}" if lines else ""


def format_gaps(rows):
    """What :func:`missing` found."""
    if not rows:
        return "Nothing: every row that data at hand can have has a run."
    known = [seconds for *_, seconds in rows if seconds]
    lines = [f"{dataset}, {row}: {'about ' + format_duration(seconds) if seconds else 'no run on other data to judge by'}"
             for _, dataset, row, seconds in rows]  # fmt: skip
    about = (
        f"{len(rows)} rows on data that are at hand have no run, cheapest first; one seed of those whose row has run elsewhere would take "
        f"{format_duration(sum(known))} on one thread, by interactions."
    )
    return f"{about}\n\n{bullets(lines)}"


# CSV


def format_csv(entries, spread):
    """One line per published figure that decides: everything that the verdict rests on."""
    text = io.StringIO()
    keys = ["table", "dataset", "row", "metric", "published", "cannot_be_true", "ours", "deviation", "seeds", "masked", "validation",
            "leaking", "verdict"]  # fmt: skip
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        for name, value in entry.published.items():
            figures = entry.figures
            ours = mean_and_deviation(figures.test[name], spread) if figures.test.get(name) else (None, None)
            others = {key: mean_and_deviation(found[name], 0)[0] if found.get(name) else None for key, found in
                      (("masked", figures.masked), ("validation", figures.validation), ("leaking", figures.leaking))}  # fmt: skip
            line = {"table": entry.table, "dataset": entry.dataset, "row": entry.row, "metric": metric_title(name), "published": value,
                    "cannot_be_true": name in entry.doubts, "ours": ours[0], "deviation": ours[1], "seeds": len(entry.runs), **others,
                    "verdict": entry.word}  # fmt: skip
            writer.writerow({key: f"{found:.5f}" if isinstance(found, float) else found for key, found in line.items()})
    return text.getvalue()


