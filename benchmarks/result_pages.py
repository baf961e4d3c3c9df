"""Pages of results from the runs kept in ``results/cells``, which were trained one by one on several days.

    python benchmarks/result_pages.py results/repetition.yaml --datasets=beauty,toys,sports,yelp,ml-1m
    python benchmarks/result_pages.py --paper=simdiffrec.table2 --datasets=beauty,toys

The rows and their order are those of a rows file of ``compare --rows``; a run belongs to the row of its label. Writes
``results/<name of the rows file>/<data set>.md`` and ``.csv``, as ``compare`` does. Rows without a run are left out and
named at the end. With ``--paper`` they are those of a published table, each with the runs that stand for it in the atlas
(``results/atlas.yaml``), beside the published figures.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from recbole_diffusion.atlas.evidence import gather
from recbole_diffusion.atlas.plan import read_plan
from recbole_diffusion.experiments.paper import read_preset
from recbole_diffusion.reports.study import Study
from recbole_diffusion.reports.tables import write_tables
from recbole_diffusion.settings.properties import load_yaml

ROOT = Path(__file__).parents[1]


def kept(folder, labels, datasets):
    """Runs of some rows and data sets, in the order of both and of their seeds; and the rows without a run."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    chosen = [cell for cell in cells if cell["row"] in labels and cell["dataset"] in datasets]
    chosen.sort(key=lambda cell: (datasets.index(cell["dataset"]), labels.index(cell["row"]), cell["seed"]))
    there = {(cell["dataset"], cell["row"]) for cell in chosen}
    return chosen, [(dataset, label) for dataset in datasets for label in labels if (dataset, label) not in there]


def published(name, datasets):
    """What stands for the rows of a published table, and what is to be said of it.

    Returns:
        tuple: runs by data set, row and seed, under the table's labels, with an entry that says "not run yet" for a row without
        any; and the Study.
    """
    preset = read_preset(name)
    plan = read_plan(ROOT / "results" / "atlas.yaml")
    plan = dataclasses.replace(plan, kept=[place for place in plan.kept if place.is_dir()])  # CSV pages lack what a page shows
    entries = [entry for entry in gather(plan, [name]).entries if entry.dataset in datasets]
    entries.sort(key=lambda entry: datasets.index(entry.dataset))
    runs = []
    for entry in entries:
        model = preset.rows.get(entry.row, {}).get("model", entry.row)
        none = {"row": entry.row, "model": model, "dataset": entry.dataset, "seed": "", "given": {}, "absent": "not run yet"}
        runs += [{**run, "row": entry.row} for run in entry.runs] or [none]
    return runs, Study(title=preset.title, note=preset.note, published=preset.published, unit=preset.unit,
                       metrics=list(preset.metrics), ours=preset.ours)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", help="yaml file of rows, as of compare --rows")
    parser.add_argument("--paper", help="name of a published table, as of compare --paper, instead of rows")
    parser.add_argument("--datasets", required=True, help="names between commas")
    parser.add_argument("--cells", default=ROOT / "results" / "cells", help="folder of kept runs, for rows")
    parser.add_argument("--out", help="folder of the pages, by default named after the rows or the table")
    args = parser.parse_args()
    if bool(args.rows) == bool(args.paper):
        parser.error("give a file of rows or --paper")
    datasets, missing = args.datasets.split(","), []
    if args.paper:
        runs, study = published(args.paper, datasets)
        study.command = f"python benchmarks/result_pages.py --paper={args.paper} --datasets={args.datasets}"
    else:
        runs, missing = kept(args.cells, [str(label) for label in load_yaml(args.rows)], datasets)
        study = Study(f"recbole-diffusion compare --rows=results/{Path(args.rows).name} --datasets={args.datasets} --seeds=3")
    out = Path(args.out or ROOT / "results" / (args.paper or Path(args.rows).stem))
    out.mkdir(parents=True, exist_ok=True)
    for path in write_tables(runs, out, study).values():
        print(path)
    for dataset, label in missing:
        print(f"no run of {label} on {dataset}")


if __name__ == "__main__":
    main()
