"""Checkpoint files: plain tensors and JSON values, written whole or not at all, read without executing anything."""

import hashlib
import json
import os
import random
import re
import shutil
import zipfile

import numpy as np
import torch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import expand_home, plain, replacing
from recbole_diffusion.settings.free import FREE_SETTINGS

CHECKPOINT_FORMAT = 1
PIECE = 2**20  # rows that are hashed at a time


def save_atomically(state, path):
    """Write a checkpoint beside its target and rename it, so that a crash leaves the old file or the new one.

    Args:
        state (dict): tensors and JSON values.
        path (str): target.

    Raises:
        UsageError: when the file cannot be written, for example because the disk is full.
    """
    path = os.path.realpath(path)
    try:
        with replacing(path, binary=True, temporary=path + ".tmp") as file:  # the same name again after a crash
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # PyTorch turns failed writes into RuntimeErrors
        free = shutil.disk_usage(os.path.dirname(path)).free // 2**20
        raise UsageError(f"checkpoint '{path}' cannot be written, {free:,} MB are free: {_one_line(error)}") from error


def load_checkpoint(path, trust=False):
    """Read a checkpoint onto the CPU.

    Args:
        path (str): the file.
        trust (bool): execute what the file says while it is read, which a pickle from elsewhere needs.

    Returns:
        dict: see :meth:`recbole_diffusion.training.resumable.SafeCheckpointMixin.checkpoint`; of RecBole's own checkpoints, the
        part that holds the model.

    Raises:
        UsageError: when the file is missing, damaged or foreign.
    """
    path = expand_home(path)
    if not os.path.isfile(path):
        raise UsageError(f"checkpoint '{path}' {'is no file' if os.path.exists(path) else 'does not exist'}")
    try:
        damaged = zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip()  # which PyTorch does not look at
        if damaged:
            raise ValueError("it is damaged: a part of it is not what was written")
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types for damaged and foreign files
        size, reason = f"{os.path.getsize(path):,} bytes", _reason(path, error)
        raise UsageError(f"'{path}' is not a checkpoint of recbole_diffusion ({size}): {reason}") from None
    if trust and isinstance(checkpoint, dict) and hasattr(checkpoint.get("config"), "final_config_dict"):
        checkpoint = _from_recbole(checkpoint)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("config"), dict):
        raise UsageError(f"'{path}' is not a checkpoint of recbole_diffusion")
    if checkpoint.get("format") != CHECKPOINT_FORMAT:
        raise UsageError(
            f"'{path}' has checkpoint format {checkpoint.get('format')}, this version of recbole_diffusion reads "
            f"format {CHECKPOINT_FORMAT}: use the version that wrote it"
        )
    for key in ("state_dict", "other_parameter", "item_tokens"):
        if key not in checkpoint:
            raise UsageError(f"'{path}' is not a checkpoint of recbole_diffusion: it has no '{key}'")
    return checkpoint


def _from_recbole(checkpoint):
    """RecBole's own checkpoint as one of ours; it does not know its items and cannot be resumed."""
    settings = plain(checkpoint["config"].final_config_dict)
    kept = {key: checkpoint.get(key) for key in ("epoch", "state_dict", "other_parameter")}
    return {"format": CHECKPOINT_FORMAT, "config": settings, "item_tokens": None, **kept}


def _reason(path, error):
    """Why PyTorch could not read a file."""
    if zipfile.is_zipfile(path) or _starts_like_a_pickle(path):
        refused = "Weights only load failed" in str(error)
        objects = "it holds objects, not only tensors (--trust-checkpoint reads it all the same, running its code)"
        return objects if refused else _one_line(error)
    return "it is damaged, or no file of PyTorch"


def _starts_like_a_pickle(path):
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"


def _one_line(error):
    """The beginning of what PyTorch or the system says, without colours."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return re.sub("\x1b\\[[0-9;]*m", "", text.splitlines()[0])[:120]


def settings_fingerprint(settings):
    """Twelve hexadecimal digits that two runs share when nothing that could change a number differs.

    Args:
        settings (dict): JSON values, all settings of a run.
    """
    kept = {key: value for key, value in settings.items() if key not in FREE_SETTINGS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def data_fingerprint(dataset):
    """Hexadecimal digest of everything that a part of a data set holds: examples, histories and features.

    Whole numbers count as if they had eight bytes, so that checkpoints outlive changes of how data are held.

    Args:
        dataset (recbole.data.dataset.Dataset): after the split.
    """
    digest = hashlib.sha256()
    features = (dataset.inter_feat, dataset.user_feat, dataset.item_feat, getattr(dataset, "flat", None))
    for columns in features:
        for name in sorted(columns.columns if hasattr(columns, "columns") else columns or ()):
            digest.update(name.encode())
            values = np.asarray(columns[name])
            kind = np.int64 if values.dtype.kind == "i" else values.dtype
            for start in range(0, len(values), PIECE):
                digest.update(np.ascontiguousarray(values[start : start + PIECE], dtype=kind).tobytes())
    return digest.hexdigest()


def random_state(generators, device):
    """The state of every random generator of this process.

    Args:
        generators (list[torch.Generator]): those besides the global ones.
        device (torch.device): where this process computes.

    Returns:
        dict: tensors and JSON values.
    """
    version, numbers, gauss = random.getstate()
    name, keys, *position = np.random.get_state()
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "generators": [generator.get_state() for generator in generators],
    }


def restore_random_state(state, generators, device):
    """Undo everything drawn since :func:`random_state`; a GPU's generator only where there was one."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *position = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    for generator, saved in zip(generators, state["generators"]):
        generator.set_state(saved)


def reusable_settings(saved, data_path):
    """The user-level part of saved settings: without what RecBole derives from them at start."""
    derived = {
        "device", "single_spec", "local_rank", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "model", "dataset",
        "data_path", "valid_neg_sample_args", "test_neg_sample_args", "train_neg_sample_args", "result_file",
        "resume", "world_size", "gpu_id", "log_wandb", "compile", "preset", "threads",
        "data_cache", "data_cache_gb",
    }  # fmt: skip
    settings = {key: value for key, value in saved.items() if key not in derived}
    settings["allow_unknown_keys"] = True
    settings["data_path"] = str(data_path) if data_path else os.path.dirname(saved["data_path"])
    if saved["train_neg_sample_args"].get("distribution") != "none":
        settings["train_neg_sample_args"] = saved["train_neg_sample_args"]
    return settings
