"""Threads by affinity and quota, waiting by the load, and what the user has set, which wins."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_diffusion import run, threads
from recbole_diffusion.cli import main
from recbole_diffusion.testing import cycle_sequences, write_sequences

ROOT = Path(__file__).parents[1]
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"


@pytest.fixture
def system(tmp_path):
    """A function that writes files of a system below a folder, which it returns."""

    def write(groups, mounts, **files):
        for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path / "root"

    return write


@pytest.fixture
def fresh(monkeypatch):
    """As if PyTorch was not imported and nobody had set a variable, on eight cores without a quota."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    monkeypatch.setattr(threads, "is_busy", lambda: True)


def v1(folder, quota, period="100000"):
    folder = f"sys/fs/cgroup/cpu,cpuacct{folder}"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


def v2(folder, text):
    return {f"sys/fs/cgroup{folder}/cpu.max": text}


@pytest.mark.parametrize(
    "groups, mounts, files, quota",
    [
        ("0::/", V2.format(top="/"), v2("", "200000 100000"), 2.0),
        ("0::/", V2.format(top="/"), v2("", "max 100000"), None),
        ("0::/", V2.format(top="/"), {}, None),
        ("0::/a/b", V2.format(top="/"), {**v2("/a", "150000 100000"), **v2("/a/b", "max 100000")}, 1.5),
        ("0::/a/b", V2.format(top="/"), {**v2("/a", "400000 100000"), **v2("/a/b", "50000 100000")}, 0.5),
        ("0::/docker/1", V2.format(top="/docker/1"), v2("", "300000 100000"), 3.0),
        ("0::/docker/1/x", V2.format(top="/docker/1"), v2("/x", "300000 100000"), 3.0),
        ("0::/docker/12", V2.format(top="/docker/1"), {**v2("", "300000 100000"), **v2("/2", "100000 100000")}, 3.0),
        ("0::/../other", V2.format(top="/"), v2("", "300000 100000"), 3.0),
        ("4:cpu,cpuacct:/\n0::/", V1.format(top="/"), v1("", "250000"), 2.5),
        ("4:cpu,cpuacct:/", V1.format(top="/"), v1("", "-1"), None),
        ("4:cpu,cpuacct:/k/p", V1.format(top="/"), {**v1("/k", "600000"), **v1("/k/p", "-1")}, 6.0),
        ("4:cpu,cpuacct:/k", V1.format(top="/k"), v1("", "50000", "20000"), 2.5),
        ("4:memory:/k\n3:cpu:/", V1.format(top="/"), {**v1("", "300000"), **v1("/k", "100000")}, 3.0),
        ("4:cpu,cpuacct:/\n0::/s", f"{V1.format(top='/')}\n{V2.format(top='/')}", {**v1("", "900000"), **v2("/s", "max 1")}, 9.0),
        ("0::/", V2.format(top="/"), v2("", "lots 100000"), None),
        ("0::/", V2.format(top="/"), v2("", "200000 0"), None),
        ("0::/", V2.format(top="/"), v2("", "200000"), None),
        ("4:cpu,cpuacct:/", V1.format(top="/"), v1("", "", ""), None),
        ("nonsense", f"broken line\n\n{V2.format(top='/')}", v2("", "200000 100000"), 2.0),
    ],
)  # fmt: skip
def test_quota(system, groups, mounts, files, quota):
    assert threads.cpu_quota(system(groups, mounts, **files)) == quota


def test_no_files_are_no_quota(tmp_path):
    assert threads.cpu_quota(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from recbole_diffusion import threads; "
    code += "print(threads.allowed_cores(), threads.part_of_cores(1))"
    assert outcome(code) == "1 1"


def outcome(code, **variables):
    """What a fresh Python prints, with these variables of OpenMP and no others."""
    kept = {key: value for key, value in os.environ.items() if key not in (*threads.NUMBER, *threads.WAITING)}
    env = {**kept, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "given, quota, chosen",
    [
        ({}, None, {"OMP_WAIT_POLICY": "passive"}),
        ({}, 2.7, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}),
        ({}, 0.5, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}),
        ({}, 8.0, {"OMP_WAIT_POLICY": "passive"}),
        ({}, 64.0, {"OMP_WAIT_POLICY": "passive"}),
        ({"LOCAL_WORLD_SIZE": "3"}, None, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}),
        ({"LOCAL_WORLD_SIZE": "3"}, 4.0, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}),
        ({"LOCAL_WORLD_SIZE": "100"}, None, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}),
        ({"LOCAL_WORLD_SIZE": "many"}, None, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_NUM_THREADS": "6"}, 2.0, {"OMP_WAIT_POLICY": "passive"}),
        ({"MKL_NUM_THREADS": "6"}, 2.0, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_WAIT_POLICY": "active"}, 2.0, {"OMP_NUM_THREADS": "2"}),
        ({"GOMP_SPINCOUNT": "100"}, None, {}),
        ({"KMP_BLOCKTIME": "0"}, None, {}),
    ],
)
def test_what_is_chosen_and_that_the_user_wins(fresh, monkeypatch, given, quota, chosen):
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    environment = dict(given)
    threads.choose(environment)
    environment.pop(threads.CHOSEN)
    assert environment == {**given, **chosen}


@pytest.mark.parametrize(
    "load, cores, chosen",
    [
        (0.0, 2, {"GOMP_SPINCOUNT": "10000"}),
        (0.99, 2, {"GOMP_SPINCOUNT": "10000"}),
        (1.0, 2, {"OMP_WAIT_POLICY": "passive"}),
        (31.0, 64, {"GOMP_SPINCOUNT": "10000"}),
        (32.5, 64, {"OMP_WAIT_POLICY": "passive"}),
    ],
)
def test_the_load_says_how_threads_wait(monkeypatch, load, cores, chosen):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "allowed_cores", lambda: cores)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    environment = {}
    threads.choose(environment)
    environment.pop(threads.CHOSEN)
    assert environment == chosen


def test_a_system_that_knows_no_load_is_not_busy(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    assert not threads.is_busy()


def test_a_choice_for_an_idle_machine_does_not_outlive_it(fresh, monkeypatch):
    environment = {}
    monkeypatch.setattr(threads, "is_busy", lambda: False)
    threads.choose(environment)
    monkeypatch.setattr(threads, "is_busy", lambda: True)
    threads.choose(environment)
    assert environment["OMP_WAIT_POLICY"] == "passive" and "GOMP_SPINCOUNT" not in environment


def test_a_choice_of_the_program_before_is_no_wish_of_the_user(fresh, monkeypatch):
    environment = {}
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.0)
    threads.choose(environment)
    assert environment["OMP_NUM_THREADS"] == "2" and threads.set_by_user(threads.NUMBER, environment) == []
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)  # a program started by it, outside of the quota
    threads.choose(environment)
    assert "OMP_NUM_THREADS" not in environment and environment["OMP_WAIT_POLICY"] == "passive"
    environment["OMP_NUM_THREADS"] = "2"
    threads.choose(environment)
    assert threads.set_by_user(threads.NUMBER, environment) == ["OMP_NUM_THREADS"]


def test_nothing_is_set_where_pytorch_is_imported():
    environment = {}
    threads.choose(environment)
    assert environment == {}


# A quota in a fresh process, before its first import of PyTorch; os.cpu_count() and the affinity are those of the machine.
QUOTA = """
import os, sys, json
from recbole_diffusion import threads
threads.cpu_quota, threads.is_busy = lambda: {quota}, lambda: True
assert not {{"torch", "numpy"}} & set(sys.modules)
from recbole_diffusion import cli
"""


@pytest.mark.parametrize("given, number", [({}, 1), ({"OMP_NUM_THREADS": "2"}, min(2, threads.allowed_cores()))])
def test_the_command_line_chooses_before_pytorch_is_imported(tmp_path, given, number):
    code = QUOTA.format(quota=1.2) + "cli.main(['doctor']); import torch; print(json.dumps([torch.get_num_threads(), dict(os.environ)]))"
    used, environment = json.loads(outcome(code, **given).splitlines()[-1])
    assert used == number and environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["OMP_NUM_THREADS"] == given.get("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("busy, policy, rounds", [(True, "PASSIVE", "0"), (False, "", "10000")])
def test_pytorch_of_this_machine_reads_the_choice(busy, policy, rounds):
    """Passive threads spin no round: GNU's OpenMP says so when asked, PyTorch's copy as well."""
    code = f"from recbole_diffusion import threads; threads.is_busy = lambda: {busy}; threads.choose(); import torch"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"}
    env = {key: value for key, value in env.items() if key not in threads.WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("PyTorch with another OpenMP than GNU's")
    assert f"OMP_WAIT_POLICY = '{policy}" in done.stderr and f"GOMP_SPINCOUNT = '{rounds}'" in done.stderr


# Log, setting, children


@pytest.fixture
def folder(tmp_path):
    return write_sequences(cycle_sequences(n_users=12), tmp_path / "data", "cycle")


def train(folder, **settings):
    given = {"data_path": str(folder), "epochs": 1, "show_progress": False, "use_gpu": False, "topk": [10], "k_noise": 2}
    return run("SimDiffRec", "cycle", config_dict={**given, **settings}, saved=False)


def test_a_setting_holds_for_one_run(folder, caplog, monkeypatch):
    monkeypatch.setattr(threads, "set_by_user", lambda names: [])
    before = torch.get_num_threads()
    with caplog.at_level(logging.INFO):
        assert train(folder, threads=before + 1)["threads"] == before + 1
        assert f"{before + 1} threads (affinity" in caplog.text and "setting threads)" in caplog.text
        caplog.clear()
        assert train(folder)["threads"] == before
    assert f"{threads.count(before)} (affinity {threads.allowed_cores()}, quota" in caplog.text
    assert "threads, OMP_NUM_THREADS and OMP_WAIT_POLICY override" in caplog.text


def test_it_is_no_part_of_what_a_run_is(folder):
    from recbole_diffusion.experiments.fingerprint import settings_hash
    from recbole_diffusion.settings.config import DiffusionConfig
    from recbole_diffusion.training.checkpoint import settings_fingerprint

    given = {"data_path": str(folder)}
    one, other = (DiffusionConfig("SimDiffRec", "cycle", None, {**given, "threads": n}) for n in (None, 3))
    assert settings_hash(one) == settings_hash(other)
    assert settings_fingerprint(one.plain()) == settings_fingerprint(other.plain())


def test_a_wrong_number_is_refused(folder, capsys):
    assert main(["--model=SimDiffRec", "--dataset=cycle", f"--data_path={folder}", "--threads=0"]) == 2
    assert "threads must lie in [1, inf), got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables, quota, words",
    [
        ({}, None, "quota none), spinning while they wait, since PyTorch was imported before"),
        ({"OMP_WAIT_POLICY": "passive", threads.CHOSEN: "OMP_WAIT_POLICY=passive"}, 9.0, "quota 9), waiting passively on a busy"),
        ({"GOMP_SPINCOUNT": "10000", threads.CHOSEN: "GOMP_SPINCOUNT=10000"}, None, "waiting briefly awake, then passively;"),
        ({"GOMP_SPINCOUNT": "7"}, None, "waiting by GOMP_SPINCOUNT=7;"),
        ({"OMP_NUM_THREADS": "3"}, None, "quota none, OMP_NUM_THREADS=3), spinning"),
        ({}, 2.5, "more threads than the quota hinder each other, try threads: 2;"),
    ],
)
def test_the_line_says_why(monkeypatch, variables, quota, words):
    for name in (*threads.NUMBER, *threads.WAITING, threads.CHOSEN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    line = threads.describe()
    assert line.startswith("4 threads (affinity 8, ") and words in line and "\n" not in line


@pytest.mark.parametrize("given, used", [({}, "2"), ({"OMP_NUM_THREADS": "1"}, "1"), ({"MKL_NUM_THREADS": "1"}, "1")])
def test_processes_side_by_side_share_what_is_allowed(given, used):
    code = "import torch; from recbole_diffusion import threads; threads.allowed_cores = lambda: 9; "
    code += "threads.cpu_quota = lambda: 6.5; threads.share(3); print(torch.get_num_threads())"
    assert outcome(code, **given) == used


def test_processes_of_one_training_share_what_is_allowed(tmp_path, folder):
    code = f"""
import os
if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="64", {threads.CHOSEN}="OMP_NUM_THREADS=64")
    from recbole_diffusion import run
    result = run("SimDiffRec", "cycle", None, dict(data_path={str(folder)!r}, epochs=1, show_progress=False, nproc=2,
                 use_gpu=False, topk=[10], k_noise=2), saved=False)
    print(result["threads"])
"""
    (tmp_path / "start.py").write_text(code)
    kept = {key: value for key, value in os.environ.items() if key not in (*threads.NUMBER, *threads.WAITING)}
    env = {**kept, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, tmp_path / "start.py"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(threads.part_of_cores(2))


# doctor


def test_doctor_tells_what_the_machine_allows(monkeypatch, capsys):
    for name in (*threads.NUMBER, *threads.WAITING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "getloadavg", lambda: (5.25, 1, 1))  # of 8 cores
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.5)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    main(["doctor"])
    output = capsys.readouterr().out
    assert "cores: 16 visible, 8 allowed (affinity), quota 2.5, load 5.2\n" in output
    assert "commands take: at most 2 threads, waiting passively on a busy machine\n" in output
    assert "note: OMP" not in output
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["doctor"])
    output = capsys.readouterr().out
    assert "commands take: OMP_NUM_THREADS=8, OMP_WAIT_POLICY=ACTIVE\n" in output
    assert "note: OMP_NUM_THREADS is 8, more than the 2 that" in output and "    unset OMP_NUM_THREADS, or set it to 2" in output
    assert "note: OMP_WAIT_POLICY=active lets" in output
