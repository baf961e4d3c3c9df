"""Several processes that train one model: who is who, and how they agree.

RecBole's own distributed code is not used: it needs NVIDIA GPUs, pads ragged shards with copies and weights them by
the number of batches. Here every process walks through the same batches and takes its share of each one's rows.
"""

import atexit
import contextlib
import os

import torch
import torch.distributed as dist

from recbole_diffusion.errors import UsageError


def rank():
    """Number of this process among all, 0 for a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first():
    """Whether this is the one process that writes files and talks; decided by the environment before a group exists."""
    return int(os.environ.get("RANK", 0) if launched() else 0) == 0


def launched():
    """Whether ``torchrun`` or ``nproc`` started this process together with others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def share():
    """Number of this process and how many there are, as ``torchrun`` says, for work that needs no talking; 0 and 1 without."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def alone():
    """Within the block this process is by itself, whoever started it: it meets no others."""
    size = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if size is not None:
            os.environ["WORLD_SIZE"] = size


def join(use_gpu):
    """Meet the other processes.

    Args:
        use_gpu (bool): one GPU per process and NCCL where there are GPUs, with gloo for all that is no tensor of a GPU,
            such as checkpoints; otherwise the CPU and gloo.

    Returns:
        torch.device: the device of this process.

    Raises:
        UsageError: when the machine has fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = use_gpu and torch.cuda.is_available()
    if on_gpu:
        wanted, found = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1)), torch.cuda.device_count()
        if wanted > found:
            raise UsageError(f"{wanted} processes on one machine need {wanted} GPUs, it has {found}: add --use_gpu=False")
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        # Loaded later (by torch._dynamo, for an optimizer), it keeps the group as a default of its functions. Threads
        # of a group outlive its end then, and may abort a process while Python ends ("terminate called ...").
        from torch.distributed.nn import functional  # noqa: F401

        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        atexit.register(dist.destroy_process_group)
    return torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")


def first_does(function, *arguments):
    """Call a function in the first process only; all get its result, or its error."""
    if world_size() == 1:
        return function(*arguments)
    box = [None, None]
    if rank() == 0:
        try:
            box[0] = function(*arguments)
        except Exception as error:  # the others would wait for ever
            box[1] = error
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def gather(value):
    """The values of all processes, in their order: a list."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


_together = True  # False while some process has no rows


@contextlib.contextmanager
def apart():
    """Let :func:`rows_of_all` return a process's own rows, for batches too small for all processes."""
    global _together
    _together = False
    try:
        yield
    finally:
        _together = True


def all_have_rows():
    """Whether every process has rows of the present batch, for counts that all shall agree on."""
    return _together


def rows_of_all(tensor):
    """The rows of all processes, for losses that compare the rows of a batch with each other.

    All processes have to call this together, see :func:`apart`.

    Args:
        tensor (torch.Tensor): [B, ...], B may differ between processes.

    Returns:
        torch.Tensor: [sum of all B, ...], own rows first; gradients reach the process that a row comes from.
    """
    if world_size() == 1 or not _together:
        return tensor
    counts = gather(len(tensor))
    return _RowsOfAll.apply(tensor, counts).roll(-sum(counts[: rank()]), 0)


class _RowsOfAll(torch.autograd.Function):
    """All rows in the order of the processes. PyTorch's own needs as many rows in each, and is deprecated."""

    @staticmethod
    def forward(ctx, tensor, counts):
        ctx.counts = counts
        rows = tensor.new_zeros(sum(counts), *tensor.shape[1:])
        rows.split(counts)[rank()].copy_(tensor)
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.split(ctx.counts)[rank()], None


def sum_of_all(tensor):
    """The sum of the tensors [...] of all processes, without gradients; all have to call this together."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def copy_from_first(model):
    """Give all processes the weights of the first."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def sum_gradients(parameters):
    """Add up the gradients of all processes; a parameter that no process used keeps none.

    Dense ones travel in one message. Of sparse ones, which hold some rows of a table, the rows of all processes do.
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    flags = [[p.grad is not None, p.grad is not None and p.grad.is_sparse] for p in parameters]
    used = torch.tensor(flags, dtype=torch.int, device=parameters[0].device)
    dist.all_reduce(used)
    used = used.tolist()
    for parameter in (p for p, (_, is_sparse) in zip(parameters, used) if is_sparse):
        parameter.grad = _sum_of_rows(parameter)
    parameters = [p for p, (count, is_sparse) in zip(parameters, used) if count and not is_sparse]
    gradients = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(gradients)
    for parameter, gradient in zip(parameters, gradients.split([p.numel() for p in parameters])):
        parameter.grad = gradient.view_as(parameter)


def _sum_of_rows(table):
    """The sum of the sparse gradients of all processes, the same to the last bit in each; one may have none."""
    if table.grad is None:
        rows, values = torch.empty(0, dtype=torch.long, device=table.device), table.new_empty(0, *table.shape[1:])
    else:
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
    counts = gather(len(rows))
    with torch.no_grad():
        rows, values = (_RowsOfAll.apply(part, counts) for part in (rows, values))
    return torch.sparse_coo_tensor(rows[None], values, table.shape).coalesce()
