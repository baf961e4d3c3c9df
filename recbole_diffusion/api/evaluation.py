"""``evaluate``: the metrics of a checkpoint from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.evaluation import evaluate_checkpoint
from recbole_diffusion.training.result import EvaluationResult


def evaluate(
    checkpoint: str | Path | Mapping[str, Any],
    part: str = "test",
    *,
    output: str | Path | None = None,
    trust_checkpoint: bool = False,
    **settings: Any,
) -> EvaluationResult:
    """Measure a checkpoint on its data set; the function of the command ``evaluate``.

    With no settings, the test part has the figures of the run that wrote the file ``NAME-best.pth``, and the validation part
    its ``best_valid_result``.

    Args:
        checkpoint (str | RunResult): file of a training, or what :func:`recbole_diffusion.run` returned.
        part (str): ``test``, ``valid`` or ``both``.
        output (str, optional): JSON file for what is returned.
        trust_checkpoint (bool): read a pickle from elsewhere, such as RecBole's own checkpoints, and execute any code in it.
        settings: what concerns the evaluation alone: ``metrics``, ``topk``, ``mask_history``, ``eval_batch_size``,
            ``eval_args={"mode": "uni100"}``, ``data_path``, ``ranks_file``, ``nproc``, and how the model samples, such as
            ``sampling_steps``.

    Returns:
        EvaluationResult: a dict of JSON values; printed, it is a table for each part. ``metrics`` is a data frame.

    Raises:
        UsageError: for a file that is no checkpoint, data that are not those of the training, and a setting that data or
            weights depend on.
    """
    path = checkpoint.get("checkpoint") if isinstance(checkpoint, Mapping) else checkpoint
    if path is None:
        raise UsageError("the run was not saved: a checkpoint is needed to evaluate")
    return evaluate_checkpoint(path, part, settings, output, trust_checkpoint)
