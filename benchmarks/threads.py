"""An epoch of SimDiffRec on ml-100k with other ways of waiting, in turn, alone and beside busy loops.

Every way has a process of its own, since OpenMP reads its variables once. All are prepared before the first epoch, and
the epochs of a round follow each other directly. Where other programs run as well, the ratios within rounds and the
processor time tell more than seconds.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

from common import ROOT, processor

from recbole_diffusion import threads

PYTORCH = "PyTorch's default"
WAYS = {  # variables of the environment
    PYTORCH: {},
    "chosen, idle start": None,  # what the command line chooses on a machine that is idle when it starts
    "chosen, busy start": None,
    "one thread": {"OMP_NUM_THREADS": "1"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "active": {"OMP_WAIT_POLICY": "active"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "KMP_BLOCKTIME": {"KMP_BLOCKTIME": "0"},
}
BUSY = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"


def serve(way, steps):
    """What the process of one way does: prepare, then train an epoch, or its first steps, for every line it reads."""
    if WAYS[way] is None:
        threads.is_busy = lambda: "busy" in way
        threads.choose()
    import logging

    import torch

    from recbole_diffusion.quick_start import set_up

    warnings.filterwarnings("ignore", category=FutureWarning)
    settings = {"use_gpu": False, "show_progress": False}
    _, trainer, loaders, _ = set_up("SimDiffRec", "ml-100k", None, settings)
    logging.disable()
    batches = list(itertools.islice(loaders[0], steps))
    number = torch.get_num_threads()
    torch.set_num_threads(1)  # in which the slower first steps take the same time whatever the way
    trainer._train_epoch(batches[:2], 0)
    torch.set_num_threads(number)
    print(json.dumps(["ready", len(batches), len(loaders[0])]), flush=True)
    for _ in sys.stdin:
        start, of_processor = time.perf_counter(), time.process_time()
        trainer._train_epoch(batches, 0)
        print(json.dumps([time.perf_counter() - start, time.process_time() - of_processor]), flush=True)


class Way:
    """A prepared process that trains an epoch when asked to.

    Args:
        name (str): one of WAYS.
        steps (int, optional): of the epoch, all by default.
        folder (str): where RecBole writes its log.
    """

    def __init__(self, name, steps, folder):
        others = (*threads.WAITING, *threads.NUMBER, threads.CHOSEN)
        kept = {key: value for key, value in os.environ.items() if key not in others}
        words = ["--serve", name] + (["--steps", str(steps)] if steps else [])
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), *words], env={**kept, "PYTHONPATH": str(ROOT), **(WAYS[name] or {})},
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def answer(self):
        """The next list that the process prints; its log stands before it."""
        for line in self.process.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise EOFError("the process of a way ended early")

    def epoch(self):
        """Seconds and processor seconds of one epoch."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.kill()
        self.process.wait()


def measure(ways, load, seconds):
    """Rounds of one epoch of each way: name -> list of pairs. The last one may end after the time, by one round."""
    found = {name: [] for name in ways}
    busy = [subprocess.Popen([sys.executable, "-c", BUSY, str(10 * seconds)]) for _ in range(load)]
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, way in ways.items():
                found[name].append(way.epoch())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return found


def show(found, load):
    """Print medians, and the medians of the ratios to the first way within a round."""
    reference = next(iter(found.values()))
    print(f"\n{load} busy loops beside it, {len(reference)} rounds, load average {os.getloadavg()[0]:.1f} at the end")
    for name, epochs in found.items():
        wall, of_processor = (statistics.median(column) for column in zip(*epochs))
        faster = statistics.median(theirs[0] / own[0] for own, theirs in zip(epochs, reference))
        in_all = sum(seconds for seconds, _ in reference) / sum(seconds for seconds, _ in epochs)
        print(
            f"{name:<20}{wall:7.2f} s (from {min(epochs)[0]:.2f} to {max(epochs)[0]:.2f}), {of_processor:6.2f} s of "
            f"processor, {faster:.2f} times as fast in the median, {in_all:.2f} in all"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 6], help="numbers of busy loops")
    parser.add_argument("--cores", type=int, default=2, help="cores that all of it shares")
    parser.add_argument("--seconds", type=float, default=60, help="time for each number of busy loops, without its last round")
    parser.add_argument("--steps", type=int, help="steps of the epoch, all by default; fewer where all of them take too long")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[PYTORCH, "chosen, idle start", "chosen, busy start", "one thread"])
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.steps)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the busy loops as well
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    print(f"{processor()}, {threads.allowed_cores()} cores")
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: Way(name, args.steps, folder) for name in args.ways}
        try:
            _, steps, of_all = [way.answer() for way in ways.values()][0]
            print(f"{steps} of the {of_all} steps of an epoch")
            for load in args.loads:
                show(measure(ways, load, args.seconds), load)
        finally:
            for way in ways.values():
                way.end()


if __name__ == "__main__":
    main()
