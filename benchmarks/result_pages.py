"""Pages of results from the runs kept in ``results/cells``, which were trained one by one on several days.

    python benchmarks/result_pages.py results/repetition.yaml --datasets=beauty,toys,sports,yelp,ml-1m

The rows and their order are those of a rows file of ``compare --rows``; a run belongs to the row of its label. Writes
``results/<name of the rows file>/<data set>.md`` and ``.csv``, as ``compare`` does. Rows without a run are left out and
named at the end.
"""

import argparse
import json
from pathlib import Path

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="yaml file of rows, as of compare --rows")
    parser.add_argument("--datasets", required=True, help="names between commas")
    parser.add_argument("--cells", default=ROOT / "results" / "cells", help="folder of kept runs")
    parser.add_argument("--out", help="folder of the pages, by default named after the rows")
    args = parser.parse_args()
    datasets, labels = args.datasets.split(","), [str(label) for label in load_yaml(args.rows)]
    runs, missing = kept(args.cells, labels, datasets)
    out = Path(args.out or ROOT / "results" / Path(args.rows).stem)
    command = f"recbole-diffusion compare --rows=results/{Path(args.rows).name} --datasets={args.datasets} --seeds=3"
    out.mkdir(parents=True, exist_ok=True)
    for path in write_tables(runs, out, Study(command=command)).values():
        print(path)
    for dataset, label in missing:
        print(f"no run of {label} on {dataset}")


if __name__ == "__main__":
    main()
