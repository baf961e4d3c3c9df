"""Many runs in one process leave nothing behind."""

import gc
import os
import threading
from pathlib import Path

import pytest

from recbole_diffusion import run
from recbole_diffusion.testing import cycle_sequences, make_config, write_features, write_sequences

SMALL = {"hidden_size": 8, "inner_size": 16, "epochs": 1}
CHAIN = {"n_blocks": 1, "diffusion_steps": 4, "sampling_steps": 4, "train_batch_size": 128}
MODELS = {
    "SimDiffRec": {"k_noise": 3, "k_sample": 2, "noise_refresh": 2},
    "DiffuRec": CHAIN,
    "DiffuRecSys": CHAIN,
    "DiffSBR": {"diffusion_steps": 4, "corruption_steps": 4, "train_batch_size": 128, "allow_unknown_keys": True},
    "SKNN": {"train_batch_size": 128, "allow_unknown_keys": True},
    "SASRec": {"train_batch_size": 128},
}
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@pytest.fixture
def folder(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_features(folder, width=SMALL["hidden_size"])
    return folder


def run_one(folder, number):
    model = list(MODELS)[number % len(MODELS)]
    run(model, "cycle", config_dict=make_config(model, folder, **SMALL, **MODELS[model]).external_config_dict)
    gc.collect()


def memory_mb():
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def held():
    """Threads and open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@needs_proc
def test_a_run_leaves_no_threads_and_no_open_files(folder):
    run_one(folder, 0)
    before = held()
    for number in range(len(MODELS)):
        run_one(folder, number)
    assert held() == before


@needs_proc
@pytest.mark.slow
def test_fifty_runs_do_not_grow(folder):
    for number in range(10):
        run_one(folder, number)
    before, memory = held(), memory_mb()
    for number in range(50):
        run_one(folder, number)
    assert held() == before
    assert memory_mb() - memory < 10
