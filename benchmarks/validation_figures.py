"""The table of DiffuRecSys and our kept runs: best validation figures and test figures beside the published ones.

    python benchmarks/validation_figures.py      # results/cells -> results/diffurecsys.table3/validation.md

What ``compare --paper=diffurecsys.table3 --validation`` says of runs of its own is said here of those in
``results/cells`` with 100 items per history. Both kinds of figures are of the same run.
"""

import argparse
import json
from pathlib import Path

from recbole_diffusion.experiments.paper import read_preset
from recbole_diffusion.reports.study import Study, group_by
from recbole_diffusion.reports.tables import format_validation, write_text
from recbole_diffusion.reports.validation import ABOUT

PAPER = "diffurecsys.table3"
ROWS = {"DiffuRec": "DiffuRec", "DiffuRecSys V1": "Modified V1", "DiffuRecSys V2": "Modified V2", "V1": "V1, released code"}  # here -> in the paper
NOTE = (
    "Kept runs with 100 items per history and item vectors from N(0, 0.02^2), or from N(0, 1) for the released settings "
    "(`preset: released`), with their epochs; history not masked. "
    "Written by `python benchmarks/validation_figures.py`."
)


def read_cells(folder):
    """Kept runs of 100 items, in the order of the paper's rows; a label is the paper's and the epochs."""
    paths = [path for pattern in ("*-l100-*.json", "*-v1-released-code-*.json") for path in sorted(Path(folder).glob(pattern))]
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    found = [
        {**cell, "paper_row": ROWS[name], "row": f"{ROWS[name]}, {cell['epochs']} epochs"}
        for cell in cells
        for name in [cell["row"].partition(",")[0]]
    ]
    return sorted(found, key=lambda cell: (cell["dataset"], list(ROWS.values()).index(cell["paper_row"]), cell["epochs"]))


def format_page(cells):
    """The page of all data sets."""
    preset, parts = read_preset(PAPER), [f"# {read_preset(PAPER).title}: validation and test", NOTE]
    for dataset, runs in group_by(cells, "dataset").items():
        published = {dataset: {run["row"]: preset.published[dataset][run["paper_row"]] for run in runs}}
        study = Study(published=published, unit=preset.unit, validation=True)
        text = format_validation(dataset, group_by(runs, "row"), list(preset.metrics), study)
        parts += [f"## {dataset}", text.partition("\n\n")[2].removeprefix(ABOUT).strip()]
    return "\n\n".join([*parts[:2], ABOUT, *parts[2:]]) + "\n"


def main():
    results = Path(__file__).parents[1] / "results"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=results / "cells", help="folder of kept runs")
    parser.add_argument("--out", default=results / PAPER / "validation.md", help="the page")
    args = parser.parse_args()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, format_page(read_cells(args.cells)))
    print(args.out)


if __name__ == "__main__":
    main()
