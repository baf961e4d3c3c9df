"""The parts of gpu.py that compute, in a process of their own: each prints lines of JSON."""

import argparse
import copy
import itertools
import json
import sys
import tempfile
import time
import traceback
import warnings

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.registry import MODELS
from recbole_diffusion.testing import make_config, small_settings, write_features, write_sequences
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import trainer_class

CLOSE = 1e-3  # largest difference to the CPU, of the largest number or of 1 where that is more
SPEED_SECONDS = 20  # per model and precision


class DrawnOnCpu(TorchDispatchMode):
    """Random numbers of every device come from the CPU's generator, so that two devices draw the same."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or func is torch.ops.aten._cudnn_rnn.default:  # no dropout here
            return func(*args, **kwargs)
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        device = kwargs.get("device") or (tensors[0].device if tensors else torch.device("cpu"))
        here = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), args)
        out = func(*here, **{**kwargs, **({"device": torch.device("cpu")} if "device" in kwargs else {})})
        if func._schema.is_mutable:  # normal_ and others fill their first argument
            return args[0].copy_(here[0])
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), out)


def say(part, **values):
    """A line for gpu.py."""
    print(json.dumps({"part": part, **values}), flush=True)


def random_data(folder, n_users=200, n_items=60):
    """Histories of 5 to 20 random items with vectors of the items, as ``cycle``."""
    random = np.random.default_rng(0)
    sequences = [random.integers(1, n_items + 1, size=random.integers(5, 21)).tolist() for _ in range(n_users)]
    write_sequences(sequences, folder, "cycle")
    write_features(folder, n_items=n_items)
    return folder


def small_config(model, folder, **more):
    """A small network without dropout, whose masks a GPU draws inside its kernels."""
    wanted = {"train_batch_size": 64, "float32_matmul_precision": "highest", **small_settings(model), **more}
    keys = make_config(model, folder, **wanted).final_config_dict
    return make_config(model, folder, **{**wanted, **{k: 0.0 for k, v in keys.items() if "dropout" in k and isinstance(v, float)}})


def step(network, batch):
    """Loss, gradients and scores of one batch, on the CPU."""
    with DrawnOnCpu():
        torch.manual_seed(0)
        losses = network.train().calculate_loss(batch)
        loss = sum(losses) if isinstance(losses, tuple) else losses
        loss.backward()
        torch.manual_seed(0)
        with torch.no_grad():
            scores = network.eval().full_sort_predict(batch).view(len(batch), -1)
    gradients = [parameter.grad.flatten().cpu() for parameter in network.parameters() if parameter.grad is not None]
    return loss.detach().cpu(), torch.cat(gradients), scores.cpu()


def difference(wanted, found, smallest):
    """Largest difference, of the largest number or of ``smallest``; infinite scores of what is never ranked are to be the same."""
    finite = wanted.isfinite()
    if not torch.equal(wanted[~finite], found[~finite]):
        return float("inf")
    wanted, found = wanted[finite], found[finite]
    return float((wanted - found).abs().max() / wanted.abs().max().clamp(min=smallest))


def compare_with_cpu(model, folder, device):
    """One step of the same network on both devices."""
    config = small_config(model, folder)
    torch.set_float32_matmul_precision("highest")
    loaders = build_loaders(config, create_dataset(config))
    network, batch = build_model(config, loaders[0]), next(iter(loaders[0]))
    other = copy.deepcopy(network).to(device)
    other.device = torch.device(device)
    wanted, found = step(network, batch), step(other, batch.to(device))
    names = ("loss", "gradients", "scores")
    smallest = {"gradients": 1e-6}
    apart = {name: difference(a, b, smallest.get(name, 1)) for name, a, b in zip(names, wanted, found)}
    say("steps", model=model, **{k: f"{v:.1e}" for k, v in apart.items()}, passed=all(v <= CLOSE for v in apart.values()))


def train_in_half(model, folder, device, kind):
    """Three steps of training in half precision: all losses are numbers."""
    config = small_config(model, folder, enable_amp=True, amp_type=kind, checkpoint_dir=str(folder))
    config["device"] = torch.device(device)
    loaders = build_loaders(config, create_dataset(config))
    trainer = trainer_class(config)(config, build_model(config, loaders[0]))
    losses = [sum(trainer._train_batch(b, trainer.model.calculate_loss)) for b in itertools.islice(loaders[0], 3)]
    say("half precision", model=model, precision=kind, losses=[round(loss, 4) for loss in losses],
        passed=all(np.isfinite(losses)))  # fmt: skip


def measure_speed(model, args, device, folder, **more):
    """Steps per second with the defaults of the model, the first two left out."""
    settings = {"data_path": args.data_path, "checkpoint_dir": str(folder), "show_progress": False, **more}
    config = DiffusionConfig(model, args.dataset, config_dict={**settings, "use_gpu": device != "cpu"})
    loaders = build_loaders(config, create_dataset(config))
    trainer, seconds, began = trainer_class(config)(config, build_model(config, loaders[0])), [], time.perf_counter()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    trainer.model.train()
    for batch in itertools.islice(itertools.chain(loaders[0], loaders[0]), args.steps + 2):
        start = time.perf_counter()
        trainer._train_batch(batch, trainer.model.calculate_loss)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - began > SPEED_SECONDS:
            break
    median = float(np.median(seconds[2:] or seconds))
    memory = {} if device == "cpu" else {"peak_mb": round(torch.cuda.max_memory_allocated() / 2**20)}
    known = {"seconds_per_epoch": round(median * len(loaders[0]), 3), "epochs": config["epochs"]} if not more else {}
    say("speed", model=model, dataset=args.dataset, precision=more.get("amp_type", "float32"), steps=len(seconds),
        steps_per_second=round(1 / median, 2), batch=config["train_batch_size"], **known, **memory)  # fmt: skip


def models(args):
    """Everything about every model; one that fails does not keep the next from being looked at."""
    names = args.names.split(",") if args.names else [*MODELS, "SASRec"]
    say_machine(args.device)
    with tempfile.TemporaryDirectory() as folder:
        random_data(folder)
        for number, model in enumerate(names):
            say("begun", model=model, left=",".join(names[number + 1 :]))
            looks = [lambda: compare_with_cpu(model, folder, args.device)]
            looks += [lambda kind=kind: train_in_half(model, folder, args.device, kind) for kind in ("bf16", "fp16")]
            if args.dataset:
                looks.append(lambda: measure_speed(model, args, args.device, folder))
            if args.dataset and args.device != "cpu":
                looks.append(lambda: measure_speed(model, args, args.device, folder, enable_amp=True, amp_type="bf16"))
            for look in looks:
                try:
                    look()
                except Exception as error:
                    traceback.print_exc()
                    say("steps", model=model, error=f"{type(error).__name__}: {error}"[:200].replace("\n", " "))


def say_machine(device):
    """Versions, and the names of the GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device != "cpu" else []
    say("machine", python=sys.version.split()[0], torch=torch.__version__, numpy=np.__version__, gpus=", ".join(gpus) or "none")


def processes(args):
    """A training without dropout and without noise in one process and in two, on two GPUs or on the CPU."""
    gpus = torch.cuda.device_count()
    if args.device != "cpu" and gpus < 2:
        return say("processes", said=f"left out, {gpus} GPU")
    with tempfile.TemporaryDirectory() as folder:
        config = small_config("SimDiffRec", random_data(folder), alpha=0.0, beta=0.0, epochs=2)
        settings = {**config.external_config_dict, "use_gpu": args.device != "cpu"}
        if args.device != "cpu":
            settings["gpu_id"] = "0,1"
        two = run("SimDiffRec", "cycle", config_dict={**settings, "nproc": 2})
        one = run("SimDiffRec", "cycle", config_dict=settings)
    apart = max(abs(two["best_valid_result"][key] - value) for key, value in one["best_valid_result"].items())
    say("processes", gpus=gpus, largest_difference_of_metrics=round(apart, 5), passed=apart <= 5 * CLOSE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("models", "processes"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--names", default="")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="")
    parser.add_argument("--steps", type=int, default=30)
    warnings.filterwarnings("ignore", category=FutureWarning)
    words = parser.parse_args()
    {"models": models, "processes": processes}[words.part](words)
