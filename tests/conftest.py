"""Shared set-up: one thread, no files outside the temporary folder, and a torchvision that can be imported."""

import os
import re
from importlib.metadata import PackageNotFoundError, version

os.environ["OMP_NUM_THREADS"] = "1"  # here and in processes that tests start: their tensors are too small to share

import pytest
import torch
from fresh_process import pytest_runtest_protocol, pytest_runtestloop  # noqa: F401 hooks
from models import TrainedOnce

from recbole_diffusion.settings.registry import MODELS, recbole_models

torch.set_num_threads(1)
# RecBole's SINE switches PyTorch's anomaly detection on when it is first imported, which recbole_models undoes; some
# tests import RecBole's models by themselves.
recbole_models()


@pytest.hookimpl(optionalhook=True)  # there need be no pytest-xdist
def pytest_xdist_auto_num_workers():
    """A process per core that this one may use; each needs about a gigabyte of memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one model run in the same process, one after the other, and share what is trained for it.

    By the names of the tests: pytest-xdist 3.8 does not see its own marks of groups under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModel(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            named = re.search(rf"\b(?:Test)?({'|'.join(MODELS)})\b", nodeid.partition("::")[2])
            return named[1] if named else nodeid

    return ByModel(config, log)


def name_operators_of_torchvision():
    """PyPI's torchvision is built for CUDA; beside a CPU-only torch its import fails for two unknown operators.

    Naming them is enough: nothing here calls them.
    """
    try:
        fits = ("+cpu" in version("torchvision")) or "+cpu" not in torch.__version__
    except PackageNotFoundError:
        return None
    if fits:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


TORCHVISION_OPERATORS = name_operators_of_torchvision()  # they live as long as this object


@pytest.fixture(autouse=True)
def work_in_tmp(tmp_path, monkeypatch):
    """RecBole writes log/ and log_tensorboard/ where it is started."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Function: model, settings -> result of its training, made once; see :class:`models.TrainedOnce`."""
    folder = tmp_path_factory.getbasetemp() / "trained"
    folder.mkdir(exist_ok=True)
    return TrainedOnce(folder)


@pytest.fixture(scope="session")
def trained_data(trained):
    """Function: model -> folder of the data that :func:`trained` uses."""
    return trained.data
