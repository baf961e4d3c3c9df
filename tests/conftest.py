"""Shared set-up: one thread, no files outside the temporary folder, and a torchvision that can be imported."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from recbole_diffusion.settings.registry import recbole_models

torch.set_num_threads(1)  # the tensors of the tests are too small to share


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

# RecBole's SINE switches PyTorch's anomaly detection on when it is first imported, which recbole_models undoes; some
# tests import RecBole's models by themselves.
recbole_models()
