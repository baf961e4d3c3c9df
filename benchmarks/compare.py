"""What `compare` costs beside its runs: wall-clock of the command against the same runs by hand, without imports.

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
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        call()
    return time.perf_counter() - started


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
        selection = ["--models=SimDiffRec", f"--datasets={args.dataset}", f"--seeds={args.seeds}"]
        words += [*selection, f"--out={folder}/out"]
        run("SimDiffRec", args.dataset, config_dict={**settings, "epochs": 1})  # first calls load and compile
        bare, compared = timed(by_hand), timed(lambda: run_module("compare", words))
        again = timed(lambda: run_module("compare", words))
    share = f"{compared / bare - 1:+.1%}"
    print(f"{args.seeds} runs by hand {bare:.1f} s, compare {compared:.1f} s ({share}), again {again:.2f} s")


if __name__ == "__main__":
    main()
