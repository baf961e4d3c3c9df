"""Comparison tables in LaTeX, for the package ``booktabs``."""

from recbole_diffusion.reports.study import (
    NOTHING,
    PROTOCOLS,
    column,
    describe_row,
    finished,
    group_by,
    improvements,
    metric_title,
    published_figures,
    row_under_test,
    shown_metrics,
)

ESCAPES = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
           "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", NOTHING: "--",
           "‡": r"$^{\ddagger}$", "<": r"$<$", ">": r"$>$"}  # fmt: skip


def format_latex(dataset, results, study):
    """One ``table`` per protocol; ``\\usepackage{booktabs}`` is all that it needs.

    Args:
        dataset (str): name.
        results (list[dict]): all of this data set.
        study (Study): what they are about.

    Returns:
        str: LaTeX source.
    """
    rows = group_by(results, "row")
    names = shown_metrics(results, study)
    tables = [format_table(dataset, rows, names, study, *protocol) for protocol in PROTOCOLS.items()]
    return "\n".join(["% \\usepackage{booktabs}", *tables])


def format_table(dataset, rows, names, study, title, protocol):
    """The table of one protocol; published figures stand in brackets where the history is not masked."""
    columns = [column(rows, protocol, name) for name in names]
    figures, doubts = published_figures(dataset, rows, study) if protocol == "test_result_unmasked" else ({}, {})
    lines = []
    for i, (label, cells) in enumerate(rows.items()):
        texts = [mark(*texts[i]) for texts in columns]
        lines.append(format_line([describe_row(label, cells)], texts))
        if label in figures:
            marks = [published(figures[label].get(name), (label, name) in doubts) for name in names]
            lines.append(format_line([], [r"\quad\textit{published}", *marks]))
    ours = row_under_test(rows, study)
    gains = improvements(rows, protocol, names, ours)
    if gains:
        texts = [escape(f"{gains[name][1]:+.1%}") if name in gains else escape(NOTHING) for name in names]
        lines += [r"\midrule", format_line(["gain of " + ours], texts)]
    caption = f"{dataset}, history {title}. Mean and standard deviation over {count_seeds(rows)}; best bold, second"
    caption += " best underlined." + (" Figures marked ‡ cannot be true." if doubts else "")
    return "\n".join([
        r"\begin{table}[t]", r"\centering", r"\small", rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(names)}}}", r"\toprule",
        format_line(["", *map(metric_title, names)], []), r"\midrule", *lines, r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


def count_seeds(rows):
    """How many runs a row has, as words."""
    counts = sorted({len(finished(cells)) for cells in rows.values()} - {0})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    return f"{words} seed{'' if words == '1' else 's'}"


def mark(text, place):
    """A cell with the mark of its place."""
    return {1: rf"\textbf{{{escape(text)}}}", 2: rf"\underline{{{escape(text)}}}"}.get(place, escape(text))


def published(value, is_impossible):
    """A published figure in small italics."""
    return escape(NOTHING) if value is None else rf"\textit{{{value:.4f}}}" + (escape("‡") if is_impossible else "")


def format_line(plain, ready):
    """One line of a table from texts to escape and ready cells."""
    return " & ".join([*map(escape, plain), *ready]) + r" \\"


def escape(text):
    """Text in which no character means anything to LaTeX."""
    return "".join(ESCAPES.get(character, character) for character in text)
