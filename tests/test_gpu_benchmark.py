"""benchmarks/gpu.py, rehearsed on the CPU: its plan within a budget, what it keeps, and that it ends in time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import emulated_device
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_checks

    return gpu_checks


def test_cells_that_fit_come_first_and_ml_1m_before_others(gpu):
    rows = {"A": {"model": "A"}, "B": {"model": "B", "epochs": 9, "datasets": {"toys": {"epochs": 2}}}}
    cells = gpu.planned_cells(rows, ["ml-1m", "toys"], 2)
    order = [(cell["seed"], cell["dataset"], cell["row"]) for cell in cells]
    assert order == [(s, d, r) for s in (2020, 2021) for d in ("ml-1m", "toys") for r in "AB"]
    speeds = {"A": {"seconds_per_epoch": 3, "epochs": 5}, "B": {"seconds_per_epoch": 1, "epochs": 500}}
    size = {"ml-1m": 1000, "toys": 100}
    seconds = [gpu.estimated_seconds(cell, speeds, size, "ml-1m") for cell in cells[:4]]
    assert seconds == pytest.approx([15, 9, 1.5, 0.2])
    estimate = dict(zip(map(id, cells), seconds)).get
    begun, left, waiting = [], 12, cells[:4]
    while waiting and left > 0:
        cell = gpu.next_cell(waiting, left, lambda cell: estimate(id(cell)))
        waiting.remove(cell)
        left -= estimate(id(cell))
        begun.append((cell["dataset"], cell["row"]))
    assert begun == [("ml-1m", "B"), ("toys", "A"), ("toys", "B"), ("ml-1m", "A")]  # the last in what is left
    assert gpu.estimated_seconds({"model": "C", "dataset": "toys"}, speeds, size, "ml-1m") is None


def test_a_program_ends_with_its_time(gpu, tmp_path):
    began, said = time.monotonic(), []
    code, seconds = gpu.in_process(
        ["-uc", "print('here'); import time; time.sleep(60)"], None, 3, tmp_path / "log.txt", said.append
    )
    assert code is None and seconds < 30 and time.monotonic() - began < 30 and said == ["here\n"]
    assert gpu.in_process(["-c", "raise SystemExit(3)"], None, 30, tmp_path / "log.txt")[0] == 3


def test_the_size_of_data_is_that_of_the_whole_file_or_of_its_parts(gpu, tmp_path):
    (tmp_path / "a").mkdir()
    for part, text in (("train", "1234"), ("valid", "12")):
        (tmp_path / "a" / f"a.{part}.inter").write_text(text)
    assert gpu.size_of(tmp_path, "a") == 6 and gpu.size_of(tmp_path, "b") == 0
    (tmp_path / "a" / "a.inter").write_text("123")
    assert gpu.size_of(tmp_path, "a") == 3


def test_ctrl_c_ends_what_runs_and_begins_nothing(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "OVER", threading.Event())
    words, ended, begun = ["-uc", "print('here'); import time; time.sleep(60)"], [], threading.Event()

    def work():
        ended.append(gpu.in_process(words, None, 60, tmp_path / "log.txt", lambda line: begun.set()))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(30)
    gpu.end_all()
    thread.join(30)
    work()  # as a worker that had not seen it yet
    assert [code for code, _ in ended] == [None, None] and ended[1][1] == 0 and not gpu.RUNNING


def named_in_commands(text):
    """How many other programs have a text in their command line."""
    others = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid())]
    found = 0
    for path in others:
        with contextlib.suppress(OSError):
            found += text in path.read_text(errors="replace")
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for programs in /proc")
def test_ctrl_c_leaves_no_training_behind(tmp_path):
    rows = tmp_path / "rows.yaml"
    rows.write_text("".join(f"Row {n}: {{model: SimDiffRec, epochs: 10000, stopping_step: 10000}}\n" for n in range(4)))
    words = ["--device=cpu", "--jobs=2", "--budget=300", "--datasets=toy", "--only=cells", f"--rows={rows}", f"--out={tmp_path / 'out'}"]
    program = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), str(ROOT / "dataset"), *words],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell ignores for what runs in the background
        start_new_session=True,
    )
    log = tmp_path / "out" / "log.txt"
    while not (log.exists() and "\nmodel " in log.read_text()):
        assert program.poll() is None
        time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 130
    assert named_in_commands(str(tmp_path / "out")) == 0


def test_a_model_that_ends_the_process_costs_its_own_lines_only(gpu, tmp_path):
    args, _ = gpu.read_words([str(tmp_path), "--budget=9", "--models=A,B,C"])
    asked = []

    def run(part, words, take):
        names = words[-1].partition("=")[2]
        asked.append(names)
        for number, name in enumerate(names.split(",")):
            left = ",".join(names.split(",")[number + 1 :])
            take(json.dumps({"part": "begun", "model": name, "left": left}) + "\n")
            if name == "B":
                return -6, 1.0
            take(json.dumps({"part": "speed", "model": name, "seconds_per_epoch": 1, "epochs": 2}) + "\n")
        return 0, 1.0

    report = gpu.Report(tmp_path / "out")
    speeds = gpu.run_models(report, run, args, "toy")
    assert asked == ["A,B,C", "C"] and list(speeds) == ["A", "C"]
    kept = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [line["model"] for line in kept if line.get("error")] == ["B"]


def test_a_rehearsal_on_the_cpu(tmp_path):
    rows = tmp_path / "rows.yaml"
    rows.write_text('"Popularity, of all": {model: Popularity}\nSuccessors: {model: Successors}\n')
    words = ["--device=cpu", "--jobs=2", "--budget=300", "--datasets=ml-1m,toy", "--only=models,cells", "--models=SimDiffRec"]
    words += ["--steps=2", f"--rows={rows}", f"--out={tmp_path / 'out'}"]
    program = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), str(ROOT / "dataset"), *words]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "out" / "log.txt").read_text()
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    parts = ["data", "machine", "steps", "half precision", "half precision", "speed", "cells", "cells"]
    assert [line["part"] for line in found] == parts
    assert found[0]["missing"] == "ml-1m" and found[-2]["end"] == found[-1]["end"] == "kept"
    assert len(list((tmp_path / "out" / "cells" / "toy").glob("Popularity-seed2020-*.json"))) == 1
    assert len(list((tmp_path / "out" / "cells" / "toy").glob("Successors-seed2020-*.json"))) == 1
    assert "Popularity, of all" in (tmp_path / "out" / "cells" / "toy.md").read_text()


@pytest.mark.fresh_process
@pytest.mark.skipif(not emulated_device.available(), reason="this PyTorch registers devices from C++ only")
@pytest.mark.parametrize("model", ["SimDiffRec", "DiffuRecSys", "DIMO", "MSGIFSR", "SKNN"])
def test_a_step_elsewhere_draws_the_same_numbers(checks, capsys, tmp_path, model):
    checks.random_data(tmp_path, n_users=40, n_items=20)
    with emulated_device.second_device() as device:
        checks.compare_with_cpu(model, tmp_path, device)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["passed"] is True


def test_a_difference_is_that_of_finite_numbers_and_infinite_ones_are_to_be_the_same(checks):
    infinity = float("inf")
    assert checks.difference(torch.tensor([-infinity, 4.0]), torch.tensor([-infinity, 2.0]), 1) == 0.5
    assert checks.difference(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.0]), 1) == 0.5
    assert checks.difference(torch.tensor([-infinity, 4.0]), torch.tensor([1.0, 4.0]), 1) == infinity
    assert not checks.difference(torch.tensor([1.0]), torch.tensor([float("nan")]), 1) <= checks.CLOSE


def test_random_numbers_of_all_kinds_come_from_the_generator_of_the_cpu(checks):
    def draw():
        torch.manual_seed(1)
        return [torch.randn(3), torch.randint(9, (4,)), torch.empty(2).normal_(), torch.rand_like(torch.ones(2)),
                torch.multinomial(torch.ones(5), 2), torch.randperm(6)]  # fmt: skip

    with checks.DrawnOnCpu():
        found = draw()
    assert all(torch.equal(a, b) for a, b in zip(found, draw()))
