"""What the benchmarks share: a prepared model, a fresh process per measurement, medians."""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]


def parse(description, **defaults):
    """Command line with --data_path and the given numbers; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(f"{processor()}, {args.threads} threads, Python {platform.python_version()}")
    return args


def processor():
    """Name of the processor where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def prepare(model, dataset, args, **settings):
    """``(config, loaders, network, optimizer)`` ready to train."""
    import torch
    from recbole.utils import init_seed

    from recbole_diffusion.data.build import create_dataset
    from recbole_diffusion.data.loaders import build_loaders
    from recbole_diffusion.settings.config import DiffusionConfig
    from recbole_diffusion.training.networks import build_model

    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(args.threads)
    config = DiffusionConfig(model, dataset, config_dict={"data_path": args.data_path, "use_gpu": False, **settings})
    init_seed(config["seed"], True)
    loaders = build_loaders(config, create_dataset(config))
    network = build_model(config, loaders[0]).train()
    return config, loaders, network, torch.optim.Adam(network.parameters(), lr=1e-3)


def in_fresh_process(function, *arguments):
    """Call a function in a process of its own, so that peak memory is its own; returns its (JSON) result.

    Raises:
        EOFError: when the process dies, after it printed why.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()  # or a process that dies would never be noticed
    result = json.loads(receiver.recv())
    process.join()
    return result


def _call(sender, function, arguments):
    sender.send(json.dumps(function(*arguments)))


def peak_mb():
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def package_step(network, optimizer):
    """One step of training with a model of the package, as a function of its batch."""

    def step(batch):
        optimizer.zero_grad()
        sum(network.calculate_loss(batch)).backward()
        optimizer.step()
        network.after_step()

    return step


def time_steps(step, batches, warm_up=2, clock=time.perf_counter):
    """Seconds of each step, by a clock, after some that are not counted."""
    seconds = []
    for i, batch in enumerate(batches):
        start = clock()
        step(batch)
        if i >= warm_up:
            seconds.append(clock() - start)
    return seconds


def spread(seconds):
    """Median with the fastest and slowest, readable."""
    return f"{statistics.median(seconds):.3f} s (from {min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} steps)"
