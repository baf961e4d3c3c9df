"""Results as runs return them without any training, and the command that compares them."""

from pathlib import Path

from recbole_diffusion.cli import run_module

DATA = Path(__file__).parents[2] / "dataset"
METRICS = ("hit@5", "hit@10", "ndcg@10")


def made_up(model="SimDiffRec", dataset="toy", seed=2020, value=0.5, **other):
    """A result as quick_start.run returns it, with ``value`` for every metric; masked is 0.1 more."""
    return {
        "model": model,
        "dataset": dataset,
        "dataset_counts": {"users": 60, "items": 30, "interactions": 1552},
        "split": "leave-one-out",
        "mask_history": False,
        "seed": seed,
        "best_valid_score": value,
        "test_result_unmasked": dict.fromkeys(METRICS, value),
        "test_result_masked": dict.fromkeys(METRICS, value + 0.1),
        "best_epoch": 3,
        "epochs": 8,
        "seconds": {"data": 1.0, "training": 20.0, "test": 1.0},
        "peak_memory_mb": {"process": 1441},
        "parameters": 103360,
        "device": "cpu",
        "versions": {"recbole": "1.2.1"},
        "command": f"run_recbole_diffusion.py --model={model}",
        "settings": {"valid_metric": "MRR@10"},
        **other,
    }


class Runner:
    """Stands in for quick_start.run: counts calls, fails for the seeds in ``broken``."""

    def __init__(self):
        self.calls, self.broken = [], set()

    def __call__(self, model, dataset, config_dict, data_cache=None):
        self.calls.append((model, dataset, config_dict))
        seed = config_dict["seed"]
        if seed in self.broken:
            raise RuntimeError(f"seed {seed} exploded\nsecond line")
        return made_up(model, dataset, seed, value=0.1 + 0.1 * (seed - 2020))


def call(*words):
    """The command as the terminal gives it, on the toy data unless other data sets are named."""
    datasets = [] if any(word.startswith("--datasets") for word in words) else ["--datasets=toy"]
    return run_module("compare", [*datasets, f"--data_path={DATA}", "--out=out", *words])
