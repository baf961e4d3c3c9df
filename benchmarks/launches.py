"""Operators that a training step asks for, with the blocks of attention that a CPU gets and with those that a GPU gets.

    python benchmarks/launches.py beauty --data_path=dataset --models=SimDiffRec,CL4SRec

A GPU at the batches of this field waits for its launches, so its time per step follows this number. Nothing here needs one.
"""

import argparse
import tempfile
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.layers.packed import FineLayout, PackedLayout
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import trainer_class

MODELS = "SimDiffRec,CL4SRec,CaDiRec,DiffuRec,MGS,AttenMixer,DIMO,SASRec"


class Counter(TorchDispatchMode):
    """Counts every operator, views included, whose Python and C++ a launch has to wait for as well."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def operators(model, args, width=None):
    """Operators of the second step with the model's defaults; with ``width`` no block of attention is cut below it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"data_path": args.data_path, "checkpoint_dir": folder, "show_progress": False, "use_gpu": False}
        config = DiffusionConfig(model, args.dataset, config_dict=settings)
        loaders = build_loaders(config, create_dataset(config))
        trainer = trainer_class(config)(config, build_model(config, loaders[0]))
        batches = iter(loaders[0])
        finest = [mock.patch.object(kind, "SHORTEST_WIDTH", width or kind.SHORTEST_WIDTH) for kind in (PackedLayout, FineLayout)]
        with finest[0], finest[1]:
            trainer._train_batch(next(batches), trainer.model.train().calculate_loss)
            with Counter() as counter:
                trainer._train_batch(next(batches), trainer.model.calculate_loss)
    return counter.calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--models", default=MODELS)
    args = parser.parse_args()
    print("| model | blocks of a CPU | of a GPU | ratio |\n|---|---|---|---|")
    for model in args.models.split(","):
        fine, coarse = operators(model, args), operators(model, args, PackedLayout.SHORTEST_ON_GPU)
        print(f"| {model} | {fine:,} | {coarse:,} | {coarse / fine:.2f} |", flush=True)


if __name__ == "__main__":
    main()
