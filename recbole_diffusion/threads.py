"""How many threads PyTorch takes on this machine, and how they wait for each other.

Threads of OpenMP spin while they wait for each other. Where other programs want the same cores, or a container may use
fewer than it sees, they burn the time of the one they wait for, and an epoch takes many times as long; on idle cores a
thread that sleeps at once loses some microseconds at every operation. OpenMP reads its variables once, when PyTorch is
imported, so the command line sets them before: this module imports neither PyTorch nor NumPy.
"""

import math
import os
import sys
from pathlib import Path

# Whoever sets one of these has said how threads wait, how many there are. PyTorch's builds of PyPI come with GNU's
# OpenMP (libgomp), which reads OMP_ and GOMP_; KMP_ is for builds with Intel's or LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
BUSY, IDLE = ("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "10000")  # ways to wait: asleep, asleep after some 10 us
WORDS = {BUSY: "passively on a busy machine", IDLE: "briefly awake, then passively"}
CHOSEN = "RECBOLE_DIFFUSION_CHOSE"  # tells processes started by this one which values are no wish of the user


def choose(environment=None):
    """Set what the user has not: how threads wait, and their number where a quota or other processes ask for it.

    On a busy machine (:func:`is_busy`) a thread that waits sleeps at once, on others it spins briefly before.

    Does nothing once PyTorch is imported. Without a quota PyTorch's own number stays, which heeds the affinity, so that
    sums are what they were to the last digit.

    Args:
        environment (dict, optional): variables to read and set, those of this process by default.
    """
    if "torch" in sys.modules:
        return
    environment = os.environ if environment is None else environment
    for name in (*WAITING, *NUMBER):  # chosen by the program that started this one, maybe for fewer cores
        if environment.get(name) and not set_by_user([name], environment):
            del environment[name]
    chosen = {}
    if not set_by_user(WAITING, environment):
        name, value = BUSY if is_busy() else IDLE
        chosen[name] = value
    if not set_by_user(NUMBER, environment):
        processes = environment.get("LOCAL_WORLD_SIZE", "")
        number = part_of_cores(int(processes) if processes.isdecimal() else 1)
        if number < allowed_cores():
            chosen["OMP_NUM_THREADS"] = str(number)
    environment.update(chosen)
    environment[CHOSEN] = " ".join(f"{name}={value}" for name, value in chosen.items())


def set_by_user(names, environment=None):
    """Those of the variables that are set, and not by :func:`choose` here or in the program that started this one."""
    environment = os.environ if environment is None else environment
    chosen = environment.get(CHOSEN, "").split()
    return [name for name in names if environment.get(name) and f"{name}={environment[name]}" not in chosen]


def part_of_cores(processes):
    """Threads for each of several processes that share the cores and the quota of this one, at least 1."""
    quota = cpu_quota()
    cores = allowed_cores() if quota is None else min(allowed_cores(), math.floor(quota))
    return max(1, cores // max(1, processes))


def share(processes):
    """Let PyTorch, imported already, take this process's part of the cores unless the user has set a number.

    Args:
        processes (int): how many stand side by side on this machine.
    """
    if not set_by_user(NUMBER):
        import torch

        torch.set_num_threads(part_of_cores(processes))


_before = None  # PyTorch's number of threads without the setting, while a run has it


def follow(setting):
    """Let PyTorch take as many threads as the setting ``threads`` of a run says.

    Args:
        setting (int, optional): None takes back what an earlier run of this process has set.
    """
    global _before
    import torch

    if setting is None:
        setting, _before = _before, None
    elif _before is None:
        _before = torch.get_num_threads()
    if setting is not None:
        torch.set_num_threads(setting)


def describe():
    """One line for the log: the threads that PyTorch takes, how they wait, why, and what changes it."""
    import torch

    number, quota = torch.get_num_threads(), cpu_quota()
    reasons = ["setting threads"] if _before is not None else values(set_by_user(NUMBER))
    reasons = ", ".join([f"affinity {allowed_cores()}", f"quota {'none' if quota is None else f'{quota:g}'}", *reasons])
    advice = ""
    if quota is not None and number > part_of_cores(1):
        advice = f"; more threads than the quota hinder each other, try threads: {part_of_cores(1)}"
    spins = f", {waiting()}" * (number > 1)
    return f"{count(number)} ({reasons}){spins}{advice}; threads, OMP_NUM_THREADS and OMP_WAIT_POLICY override"


def examine():
    """Two lines for ``doctor``: what the machine allows, and what :func:`choose` makes of it; neither needs PyTorch."""
    quota = cpu_quota()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    allowed = f"{allowed_cores()} allowed (affinity), {'no quota' if quota is None else f'quota {quota:g}'}"
    number = ", ".join(values(set_by_user(NUMBER))) or f"at most {count(part_of_cores(1))}"
    policy = ", ".join(values(set_by_user(WAITING))) or f"waiting {WORDS[BUSY if is_busy() else IDLE]}"
    return [f"cores: {os.cpu_count() or 1} visible, {allowed}, {load}", f"commands take: {number}, {policy}"]


def doubts():
    """What the user's variables do that slows PyTorch down: pairs of what it is and what to do."""
    cores = part_of_cores(1)
    for name in set_by_user(NUMBER):
        number = os.environ[name].partition(",")[0].strip()
        if number.isdecimal() and int(number) > cores:
            yield f"{name} is {number}, more than the {cores} that affinity and quota allow", f"unset {name}, or set it to {cores}"
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        yield "OMP_WAIT_POLICY=active lets threads spin, which takes the time of others on busy cores", "unset OMP_WAIT_POLICY"


def waiting():
    """How the threads of PyTorch wait for each other, in words."""
    by_user = set_by_user(WAITING)
    if by_user:
        return f"waiting by {', '.join(values(by_user))}"
    for (name, value), words in WORDS.items():
        if os.environ.get(name) == value:
            return f"waiting {words}"
    return "spinning while they wait, since PyTorch was imported before this could be set"


def values(names):
    """Variables of the environment as ``NAME=VALUE``."""
    return [f"{name}={os.environ[name]}" for name in names]


def count(number):
    """``1 thread``, ``2 threads``."""
    return f"{number} thread{'s' * (number != 1)}"


# What the machine allows


def is_busy():
    """Whether other programs want the cores: a load of the last minute (on Linux) of at least half of those allowed."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] >= allowed_cores() / 2


def allowed_cores():
    """Cores on which this process may run, hyper-threads counted."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def cpu_quota(root="/"):
    """Cores' worth of time that the control groups of Linux grant, the smallest of all groups above this process.

    Args:
        root (str | Path): where ``proc`` lies, for tests; the mounts that it names are looked for below it as well.

    Returns:
        float | None: None where nothing is limited, or nothing is known.
    """
    quotas = []
    for folder, mount in group_folders(Path(root)):
        while True:
            quotas += [quota for quota in (quota_v2(folder), quota_v1(folder)) if quota]
            if folder == mount or folder == folder.parent:
                break
            folder = folder.parent
    return min(quotas, default=None)


def group_folders(root):
    """Pairs of folders: this process's control group of processor time, and the mount that holds it.

    Both versions of control groups may be mounted side by side. Formats: proc_pid_mountinfo(5), cgroups(7).
    """
    groups = {}  # controllers, "" for version 2 -> group
    for line in lines_of(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups.update({name: group for name in controllers.split(",")})
    for line in lines_of(root / "proc/self/mountinfo"):
        left, _, right = (part.split() for part in line.partition(" - "))
        if len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        controller = "" if right[0] == "cgroup2" else "cpu"
        if controller and controller not in right[2].split(","):
            continue
        top, mount = (unescape(left[i]).strip("/") for i in (3, 4))
        group = groups.get(controller, "/").strip("/")
        inside = group[len(top) :].strip("/") if f"{group}/".startswith(f"{top}/") or not top else ""
        if ".." in inside.split("/"):  # a group outside of what this container sees
            inside = ""
        yield root / mount / inside, root / mount


def unescape(path):
    """Blanks in paths of ``/proc`` are written in octal."""
    return path.replace("\\040", " ")


def quota_v2(folder):
    """Cores by ``cpu.max``: ``QUOTA PERIOD`` in microseconds, ``max`` for no limit."""
    words = " ".join(lines_of(folder / "cpu.max")).split()
    return ratio(*words) if len(words) == 2 else None


def quota_v1(folder):
    """Cores by ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``, -1 for no limit."""
    quota, period = (" ".join(lines_of(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return ratio(quota, period)


def ratio(quota, period):
    """Quotient of two texts; None where one is no positive number."""
    if not (quota.strip().isdecimal() and period.strip().isdecimal() and int(period)):
        return None
    return int(quota) / int(period) or None


def lines_of(path):
    """Lines of a file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
