"""One table of kept runs for a text: a line per row, a column per data set.

    python benchmarks/overview.py results/session_rows.yaml --datasets=cellphones,grocery --metrics=MRR@20,Hit@20

A field has the metrics on the test part, with deviations where there are several seeds, and in brackets the first of them
on the validation part. Rows without any run are left out.
"""

import argparse
import statistics

from result_pages import ROOT, kept

from recbole_diffusion.settings.properties import load_yaml


def decimals(value):
    """Four decimals, without the zero before the point."""
    return f"{value:.4f}".lstrip("0")


def over_seeds(values):
    """Mean, and sample standard deviation of several seeds."""
    text = decimals(statistics.mean(values))
    return f"{text} ± {decimals(statistics.stdev(values))}" if len(set(values)) > 1 else text


def field(runs, metrics):
    """What one row has on one data set."""
    if not runs:
        return ""
    tests = [over_seeds([run["test_result_unmasked"][metric] for run in runs]) for metric in metrics]
    return f"{', '.join(tests)} ({decimals(statistics.mean(run['best_valid_result'][metrics[0]] for run in runs))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", help="yaml file of rows, as of compare --rows")
    parser.add_argument("--datasets", required=True, help="names between commas")
    parser.add_argument("--metrics", default="Hit@10,NDCG@10", help="names between commas, of those of the runs")
    args = parser.parse_args()
    datasets, metrics = args.datasets.split(","), args.metrics.lower().split(",")
    labels = [str(label) for label in load_yaml(args.rows)]
    runs, _ = kept(ROOT / "results" / "cells", labels, datasets)
    print(f"| | {' | '.join(datasets)} |\n|---|{'---|' * len(datasets)}")
    for label in labels:
        fields = [field([run for run in runs if (run["row"], run["dataset"]) == (label, name)], metrics) for name in datasets]
        if any(fields):
            print(f"| {label} | {' | '.join(fields)} |")


if __name__ == "__main__":
    main()
