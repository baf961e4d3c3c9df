"""What a result says beside its metrics: data, split, versions, time and memory."""

import os
import platform
import shlex
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None

import numpy
import pandas
import recbole
import torch

import recbole_diffusion


def describe_split(config):
    """The split in words for result files."""
    if config["benchmark_filename"]:
        return f"files {config['benchmark_filename']}"
    return f"{config['eval_args']['split']}, order {config['eval_args']['order']}, {config['eval_args']['mode']}"


def describe_subject(config, counts, training_part, network):
    """The beginning of a result: what was measured on what, by which protocol.

    Args:
        config (DiffusionConfig): settings.
        counts (dict): see :func:`data_counts`.
        training_part (Dataset): names the pseudo items, if there are any.
        network (nn.Module): says whether it saw test targets.

    Returns:
        dict: JSON values.
    """
    augmented = getattr(training_part, "augmented", None)
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "dataset_counts": counts,
        "split": describe_split(config),
        "mask_history": config["mask_history"],
        "leaks_test_labels": getattr(network, "leaks", False) or bool(augmented and augmented["leaks"]),
        "augmented": augmented,
        "seed": config["seed"],
    }


def describe_process(config, network):
    """What a result says of the process that found it: a dict of JSON values."""
    return {
        "peak_memory_mb": peak_memory_mb(),
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "device": str(config["device"]),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }


def data_counts(data):
    """Users, items and interactions after filtering; padding does not count. Call before the data are split."""
    return {"users": data.user_num - 1, "items": data.item_num - 1, "interactions": data.inter_num}


def versions():
    """Versions of everything that can change a number."""
    return {
        "recbole_diffusion": recbole_diffusion.__version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pandas": pandas.__version__,
        "python": platform.python_version(),
    }


def peak_memory_mb():
    """Peak resident memory of the process and, on a GPU, of its allocator, in MB."""
    peak = {}
    if resource:
        unit = 1024 if sys.platform != "darwin" else 1024**2
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated() // 1024**2
    return peak


class Clock:
    """Seconds per phase."""

    def __init__(self):
        self.laps, self._last = {}, time.perf_counter()

    def lap(self, name, earlier=0.0):
        """Close the phase that ran since the last call, and ``earlier`` seconds in a process before this one."""
        now = time.perf_counter()
        self.laps[name], self._last = round(earlier + now - self._last, 2), now
