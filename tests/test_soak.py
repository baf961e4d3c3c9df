"""Many runs in one process leave nothing behind."""

import gc
import os
import threading
from pathlib import Path

import pytest
from models import CONTRACTS, training_settings

from recbole_diffusion import run

MODELS = [*CONTRACTS, "SASRec"]
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def run_one(trained_data, number):
    model = MODELS[number % len(MODELS)]
    run(model, "cycle", config_dict=training_settings(model, trained_data(model), epochs=1, checkpoint_dir="saved"))
    gc.collect()


def memory_mb():
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def held():
    """Threads and open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@needs_proc
def test_a_run_leaves_no_threads_and_no_open_files(trained_data):
    run_one(trained_data, 0)
    before = held()
    for number in range(len(MODELS)):
        run_one(trained_data, number)
    assert held() == before


@needs_proc
@pytest.mark.slow
def test_fifty_runs_do_not_grow(trained_data):
    for number in range(10):
        run_one(trained_data, number)
    before, memory = held(), memory_mb()
    for number in range(50):
        run_one(trained_data, number)
    assert held() == before
    assert memory_mb() - memory < 10
