"""What a run changes in its process, and giving it back, so that the next run and the caller find it as it was."""

import logging
import os
import sys
import warnings
from contextlib import contextmanager

import torch

from recbole_diffusion import threads
from recbole_diffusion.training.checkpoint import random_state, restore_random_state
from recbole_diffusion.training.logs import end_logging

GPUS = "CUDA_VISIBLE_DEVICES"


@contextmanager
def left_as_found():
    """Around a run, or as a decorator of one: afterwards the process is as it was, however the run ends.

    Given back are the level and the handlers of the root logger, the run of W&B, PyTorch's precision and threads, cuDNN's
    modes, the random generators of the CPU, and which GPUs are visible where CUDA has not read that yet.
    """
    cpu, cudnn = torch.device("cpu"), torch.backends.cudnn
    found = random_state([], cpu), torch.get_float32_matmul_precision(), (cudnn.benchmark, cudnn.deterministic)
    level, gpus, watched = logging.getLogger().level, os.environ.get(GPUS), _wandb_run()
    failed = 1
    try:
        with without_recboles_warnings():
            yield
        failed = 0
    finally:
        if _wandb_run() is not watched:  # one that the caller opened himself is his to close
            sys.modules["wandb"].finish(exit_code=failed)
        end_logging()
        logging.getLogger().setLevel(level)
        random, precision, (cudnn.benchmark, cudnn.deterministic) = found
        torch.set_float32_matmul_precision(precision)
        threads.follow(None)
        restore_random_state(random, [], cpu)
        if not torch.cuda.is_available():
            os.environ.pop(GPUS, None)
            os.environ.update({GPUS: gpus} if gpus is not None else {})


@contextmanager
def without_recboles_warnings():
    """RecBole's calls of pandas that newer versions of it warn of say nothing; a block, or a decorator."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        yield


def _wandb_run():
    """The open run of W&B, or None."""
    return getattr(sys.modules.get("wandb"), "run", None)
