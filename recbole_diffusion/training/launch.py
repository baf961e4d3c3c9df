"""Starting several processes that train or evaluate one model, and what becomes of them."""

import json
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from recbole_diffusion import processes, threads
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import write_json


def split_group(config_dict):
    """Separate what says how many processes train from all other settings: (settings, arguments of run_processes).

    Raises:
        UsageError: when a number is impossible, or ``torchrun`` has started the processes already.
    """
    settings = dict(config_dict or {})
    group = {key: settings.pop(key) for key in ("nproc", "world_size", "ip", "port", "group_offset") if key in settings}
    for key in ("nproc", "world_size", "group_offset"):
        value = group.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{key} must be a whole number, got '{value}'")
    nproc = group.get("nproc", 1)
    total = max(group.get("world_size", 0), nproc)
    if nproc < 1 or not 0 <= group.get("group_offset", 0) <= total - nproc:
        raise UsageError(f"nproc and group_offset must fit into world_size {total}, got {group}")
    if total == 1:
        return settings, {}
    if processes.launched():
        raise UsageError("torchrun has started the processes already: leave out --nproc and --world_size")
    return settings, {**group, "nproc": nproc, "world_size": total}


def run_processes(work, arguments, nproc, world_size, ip="localhost", port=None, group_offset=0,
                  advice="the same command with --resume goes on"):  # fmt: skip
    """Work in several processes of this machine, which may belong to more on others.

    Args:
        work (callable): what each process does, such as :func:`recbole_diffusion.run`; returns JSON values.
        arguments (tuple): its arguments.
        nproc (int): processes to start here.
        world_size (int): processes on all machines together.
        ip (str): address of the machine with ``group_offset`` 0.
        port (int, optional): a free port there, the same on all machines; chosen freely for a single machine.
        group_offset (int): processes on the machines before this one.
        advice (str): what helps where the system has ended a process.

    Returns:
        dict: the result of ``work``; all processes have the same.

    Raises:
        UsageError: what ``work`` raises, and for several machines without an address.
        KeyboardInterrupt: after Ctrl-C, with the words that say how to go on.
    """
    if port is None and world_size > nproc:
        raise UsageError("several machines need --ip and --port of the first one")
    environment = {"MASTER_ADDR": ip, "MASTER_PORT": port or free_port(), "WORLD_SIZE": world_size}
    environment["LOCAL_WORLD_SIZE"] = nproc
    with tempfile.TemporaryDirectory() as folder:
        group = torch.multiprocessing.spawn(
            run_in_group, (group_offset, environment, folder, work, arguments), nprocs=nproc, join=False
        )
        try:
            while not group.join():
                pass
        except (torch.multiprocessing.ProcessExitedException, KeyboardInterrupt) as error:
            end_processes(group.processes)
            for kind in (UsageError, KeyboardInterrupt):
                for words in sorted(Path(folder).glob(f"{kind.__name__}-*.txt")):
                    raise kind(words.read_text(encoding="utf-8")) from None
            if getattr(error, "signal_name", None):
                raise UsageError(
                    f"process {error.error_index} was ended by {error.signal_name}, which a lack of memory may do: {advice}"
                ) from None
            raise
        return json.loads(Path(folder, "result-0.json").read_text(encoding="utf-8"))


def end_processes(group, patience=30):
    """Give processes that Ctrl-C has reached some seconds to end; one that waits for another's GPU never would."""
    deadline = time.monotonic() + patience
    for process in group:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.terminate()


def run_in_group(local_rank, group_offset, environment, folder, work, arguments):
    """What each process of :func:`run_processes` does: the same as under ``torchrun``, with its outcome in a file."""
    environment = {**environment, "LOCAL_RANK": local_rank, "RANK": group_offset + local_rank}
    os.environ.update({key: str(value) for key, value in environment.items()})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which the parent's end is told; a shell's job ignores it
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
    threads.share(environment["LOCAL_WORLD_SIZE"])
    torch.multiprocessing.set_start_method(None, force=True)  # a DataLoader's workers start as in a run by itself
    try:
        write_json(work(*arguments), Path(folder, f"result-{local_rank}.json"))
    except (UsageError, KeyboardInterrupt) as error:
        kind = UsageError if isinstance(error, UsageError) else KeyboardInterrupt
        Path(folder, f"{kind.__name__}-{local_rank}.txt").write_text(str(error), encoding="utf-8")
        sys.exit(2)


def free_port():
    """A port of this machine that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
