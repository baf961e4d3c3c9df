"""The folder of a comparison: one file per run, an index, and locks that programs and machines share.

Every file is written beside its target and renamed, so that a program may be killed at any moment. The files of the
runs are the truth; ``index.json`` is made from them and can be deleted.
"""

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

import psutil

from recbole_diffusion.errors import UsageError
from recbole_diffusion.reports.kept import KeptRuns

HEARTBEAT_SECONDS = 15
STALE_SECONDS = 120  # a lock whose owner was not heard of for so long belongs to nobody
LEFTOVER_SECONDS = 3600  # temporary files older than this come from killed programs


class Store(KeptRuns):
    """A results folder.

    Args:
        folder (str | Path): made when the first run is kept.

    Raises:
        UsageError: when the folder was written by another version.
    """

    def sweep_leftovers(self):
        """Remove old temporary files of killed programs, and locks of finished runs whose owner is dead."""
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("*/.*.tmp")]:
            try:
                if self.now() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # renamed by its owner, or swept by another program
                continue
        for lock in self.folder.glob("*/*.lock.*"):
            if run_of(lock).is_file() and is_abandoned(self, lock):
                lock.unlink(missing_ok=True)

    def now(self):
        """Time by the clock that stamps the files, which may be another machine's."""
        probe = self.folder / f".{secrets.token_hex(4)}.tmp"
        self.folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def lock(self, path):
        """A :class:`Lock` for one run, or None while somebody else holds it."""
        return Lock.take(self, path)


class Lock:
    """The right to do one run.

    Locks of one run are numbered files made with ``O_EXCL``. The highest number holds. When its owner is dead, or was
    silent for ``STALE_SECONDS``, the next number may be made, which only one program can do; a program that was only
    asleep sees the higher number and knows that it lost. No file is ever renamed or taken away from a living owner.
    """

    def __init__(self, path):
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, store, run):
        """See :meth:`Store.lock`. Raises UsageError when the disk is full."""
        held = numbered_locks(run)
        number = 0
        if held:
            number, newest = held[-1]
            if not is_abandoned(store, newest):
                return None
            number += 1
        path = run.with_name(f"{run.name}.lock.{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(this_process(), file)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UsageError(f"'{path}' cannot be written: {error.strerror or error}") from None
        return cls(path)

    @property
    def is_ours(self):
        """Whether nobody took over."""
        locks = numbered_locks(run_of(self.path))
        return bool(locks) and locks[-1][1] == self.path

    def release(self):
        """Give the run back; lower numbers go first, so that the highest never stands for less than it is."""
        self._stop.set()
        self._thread.join()
        if self.is_ours:
            for _, path in numbered_locks(run_of(self.path)):
                path.unlink(missing_ok=True)

    def _beat(self):
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError:  # the folder was deleted, or is away for a moment
                continue


def run_of(lock):
    """Path of the run that a lock is for."""
    return lock.with_name(lock.name.rpartition(".lock.")[0])


def numbered_locks(run):
    """``(number, path)`` of all locks of a run, in order."""
    prefix = f"{run.name}.lock."
    found = [path for path in run.parent.glob("*.lock.*") if path.name.startswith(prefix)]
    return sorted((int(path.name[len(prefix) :]), path) for path in found)


def is_abandoned(store, path):
    """Whether the owner of a lock is dead or was silent for too long."""
    try:
        silent, text = store.now() - path.stat().st_mtime, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False  # just released: the caller asks again later
    if silent > STALE_SECONDS:
        return True
    try:
        owner = json.loads(text)
    except ValueError:
        return False  # being written, or cut off, in which case its age will tell
    return owner["machine"] == this_machine() and not is_alive(owner)


def is_alive(owner):
    """Whether the process of a lock of this machine still runs; numbers of processes are used again."""
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def this_process():
    """What a lock says about its owner."""
    process = psutil.Process()
    return {"machine": this_machine(), "pid": process.pid, "started": process.create_time(), "at": time.ctime()}


def this_machine():
    """A name for the space in which process numbers mean something: the machine, its boot, its container."""
    parts = [socket.gethostname()]
    for read, place in ((Path.read_text, "/proc/sys/kernel/random/boot_id"), (os.readlink, "/proc/self/ns/pid")):
        try:
            parts.append(str(read(Path(place))).strip())
        except OSError:
            continue
    return " ".join(parts)
