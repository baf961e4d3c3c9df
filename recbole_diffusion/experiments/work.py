"""Running the cells of a comparison: one after another, side by side, and beside other programs on one folder."""

import multiprocessing
import os
import sys
import threading
import time
import traceback

import torch

from recbole_diffusion import quick_start, threads
from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.errors import UsageError
from recbole_diffusion.experiments.progress import Progress
from recbole_diffusion.experiments.store import numbered_locks
from recbole_diffusion.files import write_json
from recbole_diffusion.reports.kept import read_json

POLL_SECONDS = 2


def run_missing(cells, results, store, jobs, save_tables, order="given"):
    """Train every cell without a result.

    Args:
        cells (list[Cell]): the selection.
        results (list[dict | None]): of the same length; filled in place.
        store (Store): the folder, which other programs may use at the same time.
        jobs (int): how many runs stand side by side.
        save_tables (callable): takes the results so far; called after every cell.
        order (str): ``given``, or ``cost``, see :class:`Progress`.
    """
    missing = {cell.path: cell for cell, result in zip(cells, results) if result is None}
    if not missing:
        return
    store.sweep_leftovers()
    progress = Progress(list(missing.values()), [result for result in results if result], jobs, order)

    def keep(cell, result):
        for i, other in enumerate(cells):
            if other.path == cell.path:
                results[i] = {**result, **other.describe()}
        progress.add(cell, result)
        save_tables(results)
        store.refresh_index()

    started = store.now()
    try:
        if jobs == 1:
            for cell, result in work(progress.cells, store, started, progress.announce):
                keep(cell, result)
        else:
            run_side_by_side(progress.cells, store, started, jobs, keep, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished cells are kept, the same command goes on with the rest") from None


def work(cells, store, started, announce):
    """Run the cells that nobody else runs or has run, and wait for those that somebody else runs.

    Args:
        cells (list[Cell]): in the order in which they are wanted.
        store (Store): the folder.
        started (float): time of the folder at the start of the command; older failures are tried again.
        announce (callable): called with a cell before it is trained, and with None when a wait begins.

    Yields:
        tuple: cell and its result, wherever it comes from.
    """
    cache, waiting, moved = DataCache(), list(cells), True
    while waiting:
        told, moved = not moved, False
        for cell in list(waiting):
            result = read_done(cell, started) or try_to_run(cell, store, started, announce, cache)
            if result:
                waiting.remove(cell)
                moved = True
                yield cell, result
        if waiting and not moved:
            if not told:
                announce(None)
            time.sleep(POLL_SECONDS)


def read_done(cell, started):
    """The result of a cell, or its failure since the start of the command, or None."""
    if cell.path.is_file():
        return {**read_json(cell.path), "ranks_file": str(cell.ranks_path)}
    try:
        if cell.failed_path.stat().st_mtime > started:
            return read_json(cell.failed_path)
    except FileNotFoundError:
        pass
    return None


def try_to_run(cell, store, started, announce, cache):
    """Train a cell if nobody else does; returns its result or None."""
    lock = store.lock(cell.path)
    if lock is None:
        return None
    try:
        done = read_done(cell, started)  # it may have been finished between the look and the lock
        if done:
            return done
        announce(cell)
        return run_cell(cell, lock, cache)
    finally:
        lock.release()


def run_cell(cell, lock, cache):
    """Train one cell and keep its result, or its error, which must not stop the others.

    Returns:
        dict | None: the stored result; a failed cell has the key ``error``. None when another program took the cell
        over because this one was not heard of for too long; the other's result counts.
    """
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # otherwise a small model would show the peak of a large one before it
    ranks = str(cell.ranks_path)
    config_dict = {"show_progress": False, **cell.given, "seed": cell.seed, "ranks_file": ranks}
    try:
        result = quick_start.run(cell.model, cell.dataset, config_dict=config_dict, data_cache=cache)
    except Exception as error:  # whatever a model raises belongs to this cell alone
        if not lock.is_ours:
            return None
        result = {**cell.describe(), "error": first_line(error)}
        print(f"failed: {cell}: {result['error']}", flush=True)
        write_json({**result, "traceback": traceback.format_exc()}, cell.failed_path)
        return result
    if not lock.is_ours:
        return None
    result = {**result, **cell.describe()}
    write_json(result, cell.path)
    cell.failed_path.unlink(missing_ok=True)
    return {**result, "ranks_file": ranks}


def first_line(error):
    """An exception as one line; those for users need no type."""
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


# Side by side


def run_side_by_side(cells, store, started, jobs, keep, progress):
    """Train cells in several processes, which share them out through the locks of the folder.

    A process that dies takes only its own cell with it: the cell is reported as failed and a new process goes on.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork

    def start(number):
        log = store.folder / f"worker-{number}.log"
        # No daemon, which could not start the workers of a DataLoader; stop_with_parent ends what is left alone.
        process = context.Process(target=run_worker, args=(cells, store, started, log, jobs))
        process.start()
        return process

    workers, waiting = {}, list(cells)
    try:
        for number in range(1, min(jobs, len(cells)) + 1):
            workers[number] = start(number)
        print(f"{len(workers)} runs side by side, what they print is in {store.folder / 'worker-*.log'}", flush=True)
        while waiting:
            time.sleep(min(POLL_SECONDS, 0.2 * jobs))
            alive = any(process.is_alive() for process in workers.values())
            for cell in list(waiting):
                result = read_done(cell, started)
                if result:
                    waiting.remove(cell)
                    keep(cell, result)
                    progress.report(cell, result)
            dead = [number for number, process in workers.items() if not process.is_alive()]
            killed = [number for number in dead if report_death(workers[number], waiting)]
            workers.update({number: start(number) for number in killed})
            if waiting and not alive and not killed:
                raise RuntimeError(f"all runs ended early, see {store.folder / 'worker-*.log'}")
    finally:
        for process in workers.values():
            process.terminate()


def run_worker(cells, store, started, log, jobs):
    """What one of several processes does."""
    stop_with_parent()
    multiprocessing.set_start_method(None, force=True)  # a DataLoader shall start its workers as in a run by itself
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threads.share(jobs)
    for _ in work(cells, store, started, lambda cell: cell and print(f"cell: {cell}", flush=True)):
        pass


def stop_with_parent():
    """End this process when its parent is gone, which cannot tell it any more after a kill."""
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def report_death(process, waiting):
    """Keep the end of a process as the failure of the cell it was at; returns whether there was one."""
    for cell in waiting:
        held = numbered_locks(cell.path)
        if held and owner_of(held[-1][1]) == process.pid and process.exitcode:
            code = process.exitcode
            reason = f"signal {-code}, which often means too little memory" if code < 0 else f"exit code {code}"
            result = {**cell.describe(), "error": f"the process ended with {reason}"}
            write_json(result, cell.failed_path)
            return True
    return False


def owner_of(path):
    """Process number in a lock of this command, or None."""
    try:
        return read_json(path).get("pid")
    except (UsageError, OSError):
        return None
