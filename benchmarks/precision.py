"""Training steps in float32, bfloat16, with clipped gradients and with compiled layers, in turn on the same batches."""

import itertools
import statistics
import tempfile
import time

import numpy as np
from common import parse, prepare

VARIANTS = {
    "float32": {},
    "enable_amp, bf16": {"enable_amp": True},
    "enable_amp, fp16": {"enable_amp": True, "amp_type": "fp16"},
    "float32_matmul_precision: medium": {"float32_matmul_precision": "medium"},
    "clip_grad_norm": {"clip_grad_norm": {"max_norm": 5.0}},
    "compile": {"compile": True},
}


def random_histories(n_users, n_items):
    """Histories of 5 to 30 random items."""
    random = np.random.default_rng(0)
    return [random.integers(1, n_items + 1, size=random.integers(5, 31)).tolist() for _ in range(n_users)]


def seconds_per_step(model, folder, args):
    """Variant -> seconds of each step after the first two of every variant, and seconds of its first step."""
    import torch

    from recbole_diffusion.training.trainer import DiffusionTrainer

    args.data_path, common = folder, {"train_batch_size": 256, "checkpoint_dir": folder, "show_progress": False}
    trainers = {}
    for name, more in VARIANTS.items():
        config, loaders, network, _ = prepare(model, "random", args, **common, **more)
        trainers[name] = DiffusionTrainer(config, network)
    found = {name: [] for name in VARIANTS}
    for batch in itertools.islice(loaders[0], args.steps):
        for name, trainer in trainers.items():
            torch.set_float32_matmul_precision(trainer.config["float32_matmul_precision"])
            start = time.perf_counter()
            trainer._train_batch(batch, trainer.model.calculate_loss)
            found[name].append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    args = parse(__doc__, steps=12, users=4000, items=10000)
    from recbole_diffusion.testing import write_sequences

    with tempfile.TemporaryDirectory() as folder:
        write_sequences(random_histories(args.users, args.items), folder, "random")
        for model in ("SimDiffRec", "DiffuRec"):
            found = seconds_per_step(model, folder, args)
            reference = statistics.median(found["float32"][2:])
            for name, seconds in found.items():
                median = statistics.median(seconds[2:])
                print(f"{model}, {name}: {median:.3f} s, {median / reference:.2f} of float32, first step {seconds[0]:.0f} s")
