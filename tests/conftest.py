"""Shared set-up: one thread, and no files outside the temporary folder."""

import pytest
import torch

torch.set_num_threads(1)  # the tensors of the tests are too small to share


@pytest.fixture(autouse=True)
def work_in_tmp(tmp_path, monkeypatch):
    """RecBole writes log/ and log_tensorboard/ where it is started."""
    monkeypatch.chdir(tmp_path)
