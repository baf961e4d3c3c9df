"""Finished runs of ``compare`` into ``results/cells``, without what belongs to the machine they ran on.

    python benchmarks/keep_runs.py runs/folds                  # every finished run under the folder
    python benchmarks/keep_runs.py runs/folds --ranks          # and each user's rank of the target, for paired tests

A run is kept as ``<data set>-<row>-seed<seed>.json``; one that is there already is replaced. Prints what it kept.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from recbole_diffusion.settings.free import PLACES

CELLS = Path(__file__).parents[1] / "results" / "cells"
OF_THE_MACHINE = ("checkpoint", "result_file", "ranks_file", "fingerprint")


def slug(dataset, row, seed):
    """Name of a kept run: small letters, digits and dashes."""
    return f"{dataset}-{re.sub(r'[^a-z0-9_]+', '-', row.lower()).strip('-')}-seed{seed}"


def without_machine(run):
    """A run as it is kept: no paths, and the command that trains it alone."""
    kept = {key: value for key, value in run.items() if key not in OF_THE_MACHINE}
    kept["settings"] = {key: value for key, value in run["settings"].items() if key not in PLACES}
    parts = [f"--model={run['model']}", f"--dataset={run['dataset']}", f"--seed={run['seed']}"]
    parts += [f"--{key}={value}" for key, value in run["given"].items()]
    return {**kept, "command": " ".join(["run_recbole_diffusion.py", *parts])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that compare --out wrote")
    parser.add_argument("--ranks", action="store_true", help="keep the ranks of the targets, too (about 90 kB a run)")
    parser.add_argument("--cells", type=Path, default=CELLS, help="where to (default: results/cells)")
    args = parser.parse_args()
    for path in sorted(args.folder.glob("*/*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if "test_result" not in run:
            continue
        name = slug(run["dataset"], run["row"], run["seed"])
        text = json.dumps(without_machine(run), indent=2, ensure_ascii=False) + "\n"
        (args.cells / f"{name}.json").write_text(text, encoding="utf-8")
        if args.ranks:
            shutil.copyfile(path.with_suffix(".npz"), args.cells / f"{name}.npz")
        print(f"{name}: best epoch {run['best_epoch']} (from 0) of {run['epochs']}, {run['test_result']}")


if __name__ == "__main__":
    main()
