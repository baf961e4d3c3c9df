"""What `compare` costs beside its runs: time of the command against the same runs by hand, without imports.

The share is of processor time, which other programs on the machine disturb least.

python benchmarks/compare.py [--dataset=toy --data_path=dataset --seeds=6 --epochs=20]
"""

import argparse
import contextlib
import io
import tempfile
import time

from recbole_diffusion.cli import run_module
from recbole_diffusion.quick_start import run


def timed(call):
    started = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        call()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"data_path": args.data_path, "epochs": args.epochs, "checkpoint_dir": folder, "use_gpu": False,
                    "show_progress": False, "k_noise": 5}  # fmt: skip

        def by_hand():
            for seed in range(2020, 2020 + args.seeds):
                run("SimDiffRec", args.dataset, config_dict={**settings, "seed": seed})

        words = [f"--{key}={value}" for key, value in settings.items()]
        words += ["--models=SimDiffRec", f"--datasets={args.dataset}"]
        timed(lambda: run_module("compare", [*words, "--seeds=2", f"--out={folder}/first"]))  # imports and loads
        words += [f"--seeds={args.seeds}", f"--out={folder}/out"]
        bare, compared = timed(by_hand), timed(lambda: run_module("compare", words))
        again = timed(lambda: run_module("compare", words))
    share = f"{compared[1] / bare[1] - 1:+.1%}"
    seconds = f"{args.seeds} runs by hand {bare[0]:.1f} s, compare {compared[0]:.1f} s, again {again[0]:.2f} s"
    print(f"{seconds}; processor time {bare[1]:.1f} and {compared[1]:.1f} s ({share})")


if __name__ == "__main__":
    main()
