"""The results folder: kills, several programs at once, damaged and foreign files. Some tests train in processes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments import store as stores
from recbole_diffusion.experiments import work
from recbole_diffusion.experiments.selection import Cell
from recbole_diffusion.experiments.store import Store, numbered_locks
from recbole_diffusion.files import write_json
from recbole_diffusion.reports import kept
from recbole_diffusion.testing import cycle_sequences, write_sequences

ROOT = Path(__file__).parents[2]
SMALL = ["--MAX_ITEM_LIST_LENGTH=10", "--topk=[1,5]", "--valid_metric=MRR@5", "--train_batch_size=16", "--k_noise=3",
         "--hidden_size=8", "--use_gpu=False", "--checkpoint_dir=saved"]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return write_sequences(cycle_sequences(), tmp_path / "data", "cycle")


def words(data, out, *more, epochs=1):
    more = [*more, f"--epochs={epochs}"]
    return ["compare", "--models=SimDiffRec", "--datasets=cycle", f"--data_path={data}", f"--out={out}", *SMALL, *more]


def start(data, out, *more, epochs=1):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "recbole_diffusion.cli", *words(data, out, *more, epochs=epochs)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def metrics_of(out):
    """The lines of the table without what depends on the clock."""
    with open(Path(out) / "cycle.csv", encoding="utf-8", newline="") as file:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in csv.DictReader(file)]


def runs_of(out):
    return sorted(path.name for path in Path(out).glob("cycle/*.json"))


def wait_for(condition, seconds=90):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened in time"
        time.sleep(0.05)


# Whole programs


def test_a_killed_command_goes_on_to_the_same_table(data, capsys):
    killed = start(data, "killed", "--seeds=4", epochs=5)
    wait_for(lambda: runs_of("killed"))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 1 <= len(runs_of("killed")) < 4
    before = {name: (Path("killed/cycle") / name).read_bytes() for name in runs_of("killed")}
    Path("killed/index.json").write_text('{"format": 2, "ru', encoding="utf-8")  # as if the kill had hit the index

    assert main(words(data, "killed", "--seeds=4", epochs=5)) == 0
    printed = capsys.readouterr().out
    assert printed.count("kept: ") == len(before) and f"of {4 - len(before)}: " in printed
    assert all((Path("killed/cycle") / name).read_bytes() == content for name, content in before.items())
    assert main(words(data, "whole", "--seeds=4", epochs=5)) == 0
    assert metrics_of("killed") == metrics_of("whole") and len(metrics_of("whole")) == 4
    assert not list(Path("killed/cycle").glob("*.lock.*"))


def test_two_programs_share_the_cells(data):
    programs = [start(data, "shared", "--seeds=4") for _ in range(2)]
    printed = [program.communicate(timeout=180)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], printed
    trained = [re.findall(r"^cell \d of \d: (.*seed \d+)", text, re.MULTILINE) for text in printed]
    assert sorted(trained[0] + trained[1]) == [f"SimDiffRec on cycle, seed {2020 + i}" for i in range(4)]
    assert len(runs_of("shared")) == 4 == len(metrics_of("shared"))


@pytest.mark.slow
def test_jobs_run_side_by_side_and_a_killed_one_costs_its_cell_only(data):
    program = start(data, "jobs", "--seeds=4", "--jobs=2", "--stopping_step=60", "--eval_step=10", epochs=60)
    wait_for(lambda: list(Path("jobs").glob("cycle/*.lock.*")))
    wait_for(lambda: all(path.read_text() for path in Path("jobs").glob("cycle/*.lock.*")))
    victim = next(Path("jobs").glob("cycle/*.lock.*"))
    os.kill(json.loads(victim.read_text())["pid"], signal.SIGKILL)
    printed = program.communicate(timeout=240)[0]
    assert len(runs_of("jobs")) == 4 and len(metrics_of("jobs")) == 4
    assert "runs side by side" in printed and "4 of 4 after" in printed
    failed = [line for line in metrics_of("jobs") if line["error"]]
    # The neighbour may take the dead one's cell over before it is noticed; then nothing is lost at all.
    assert len(failed) == program.returncode <= 1
    assert all("signal 9" in line["error"] for line in failed)


@pytest.mark.slow
def test_jobs_may_have_workers_that_load_data(data):
    program = start(data, "jobs", "--seeds=2", "--jobs=2", "--worker=1")
    printed = program.communicate(timeout=240)[0]
    assert program.returncode == 0, printed
    assert len(runs_of("jobs")) == 2 and not any(line["error"] for line in metrics_of("jobs"))


# Locks


@pytest.fixture
def folder():
    Path("out/d").mkdir(parents=True)
    return Store("out")


def test_one_holder_among_many_threads(folder):
    run_path, holders, gate = Path("out/d/x.json"), [], threading.Barrier(8)

    def claim():
        gate.wait()
        lock = folder.lock(run_path)
        if lock:
            holders.append(lock)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holders) == 1 and folder.lock(run_path) is None
    holders[0].release()
    assert not numbered_locks(run_path)
    again = folder.lock(run_path)
    assert again.is_ours
    again.release()


def write_lock(path, age=0.0, **owner):
    content = {**stores.this_process(), **owner}
    path.write_text(json.dumps(content), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.parametrize(
    "owner, age, free",
    [
        ({}, 0, False),  # this very process
        ({"machine": "another"}, 0, False),
        ({"machine": "another"}, stores.STALE_SECONDS + 60, True),
        ({"pid": 2**22 + 1}, 0, True),  # no such process here
        ({"started": 1.0}, 0, True),  # the number belongs to a younger process
    ],
)
def test_a_lock_is_taken_over_only_from_the_dead(folder, owner, age, free):
    run_path = Path("out/d/x.json")
    write_lock(Path("out/d/x.json.lock.0"), age, **owner)
    lock = folder.lock(run_path)
    assert (lock is not None) == free
    if lock:
        assert lock.path.name == "x.json.lock.1"
        lock.release()
        assert not numbered_locks(run_path)


def test_a_half_written_lock_is_respected_until_it_is_old(folder):
    path = Path("out/d/x.json.lock.0")
    path.write_text('{"mach', encoding="utf-8")
    assert folder.lock(Path("out/d/x.json")) is None
    os.utime(path, (1, 1))
    folder.lock(Path("out/d/x.json")).release()


def test_a_full_disk_is_one_line_and_leaves_no_lock(folder, monkeypatch):
    def fill(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.json, "dump", fill)
    with pytest.raises(UsageError, match="x.json.lock.0' cannot be written: No space left on device"):
        folder.lock(Path("out/d/x.json"))
    assert numbered_locks(Path("out/d/x.json")) == []


def test_who_slept_too_long_knows_that_it_lost(folder):
    slept = folder.lock(Path("out/d/x.json"))
    os.utime(slept.path, (1, 1))
    other = folder.lock(Path("out/d/x.json"))
    assert other.is_ours and not slept.is_ours
    slept.release()
    assert other.is_ours
    other.release()


def test_a_living_lock_beats(folder, monkeypatch):
    monkeypatch.setattr(stores, "HEARTBEAT_SECONDS", 0.05)
    lock = folder.lock(Path("out/d/x.json"))
    os.utime(lock.path, (1, 1))
    wait_for(lambda: lock.path.stat().st_mtime > 1000, seconds=5)
    lock.release()


def cell(name="x", **changes):
    hashes = {"settings": "s", "code": "c", "data": "d", "all": "a"}
    plain = Cell("A", "A", "d", 1, {}, Path(f"out/d/{name}.json"), hashes)
    return replace(plain, **changes)


def test_a_cell_that_was_lost_to_another_program_is_not_overwritten(folder, monkeypatch):
    lock = folder.lock(cell().path)
    os.utime(lock.path, (1, 1))
    other = folder.lock(cell().path)
    monkeypatch.setattr(work.quick_start, "run", lambda *args, **kwargs: {"late": True})
    assert work.run_cell(cell(), lock, None) is None and not cell().path.exists()
    monkeypatch.setattr(work.quick_start, "run", None)
    assert work.run_cell(cell(), lock, None) is None and not cell().failed_path.exists()  # nor is it a failure
    other.release()


def test_a_wait_for_others_is_told_once_until_something_moves(folder, monkeypatch):
    told, looks = [], []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) % 3 == 0:
            write_json({"ran": True}, cell("xy"[len(looks) // 3 - 1]).path)

    monkeypatch.setattr(work.time, "sleep", sleep)
    others = [folder.lock(cell(name).path) for name in "xy"]
    assert len(list(work.work([cell("x"), cell("y")], folder, folder.now(), told.append))) == 2
    assert told == [None, None] and len(looks) == 6
    for lock in others:
        lock.release()


def test_a_failure_of_another_program_is_not_tried_again(folder, monkeypatch):
    tried = []
    monkeypatch.setattr(work, "run_cell", lambda cell, lock, cache: tried.append(cell) or {"ran": True})
    started = folder.now()
    os.utime(write_failure(cell("old")), (started - 5,) * 2)
    os.utime(write_failure(cell("new")), (started + 5,) * 2)
    found = {one.path.name: result for one, result in work.work([cell("old"), cell("new")], folder, started, print)}
    assert tried == [cell("old")] and found["new.json"]["error"] == "broken"


def test_the_end_of_a_process_is_the_failure_of_its_cell(folder):
    dead = SimpleNamespace(pid=2**22 + 1, exitcode=-9)
    write_lock(Path("out/d/y.json.lock.0"), pid=dead.pid)
    write_lock(Path("out/d/x.json.lock.0"), pid=1)
    assert work.report_death(dead, [cell("x"), cell("y")])
    assert "signal 9" in json.loads(cell("y").failed_path.read_text())["error"] and not cell("x").failed_path.exists()
    assert not work.report_death(SimpleNamespace(pid=2**22 + 2, exitcode=1), [cell("x"), cell("y")])


def write_failure(cell):
    write_json({"error": "broken", "fingerprint": {}}, cell.failed_path)
    return cell.failed_path


# Index


def write_run(name, **content):
    write_json({"row": "A", "model": "A", "dataset": "d", "seed": 1, "fingerprint": {"all": name}, **content},
               Path(f"out/d/{name}.json"))  # fmt: skip


def test_the_index_is_made_from_the_runs(folder):
    write_run("one", seconds={"training": 3.0})
    write_run("two.failed", error="broken")
    runs = folder.refresh_index()
    assert set(runs) == {"d/one.json", "d/two.failed.json"}
    assert runs["d/one.json"]["seconds"] == 3.0 and runs["d/two.failed.json"]["error"] == "broken"
    stored = Path("out/index.json").read_bytes()
    Path("out/index.json").unlink()
    folder.refresh_index()
    assert Path("out/index.json").read_bytes() == stored
    write_run("one", seconds={"training": 4.0, "test": 1.0})
    assert Store("out").refresh_index()["d/one.json"]["seconds"] == 4.0
    Path("out/d/one.json").unlink()
    assert set(folder.refresh_index()) == {"d/two.failed.json"}


@pytest.fixture
def gone(monkeypatch):
    """Names of files that another program deletes between the look into the folder and the look at the file."""
    names, look = set(), Path.stat

    def stat(path, **options):
        if path.name in names:
            raise FileNotFoundError(path)
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    return names


def test_files_that_other_programs_delete_meanwhile_are_passed_over(folder, gone):
    write_run("one")
    write_run("two.failed", error="broken")
    for name in (".a.tmp", ".b.tmp"):
        Path("out/d", name).touch()
        os.utime(Path("out/d", name), (1, 1))
    gone.update(["two.failed.json", ".a.tmp"])
    assert set(folder.refresh_index()) == {"d/one.json"}
    folder.sweep_leftovers()
    assert {path.name for path in Path("out/d").glob(".*.tmp")} == {".a.tmp"}


def test_only_changed_runs_are_read_again(folder, monkeypatch):
    write_run("one")
    folder.refresh_index()
    monkeypatch.setattr(kept, "read_json", lambda path: pytest.fail(f"{path} was read again"))
    folder.refresh_index()


def test_a_folder_of_another_version_is_refused(folder):
    Path("out/index.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UsageError, match="another version .format 99, not 2.: use another --out"):
        Store("out")
    Path("out/index.json").unlink()
    Path("out/d/old.json").write_text('{"row": "A"}', encoding="utf-8")
    with pytest.raises(UsageError, match="format none"):
        Store("out")


def test_leftovers_of_killed_programs_go_after_an_hour(folder):
    fresh, old = Path("out/d/.a.json.1.tmp"), Path("out/.index.json.2.tmp")
    fresh.touch(), old.touch()
    os.utime(old, (1, 1))
    folder.sweep_leftovers()
    assert fresh.is_file() and not old.exists()


def test_the_lock_of_a_finished_run_goes_with_its_owner(folder):
    """Killed between keeping a run and giving it back."""
    for name in ("finished", "unfinished"):
        path = Path(f"out/d/{name}.json.lock.0")
        path.write_text(json.dumps({**stores.this_process(), "started": 0}), encoding="utf-8")
    living = folder.lock(Path("out/d/living.json"))
    for name in ("finished", "living"):
        Path(f"out/d/{name}.json").touch()
    folder.sweep_leftovers()
    assert {path.name for path in Path("out/d").glob("*.lock.*")} == {"unfinished.json.lock.0", "living.json.lock.0"}
    living.release()
