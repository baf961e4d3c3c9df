"""Everything that is to be known of a machine with a GPU, in one command, without network, within a time budget.

In this order: the tests that need a GPU; a step of every model against the CPU, in bfloat16 and float16, and its speed;
two processes where there are two GPUs; then cells of the tables, ml-1m first. What was found is written after every part
to OUT/gpu.json and OUT/gpu.md, cells to OUT/cells as ``compare`` keeps them. See docs/gpu.md.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("tests", "models", "processes", "cells")
SHARES = {"tests": 0.3, "models": 0.5, "processes": 0.4}  # of the time that is left; cells take the rest
DATASETS = "ml-1m,beauty,toys,sports,yelp"
RUNNING = set()  # programs begun here, which are sessions of their own and hear nothing of Ctrl-C
OVER = threading.Event()  # after Ctrl-C nothing begins
BEGINNING = threading.Lock()
SLOWER = 1.5  # of several trainings at a time, against one alone


def read_words(words=None):
    """The command line, and words for ``compare`` that are not this program's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_path", help="folder that holds <name>/<name>.inter")
    parser.add_argument("--budget", type=float, required=True, help="seconds for everything")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--wheels", help="folder of wheels that are installed into a temporary folder")
    parser.add_argument("--out", default="runs/gpu")
    parser.add_argument("--only", default=",".join(STAGES), help=f"parts, of {', '.join(STAGES)}")
    parser.add_argument("--models", default="", help="names of models for the second part (default all of the package)")
    parser.add_argument("--datasets", default=DATASETS, help="the first that is there also serves for the speed")
    parser.add_argument("--rows", default=str(ROOT / "results" / "rows.yaml"), help="rows of the cells, as of compare")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; one training leaves most of a large GPU idle")
    parser.add_argument("--steps", type=int, default=30, help="steps per model whose speed is measured")
    args, settings = parser.parse_known_args(words)
    args.data_path, args.out, args.only = os.path.abspath(args.data_path), Path(args.out).resolve(), args.only.split(",")
    args.rows, args.wheels = os.path.abspath(args.rows), args.wheels and os.path.abspath(args.wheels)  # parts run in OUT
    wrong = [name for name in args.only if name not in STAGES] or [word for word in settings if "=" not in word]
    if wrong or args.budget <= 0 or args.jobs < 1:
        parser.error(f"cannot use {', '.join(wrong) or f'a budget of {args.budget} seconds with {args.jobs} cells at a time'}")
    return args, settings


class Report:
    """What was found, in files that are whole after every line."""

    def __init__(self, folder):
        self.folder, self.found = folder, []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, part, **values):
        self.found.append({"part": part, **values})
        print(json.dumps(self.found[-1]), flush=True)
        for name, text in (("gpu.json", json.dumps(self.found, indent=1) + "\n"), ("gpu.md", as_markdown(self.found))):
            (self.folder / (name + ".new")).write_text(text, encoding="utf-8")
            os.replace(self.folder / (name + ".new"), self.folder / name)


def as_markdown(found):
    """A table per part; values of a line under their names."""
    lines = ["# What was found", ""]
    for part in dict.fromkeys(line["part"] for line in found):
        rows = [{key: value for key, value in line.items() if key != "part"} for line in found if line["part"] == part]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {part}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(key, "")).replace("|", "/") for key in columns) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def end(process):
    """Ctrl-C for a program, and ten seconds later, or where it does not listen to that, its end by the system."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(10)


def in_process(words, environment, limit, log, take=lambda line: None):
    """Run a program for at most ``limit`` seconds; Ctrl-C ends it, and ten seconds later the system does.

    Args:
        words (list[str]): after the Python interpreter.
        take (callable): gets every line that it prints.

    Returns:
        tuple: its exit code, None where its time was over, and seconds.
    """
    began, over = time.monotonic(), threading.Event()
    with open(log, "a", buffering=1, encoding="utf-8") as errors:  # line by line, to be watched
        with BEGINNING:
            if OVER.is_set():
                return None, 0.0
            process = subprocess.Popen(
                [sys.executable, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
                cwd=log.parent, start_new_session=True,
            )  # fmt: skip
            RUNNING.add(process)

        def end_in_time():
            over.set()
            end(process)

        timer = threading.Timer(max(limit, 0.1), end_in_time)
        timer.daemon = True
        timer.start()
        try:
            for line in process.stdout:
                errors.write(line)
                take(line)
            code = process.wait()
        finally:
            timer.cancel()
            RUNNING.discard(process)
    return (None if over.is_set() or OVER.is_set() else code), time.monotonic() - began


def run_tests(report, run):
    """The tests that are skipped without a GPU, with pytest's own last line."""
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "needs a GPU" in path.read_text(encoding="utf-8")]
    files = [str(path) for path in [*marked, ROOT / "tests" / "model" / "test_contract.py"]]
    said = []
    words = ["-m", "pytest", "-q", "-rs", "-o", "addopts=", "-p", "no:cacheprovider", "-k", "gpu", "--rootdir", str(ROOT)]
    code, seconds = run("tests", [*words, "-c", str(ROOT / "pyproject.toml"), *files], said.append)
    last = next((line.strip(" =\n") for line in reversed(said) if re.search(r"\d+ (passed|failed|skipped|error)", line)), "")
    report.add("tests", passed=code == 0, said=last or "nothing, see log.txt", seconds=round(seconds, 1))


def run_models(report, run, args, dataset):
    """Every model in turn; one that ends the process, as an error of a GPU does, costs its own lines only."""
    words = [str(ROOT / "benchmarks" / "gpu_checks.py"), "models", f"--device={args.device}", f"--steps={args.steps}"]
    words += [f"--data_path={args.data_path}", f"--dataset={dataset or ''}"]
    waiting, speeds, code = args.models, {}, 1
    while code not in (0, None):
        begun = []

        def take(line):
            if line.startswith('{"part"'):
                values = json.loads(line)
                if values["part"] == "begun":
                    begun.append(values)
                    return
                report.add(**values)
                if "seconds_per_epoch" in values:
                    speeds[values["model"]] = values

        code, _ = run("models", [*words, f"--names={waiting}"], take)
        if code != 0:
            why = "no time left" if code is None else "its process ended, see log.txt"
            report.add("steps", model=begun[-1]["model"] if begun else waiting or "all", error=why)
        waiting = begun[-1]["left"] if begun else ""
        if not waiting:
            break
    return speeds


def run_two(report, run, args):
    """The same training in one process and in two."""
    words = [str(ROOT / "benchmarks" / "gpu_checks.py"), "processes", f"--device={args.device}"]
    found = []
    code, _ = run("processes", words, lambda line: found.append(json.loads(line)) if line.startswith('{"part"') else None)
    if not found:
        found = [{"part": "processes", "error": "no time left" if code is None else "it failed, see log.txt"}]
    for values in found:
        report.add(**values)


def estimated_seconds(cell, speeds, size, reference):
    """Seconds that a training may last: the model's epochs on the data whose speed is known, by the size of the file.

    Args:
        cell (dict): ``model``, ``dataset`` and, where the row says so, ``epochs``.
        speeds (dict): model -> ``seconds_per_epoch`` and its default ``epochs``.
        size (dict): data set -> bytes.
        reference (str): the data set of ``speeds``.

    Returns:
        float | None: None for a model whose speed is not known. Early stopping makes it less.
    """
    known = speeds.get(cell["model"])
    if known is None or reference not in size:
        return None
    return known["seconds_per_epoch"] * (cell.get("epochs") or known["epochs"]) * size[cell["dataset"]] / size[reference]


def next_cell(waiting, left, estimate):
    """The first cell that fits into the time left; if none is known to fit, the first of all, as early stopping may help.

    Args:
        waiting (list): cells in the order of the tables.
        left (float): seconds.
        estimate (callable): cell -> seconds or None.
    """
    fitting = (cell for cell in waiting if (estimate(cell) or 0) <= left)
    return next(fitting, waiting[0])


def planned_cells(rows, datasets, seeds):
    """All cells, a seed of everything before the next seed; ``rows`` as in the file of ``compare --rows``."""
    return [
        {
            "row": label,
            "dataset": dataset,
            "seed": 2020 + number,
            "model": row["model"],
            "epochs": row.get("datasets", {}).get(dataset, {}).get("epochs", row.get("epochs")),
        }
        for number in range(seeds)
        for dataset in datasets
        for label, row in rows.items()
    ]


def size_of(data_path, name):
    """Bytes of a data set: of ``name.inter``, or of its ready-made parts where there is none; 0 without either. Parquet counts, too."""
    folder = Path(data_path) / name
    whole = list(folder.glob(f"{name}.inter*"))
    parts = [path for part in ("train", "valid", "test") for path in folder.glob(f"{name}.{part}.inter*")]
    return sum(path.stat().st_size for path in whole or parts)


def run_cells(report, run, args, settings, datasets, speeds, left):
    """Cells of the tables while there is time, then the tables of what is there."""
    import yaml

    rows = yaml.safe_load(Path(args.rows).read_text(encoding="utf-8"))
    size = {name: size_of(args.data_path, name) for name in datasets}
    took, waiting = {}, planned_cells(rows, datasets, args.seeds)

    def estimate(cell):
        known = estimated_seconds(cell, speeds, size, datasets[0])
        return took.get((cell["row"], cell["dataset"])) or known and known * (SLOWER if args.jobs > 1 else 1)

    common = [*settings, f"--data_path={args.data_path}", f"--use_gpu={args.device != 'cpu'}"]
    compare = ["-m", "recbole_diffusion", "compare", f"--out={args.out / 'cells'}", "--show_progress=False", *common]
    lock = threading.Lock()

    def work(number):
        """Cells one after the other; those of other workers are trained at the same time."""
        one = args.out / f"row{number}.yaml"
        while True:
            with lock:
                if not waiting or left() <= 0 or OVER.is_set():
                    return
                cell = next_cell(waiting, left(), estimate)
                waiting.remove(cell)
                guess = estimate(cell)
            one.write_text(yaml.safe_dump({cell["row"]: rows[cell["row"]]}), encoding="utf-8")
            words = [f"--rows={one}", f"--datasets={cell['dataset']}", "--seeds=1", f"--seed={cell['seed']}"]
            code, seconds = run("cells", [*compare, *words, f"--name=last{number}"])
            how = {0: "kept", None: "ended by hand" if OVER.is_set() else "no time left"}.get(code, "failed, see log.txt")
            with lock:
                if code == 0:
                    took[cell["row"], cell["dataset"]] = seconds
                report.add("cells", **cell, estimated=guess and round(guess), seconds=round(seconds, 1), end=how)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(args.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for cell in waiting:
        report.add("cells", **cell, estimated=estimate(cell) and round(estimate(cell)), end="not begun")
    tables = [f"--rows={args.rows}", f"--datasets={','.join(datasets)}", f"--seeds={args.seeds}", "--only-tables"]
    run("tables", [*compare, *tables])


def main(words=None):
    """Returns 0, 1 where a test, a model or a cell failed, or 130 after Ctrl-C."""
    args, settings = read_words(words)
    end = time.monotonic() + args.budget
    report = Report(args.out)
    log = args.out / "log.txt"

    def left():
        return end - time.monotonic()

    def run(part, words, take=lambda line: None):
        limit = 60 if part == "tables" else left() * SHARES.get(part, 1)
        return in_process(words, environment, limit, log, take)

    with tempfile.TemporaryDirectory() as site:
        if args.wheels:
            wheels = sorted(str(path) for path in Path(args.wheels).glob("*.whl"))
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, *wheels]
            subprocess.run(pip, check=True)
        places = [site, str(ROOT), os.environ.get("PYTHONPATH", "")]
        if args.jobs > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // args.jobs, 1)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), "PYTHONUNBUFFERED": "1"}
        named = [name for name in args.datasets.split(",") if name]
        datasets = [name for name in named if size_of(args.data_path, name)]
        report.add("data", there=", ".join(datasets), missing=", ".join(name for name in named if name not in datasets))
        try:
            if "tests" in args.only:
                run_tests(report, run)
            speeds = run_models(report, run, args, datasets[0] if datasets else None) if "models" in args.only else {}
            if "processes" in args.only:
                run_two(report, run, args)
            if "cells" in args.only and datasets:
                run_cells(report, run, args, settings, datasets, speeds, left)
        except KeyboardInterrupt:
            end_all()  # before the packages of --wheels go
            return 130
    bad = [line for line in report.found if line.get("error") or line.get("passed") is False or "failed" in line.get("end", "")]
    print(f"{len(bad)} of {len(report.found)} lines are not as they should be; {args.out / 'gpu.md'}")
    return 1 if bad else 0


def end_all():
    """End every program that runs, and let no other begin; what they kept stays."""
    with BEGINNING:
        OVER.set()
    enders = [threading.Thread(target=end, args=(process,)) for process in list(RUNNING)]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join()


if __name__ == "__main__":
    sys.exit(main())
