"""Comparison tables in LaTeX, for the packages ``booktabs`` and ``graphicx``."""

import math
import re

from recbole_diffusion.reports.significance import ALPHA
from recbole_diffusion.reports.study import (
    NOTHING,
    PROTOCOLS,
    column,
    describe_row,
    finished,
    format_figure,
    group_by,
    improvements,
    metric_title,
    published_figures,
    row_under_test,
    significant_gains,
    usual_metrics,
    with_runs,
)
from recbole_diffusion.reports.validation import validation_lines

MOST_COLUMNS = 4  # beside labels of twenty letters, what the line of an article holds
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # never larger, so only what is too wide
ESCAPES = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
           "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", NOTHING: "--",
           "‡": r"$^{\ddagger}$", "<": r"$<$", ">": r"$>$"}  # fmt: skip


def format_latex(dataset, results, study):
    """One ``table`` per protocol, with ``\\label`` and the width of the line at most.

    Args:
        dataset (str): name.
        results (list[dict]): all of this data set.
        study (Study): what they are about; without metrics of its own HR@10 and NDCG@10 are shown.

    Returns:
        str: LaTeX source.
    """
    rows = group_by(results, "row")
    names = usual_metrics(results, study)
    figures = published_figures(dataset, rows, study)[0]
    if figures and not with_runs(rows):
        tables = [published_table(dataset, rows, names, study)]
    else:
        tables = [protocol_table(dataset, rows, names, study, *protocol) for protocol in PROTOCOLS.items()]
        tables += [validation_table(dataset, rows, names, study)] if study.validation else []
    return "\n".join(["% \\usepackage{booktabs,graphicx}", *tables])


def protocol_table(dataset, rows, names, study, title, protocol):
    """The table of one protocol; published figures stand in italics where the history is not masked."""
    ours = row_under_test(rows, study)
    gains, stars = improvements(rows, protocol, names, ours), significant_gains(rows, protocol, names, ours)
    figures, doubts = published_figures(dataset, rows, study) if protocol == "test_result_unmasked" else ({}, {})
    blocks = []
    for some in blocks_of(names):
        columns, lines = [column(rows, protocol, name) for name in some], []
        for i, (label, cells) in enumerate(rows.items()):
            star = [name in stars and label == ours for name in some]
            lines.append([escape(describe_row(label, cells)), *map(mark, [texts[i] for texts in columns], star)])
            if label in figures:
                marks = [published(figures[label].get(name), (label, name) in doubts, study.unit) for name in some]
                lines.append([r"\quad\textit{published}", *marks])
        if gains:
            shown = [f"{gains[name][1]:+.1%}" if name in gains else NOTHING for name in some]
            lines += [r"\midrule", [escape(f"gain of {ours}"), *map(escape, shown)]]
        blocks.append((some, lines))
    caption = f"{dataset}, history {title}. Mean and standard deviation over {count_seeds(rows)}; best bold, second"
    caption += " best underlined." + about_stars(stars) + (" Figures marked ‡ cannot be true." if doubts else "")
    return table(blocks, caption, ["tab", study.name, dataset, "masked" if title == "masked" else "unmasked"])


def validation_table(dataset, rows, names, study):
    """Best validation figures, test figures and published ones of every row, a line each."""
    done = {label: cells for label, cells in rows.items() if finished(cells)}
    blocks = [
        (some, [[escape(f"{label}, {kind}"), *(mark((text, None), False) for text in texts)]
                for label, kind, texts in validation_lines(dataset, done, some, study)])
        for some in blocks_of(names)
    ]  # fmt: skip
    caption = f"{dataset}. Best validation is no test figure: it is the best of each metric over the epochs of a run."
    return table(blocks, caption, ["tab", study.name, dataset, "validation"])


def published_table(dataset, rows, names, study):
    """The table of what is published, where nothing was trained."""
    figures, doubts = published_figures(dataset, rows, study)
    blocks = [
        (some, [[escape(label), *(published(values.get(name), (label, name) in doubts, study.unit) for name in some)]
                for label, values in figures.items()])
        for some in blocks_of(names)
    ]  # fmt: skip
    caption = f"{dataset}, published figures." + (" Those marked ‡ cannot be true." if doubts else "")
    return table(blocks, caption, ["tab", study.name, dataset, "published"])


def table(blocks, caption, label):
    """A ``table`` environment.

    Args:
        blocks (list[tuple]): metrics and lines that stand above one another, lists of ready cells or rules.
        caption (str): plain text.
        label (list[str]): parts of the label.
    """
    width, lines = max(len(names) for names, _ in blocks), [r"\toprule"]
    for names, block in blocks:
        head = ["", *(escape(metric_title(name)) for name in names)]
        lines += [r"\midrule"] * (len(lines) > 1) + [head, r"\midrule", *block]
    texts = [line if isinstance(line, str) else format_line(line, width) for line in [*lines, r"\bottomrule"]]
    return "\n".join([
        r"\begin{table}[t]", r"\centering", r"\small", rf"\caption{{{escape(caption)}}}", rf"\label{{{slug(label)}}}",
        FIT, rf"\begin{{tabular}}{{l{'c' * width}}}", *texts, r"\end{tabular}}", r"\end{table}",
    ])  # fmt: skip


def format_line(cells, width):
    """One line of a table from ready cells, with as many as its widest line has."""
    return " & ".join([*cells, *[""] * (width + 1 - len(cells))]) + r" \\"


def blocks_of(names):
    """Metrics in groups of about equal number, none wider than a line."""
    size = math.ceil(len(names) / math.ceil(len(names) / MOST_COLUMNS))
    return [names[i : i + size] for i in range(0, len(names), size)]


def about_stars(stars):
    """What a star of a table means."""
    over = " and ".join(sorted(set(stars.values()), reverse=True))
    return f" * better than the best other row, paired t-test over {over}, Holm, p < {ALPHA}." if stars else ""


def count_seeds(rows):
    """How many runs a row has, as words."""
    counts = sorted({len(finished(cells)) for cells in rows.values()} - {0})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    return f"{words} seed{'' if words == '1' else 's'}"


def mark(cell, has_star):
    """A mean with the mark of its place and of significance, and a small deviation."""
    text, place = cell
    mean, _, deviation = text.partition(" ± ")
    mean = escape(mean)
    shown = {1: rf"\textbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(place, mean) + ("$^{*}$" if has_star else "")
    return rf"{shown}{{\scriptsize\,$\pm$\,{deviation}}}" if deviation else shown


def published(value, is_impossible, unit):
    """A published figure in italics, with as many places as it was printed with."""
    figure, _, doubt = format_figure(value, is_impossible, unit).partition(" ")
    return escape(NOTHING) if value is None else rf"\textit{{{figure}}}{escape(doubt)}"


def slug(parts):
    """A label of letters and digits that LaTeX and its tools take as they are."""
    words = [re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts]
    return ":".join([words[0], "-".join(word for word in words[1:] if word)])


def escape(text):
    """Text in which no character means anything to LaTeX."""
    return "".join(ESCAPES.get(character, character) for character in text)
