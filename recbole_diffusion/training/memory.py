"""Whether a training fits into memory, said before it begins instead of by the system, which ends a process without a word."""

from pathlib import Path

import psutil
import torch

from recbole_diffusion.data.loaders import rows_at_once
from recbole_diffusion.errors import UsageError
from recbole_diffusion.training.sparse_table import sparse_tables

MOMENTS = {"adam": 2, "adamw": 2, "sparse_adam": 2, "adagrad": 1, "rmsprop": 1, "sgd": 0}  # numbers per weight that a learner keeps


def check_memory(config, network, n_items, n_rows):
    """Refuse a training that needs more memory than there is.

    What is counted is needed at the least, beside the weights that are there: gradients, what the learner keeps, and the scores of
    one batch of an evaluation. Steps need more, which depends on the model.

    Args:
        config (DiffusionConfig): settings.
        network (nn.Module): on its device.
        n_items, n_rows (int): V, which an evaluation scores, for so many examples in all.

    Raises:
        UsageError: in one line, with the parts and what makes them smaller.
    """
    ranked = n_items if "full" in str(config["eval_args"]["mode"]) else 0  # of sampled items there are few
    rows = min(rows_at_once(config["eval_batch_size"], n_items), n_rows)
    parts = least_memory(config["learner"], network, rows * ranked)
    needed, free = sum(parts.values()), free_memory(config["device"])
    if needed <= free:
        return
    texts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in parts.items())
    raise UsageError(
        f"too little memory: training needs {needed / 2**30:.1f} GB at the least beside the weights ({texts}), {free / 2**30:.1f} GB "
        f"are free: lower eval_batch_size or hidden_size, or see sparse_table"
    )


def least_memory(learner, network, n_scores):
    """Bytes that training and evaluation need at the least beside the weights, by what they are for.

    Args:
        learner (str): as in the settings; of one that is not known nothing is counted.
        network (nn.Module): its weights.
        n_scores (int): scores of one batch of an evaluation.
    """
    tables = {id(table) for table in sparse_tables(network)}
    learned = [p for p in network.parameters() if p.requires_grad]
    kept = MOMENTS.get(learner, 0)
    dense = sum(p.numel() * p.element_size() for p in learned if id(p) not in tables)
    whole = sum(p.numel() * p.element_size() for p in learned)
    return {"gradients": dense, "learner": kept * whole, "scores": 4 * n_scores}


def free_memory(device):
    """Bytes that this process may still take on a device; of the CPU within the limit of its control group."""
    if torch.device(device).type == "cuda":  # PyTorch keeps what an earlier training of this process gave back
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    left = [psutil.virtual_memory().available, *group_memory(Path("/sys/fs/cgroup"))]
    return min(left)


def group_memory(folder):
    """Bytes that are left of the limit of a control group (version 2, then 1), where there is one.

    Files that were read stay in memory until somebody needs it, and count as used: they are taken off.
    """
    for limit, used, start in (("memory.max", "memory.current", ""), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_")):
        try:
            most, now = ((folder / name).read_text().strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdecimal() and now.isdecimal() and int(most) < 2**60:  # what version 1 writes for no limit is larger
            files = pages_of_files((folder / used).with_name("memory.stat"), start)
            yield max(0, int(most) - max(0, int(now) - files))


def pages_of_files(path, start):
    """Bytes of files that a control group holds in memory, by its statistics, whose names begin with ``start``; 0 without them."""
    try:
        counts = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(counts.get(f"{start}{kind}_file", 0)) for kind in ("active", "inactive"))
