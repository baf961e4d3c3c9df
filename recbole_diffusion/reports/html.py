"""One self-contained HTML page of a comparison: no scripts, no fonts, no links to the outside."""

from html import escape

from recbole_diffusion.reports.tables import (
    ABOUT_TESTS,
    NOTHING,
    PROTOCOLS,
    column,
    comparison_columns,
    comparisons,
    describe_row,
    finished,
    format_heading,
    group_by,
    improvements,
    is_smaller_better,
    metric_title,
    published_columns,
    row_facts,
    row_under_test,
    run_command,
    shown_metrics,
)

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #d5dbe1; --fill: #7fb2de; --head: #f3f6f9; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); margin: 0 auto;
  padding: 24px; max-width: 1280px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 40px 0 8px; border-bottom: 2px solid var(--ink); }
h3 { font-size: 16px; margin: 24px 0 6px; } p, ul { max-width: 90ch; margin: 6px 0; } ul { padding-left: 20px; }
nav a { margin-right: 14px; } a { color: #0b5394; }
.scroll { overflow-x: auto; margin: 6px 0 10px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }
th { background: var(--head); font-weight: 600; white-space: normal; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; } tr.ours td:first-child { font-weight: 600; }
tr.gain td { border-top: 2px solid var(--line); color: var(--soft); }
.bar { background-image: linear-gradient(var(--fill), var(--fill)); background-repeat: no-repeat;
  background-position: left bottom; background-size: 0 5px; }
.std { display: block; font-size: 12px; color: var(--soft); }
.best { font-weight: 700; } .second { text-decoration: underline; text-underline-offset: 3px; }
.doubt { color: #a03000; } .soft { color: var(--soft); } .error { color: #a03000; }
pre { background: var(--head); padding: 10px 12px; overflow-x: auto; font: 13px/1.45 ui-monospace, "DejaVu Sans Mono",
  monospace; }
"""


def format_html(results, study):
    """The page.

    Args:
        results (list[dict]): of all data sets.
        study (Study): what they are about.

    Returns:
        str: HTML, which loads nothing.
    """
    groups = group_by(results, "dataset")
    links = " ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in groups)
    notes = [
        f"Mean and, below it, sample standard deviation over seeds. {tag('b', 'Bold')} is the best of a column, "
        f'<span class="second">underlined</span> the second best; the length of a bar is the share of the best.',
    ]
    parts = [tag("h1", escape(study.title)), tag("p", escape(study.note)) if study.note else ""]
    parts += [tag("p", note) for note in notes] + [f"<nav>{links}</nav>" if len(groups) > 1 else ""]
    parts += [format_dataset(name, cells, study) for name, cells in groups.items()]
    parts += [tag("h2", "Command of everything"), f"<pre>{escape(study.command)}</pre>"]
    body = "\n".join(part for part in parts if part)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(study.title)}</title><style>{STYLE}</style>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def format_dataset(dataset, results, study):
    """The section of one data set."""
    rows, names = group_by(results, "row"), shown_metrics(results, study)
    with_runs = {label: cells for label, cells in rows.items() if finished(cells)}
    facts = [line[2:] for line in format_heading(results).splitlines()]
    parts = [f'<h2 id="{escape(dataset)}">{escape(dataset)}</h2>', bullets(facts)]
    for i, (title, protocol) in enumerate(PROTOCOLS.items()):
        shown = with_runs if i and with_runs else rows  # rows without runs stand in the first table only
        parts += [tag("h3", f"History {title}"), format_metrics(shown, names, protocol, study)]
    parts += [format_published(dataset, rows, names, study), format_tests(rows, names, study)]
    table = {label: row_facts(cells) for label, cells in rows.items() if "absent" not in cells[0]}
    if table:
        columns = {"row": list(table), **{key: [f[key] for f in table.values()] for key in next(iter(table.values()))}}
        parts += [tag("h3", "Training"), html_table(columns)]
    parts += [format_failures(results), tag("h3", "Commands")]
    lines = [f"# {label}\n{run_command(cells[0])}" for label, cells in rows.items() if "absent" not in cells[0]]
    return "\n".join([*(part for part in parts if part), f"<pre>{escape(chr(10).join(lines))}</pre>"])


def format_metrics(rows, names, protocol, study):
    """Rows x metrics of one protocol with bars, and the gain over the best other row."""
    ours = row_under_test(rows, study)
    columns = {name: column(rows, protocol, name) for name in names}
    lines = [tag("tr", "".join(tag("th", escape(text)) for text in ["row", *map(metric_title, names)]))]
    for i, (label, cells) in enumerate(rows.items()):
        shown = [metric_cell(*columns[name][i], share_of_best(columns[name], i, name)) for name in names]
        kind = ' class="ours"' if label == ours else ""
        lines.append(f"<tr{kind}>{tag('td', escape(describe_row(label, cells)))}{''.join(shown)}</tr>")
    gains = improvements(rows, protocol, names, ours)
    if gains:
        shown = [gain_text(*gains[name]) if name in gains else NOTHING for name in names]
        first = tag("td", f"{escape(ours)} against the best other row")
        lines.append(f'<tr class="gain">{first}{"".join(tag("td", text) for text in shown)}</tr>')
    return scroll("\n".join(lines))


def gain_text(best, gain):
    """A gain and, below it, over which row."""
    return f"{gain:+.1%}{tag('span', escape(best), 'std')}"


def share_of_best(texts, i, name):
    """Length of a bar from 0 to 1: the value over the column's largest; none where small is good."""
    values = [number(text) for text, _ in texts]
    largest = max((value for value in values if value), default=None)
    return 0 if is_smaller_better(name) or not largest or values[i] is None else values[i] / largest


def number(text):
    """The mean in a cell's text, or None."""
    return None if text == NOTHING else float(text.partition(" ")[0])


def metric_cell(text, place, share):
    """A cell with its mark, deviation and bar."""
    mean, _, deviation = text.partition(" ± ")
    kind = {1: "best", 2: "second"}.get(place, "")
    below = tag("span", f"± {deviation}", "std") if deviation else ""
    bar = f' style="background-size: calc({share:.0%} - 8px) 4px"' if share else ""
    if text == NOTHING:
        return tag("td", NOTHING, "soft")
    return f'<td class="bar"{bar}><span class="{kind}">{mean}</span>{below}</td>'


def format_published(dataset, rows, names, study):
    """Published figures beside ours."""
    columns, reasons = published_columns(dataset, rows, names, study)
    if not columns:
        return ""
    note = tag("p", "‡ cannot be true, even allowing for rounding:", "doubt") + bullets(reasons) if reasons else ""
    return tag("h3", "Published figures, history not masked") + html_table(columns) + note


def format_tests(rows, names, study):
    """Tests of the row under test."""
    ours, parts = row_under_test(rows, study), []
    for title, protocol in PROTOCOLS.items():
        found = comparisons(rows, ours, protocol, names)
        if found:
            summary = f"History {title}: {ours} against {', '.join(dict.fromkeys(c.other for c in found))}"
            table = html_table(comparison_columns(found))
            parts.append(f"<details open><summary>{escape(summary)}</summary>{table}</details>")
    if not parts:
        return ""
    return tag("h3", f"Tests of {escape(ours)}") + tag("p", escape(ABOUT_TESTS), "soft") + "\n".join(parts)


def format_failures(results):
    """Failed cells and rows without a model."""
    failed = [f"{r.get('row', r['model'])}, seed {r['seed']}: {r['error']}" for r in results if "error" in r]
    absent = [f"{r['row']}: {r['absent']}" for r in results if "absent" in r]
    parts = []
    if failed:
        parts += [tag("h3", "Failed cells"), bullets(failed, "error")]
    if absent:
        parts += [tag("h3", "Rows without runs"), bullets(absent)]
    return "\n".join(parts)


def html_table(columns):
    """A table from column title -> texts; the first column and those of words are left-aligned."""
    lines = [tag("tr", "".join(tag("th", escape(title)) for title in columns))]
    for texts in zip(*columns.values()):
        cells = (tag("td", escape(str(text)), "doubt" if str(text).endswith("‡") else "") for text in texts)
        lines.append(tag("tr", "".join(cells)))
    return scroll("\n".join(lines))


def scroll(rows):
    """A table that scrolls by itself where the window is narrow."""
    return f'<div class="scroll"><table>\n{rows}\n</table></div>'


def bullets(texts, kind=""):
    """A list of plain texts."""
    return f"<ul>{''.join(tag('li', escape(text), kind) for text in texts)}</ul>"


def tag(name, content, kind=""):
    """An element around ready content."""
    return f'<{name} class="{kind}">{content}</{name}>' if kind else f"<{name}>{content}</{name}>"
