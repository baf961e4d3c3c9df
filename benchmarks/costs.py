"""What a run of each model takes, from the kept runs: writes ``properties/costs.yaml``, by which ``compare`` orders and estimates.

    python benchmarks/costs.py
"""

import argparse
import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = """\
# Seconds of a whole run per 100,000 interactions: the median over the kept runs of a model (results/cells, two cores, one thread
# each, beside other jobs). Only their ratios matter: compare learns the speed of a machine from its first cells.
# Written by benchmarks/costs.py.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=ROOT / "results" / "cells", help="folder of kept runs")
    parser.add_argument("--out", default=ROOT / "properties" / "costs.yaml", help="the file")
    args = parser.parse_args()
    found = {}
    for path in sorted(Path(args.cells).glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        size = run["dataset_counts"].get("interactions")
        if size and run["seconds"].get("training"):
            found.setdefault(run["model"], []).append(1e5 * sum(run["seconds"].values()) / size)
    lines = [f"{model}: {statistics.median(values):.3g}" for model, values in sorted(found.items())]
    Path(args.out).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
