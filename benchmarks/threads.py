"""One epoch of SimDiffRec on ml-100k with other ways of waiting, in turn, beside busy loops of other programs.

Every way has a process of its own, since OpenMP reads its variables once; all are prepared before the first epoch, and
the epochs of a round follow each other directly. Processor time tells more than seconds where others are busy too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from common import ROOT, processor

WAYS = {  # variables of the environment; None: as the command line chooses
    "as PyTorch does": {},
    "as chosen": None,
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "active": {"OMP_WAIT_POLICY": "active"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "KMP_BLOCKTIME": {"KMP_BLOCKTIME": "0"},
}
OF_OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")
BUSY = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"


def serve():
    """What a process of one way does: prepare, then train an epoch for every line it reads."""
    import logging

    from recbole_diffusion.quick_start import set_up

    settings = {"use_gpu": False, "show_progress": False}
    _, trainer, loaders, _ = set_up("SimDiffRec", "ml-100k", None, settings)
    logging.disable()
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        trainer._train_epoch(loaders[0], 0, show_progress=False)
        print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


class Way:
    """A prepared process that trains an epoch when asked to."""

    def __init__(self, variables, folder):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OF_OPENMP)}
        choose = "from recbole_diffusion.threads import choose; choose(); " * (variables is None)
        path = [str(ROOT), str(ROOT / "benchmarks")]
        code = f"import sys; sys.path[:0] = {path}; {choose}import threads; threads.serve()"
        code = code.replace("import threads; threads.serve()", "import runpy; runpy.run_path(sys.argv[1])['serve']()")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, __file__], env={**kept, **(variables or {})}, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def answer(self):
        """The next line that is JSON; RecBole's log stands before it."""
        for line in self.process.stdout:
            if line[0] in '["':
                return json.loads(line)
        raise EOFError("the process of a way has ended early")

    def epoch(self):
        """Seconds and processor seconds of one epoch."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


def measure(ways, load, seconds):
    """Rounds of one epoch per way until the time is over, at least one: name -> list of pairs."""
    found = {name: [] for name in ways}
    busy = [subprocess.Popen([sys.executable, "-c", BUSY, str(4 * seconds)]) for _ in range(load)]
    try:
        start, longest = time.monotonic(), 0
        while time.monotonic() - start + longest < seconds or not longest:
            begun = time.monotonic()
            for name, way in ways.items():
                found[name].append(way.epoch())
            longest = max(longest, time.monotonic() - begun)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return found


def show(found, load):
    """Print medians, and ratios to the first way within each round."""
    reference = next(iter(found.values()))
    print(f"\n{load} busy loops beside it, {len(reference)} rounds, load average {os.getloadavg()[0]:.1f} at the end")
    for name, epochs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*epochs))
        low, high = min(epochs)[0], max(epochs)[0]
        ratios = [
            statistics.median(mine[i] / others[i] for mine, others in zip(epochs, reference)) for i in range(2)
        ]
        print(
            f"{name:<16} {wall:7.2f} s (from {low:.2f} to {high:.2f}), {cpu:6.2f} s of processor; "
            f"ratios {ratios[0]:.3f} and {ratios[1]:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=int, nargs="+", default=[0, 6], help="numbers of busy loops")
    parser.add_argument("--cores", type=int, default=2, help="cores that all of it may use")
    parser.add_argument("--seconds", type=float, default=90, help="time for each number of busy loops")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["as PyTorch does", "as chosen", "one thread"])
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    os.sched_setaffinity(0, cores)
    print(f"{processor()}, {len(cores)} cores")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ways = {name: Way(WAYS[name], folder) for name in args.ways}
        try:
            for way in ways.values():
                way.answer()
                way.epoch()  # the first one is slower
            for load in args.load:
                show(measure(ways, load, args.seconds), load)
        finally:
            for way in ways.values():
                way.process.kill()
                way.process.wait()


if __name__ == "__main__":
    main()
