"""A second device without the hardware: tensors that say they are elsewhere and compute on the CPU.

As on a GPU, an operation on tensors of both devices fails, memory is not shared with NumPy, and results stay where
their inputs are. What is only found by running real kernels (speed, rounding, asynchrony) is not seen here.
"""

import contextlib

import emulated_autocast
import emulated_gru
import torch
from tensor_trees import mapped, tensors_of
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "elsewhere"
LIBRARIES = []  # registered operations live as long as these objects
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}  # move from one device to another
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


def available():
    """Whether this version of PyTorch can register a device from Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def is_elsewhere(device):
    return device is not None and torch.device(device).type == NAME


class TensorElsewhere(torch.Tensor):
    """Shape, strides and device of a tensor, around the one that holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        layout = {} if here.layout != torch.strided else {"strides": here.stride(), "storage_offset": here.storage_offset()}
        tensor = cls._make_wrapper_subclass(cls, here.shape, dtype=here.dtype, device=torch.device(NAME, 0), **layout)
        tensor.here = here
        return tensor

    def tolist(self):
        return self.here.tolist()

    def numpy(self):
        raise TypeError(f"can't convert {NAME} tensor to numpy: use Tensor.cpu() first")

    def __reduce_ex__(self, protocol):  # files do not know this device, as those of a GPU opened with map_location="cpu"
        return self.here.detach().__reduce_ex__(protocol)

    def __repr__(self, **_):
        return f"{self.here!r} {NAME}"

    def __format__(self, spec):
        return format(self.here, spec)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in COPIES:
            refuse_mixture(func, args, kwargs)
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = "cpu"
        owners = {id(tensor.here): tensor for tensor in tensors_of(args, kwargs) if isinstance(tensor, cls)}
        args, kwargs = mapped((args, kwargs), cls, lambda tensor: tensor.here)
        out = emulated_gru.KERNELS.get(func, func)(*args, **kwargs)
        if target is not None:
            is_moved = is_elsewhere(target)
        else:
            is_moved = func is not aten.copy_.default or id(args[0]) in owners  # which may copy from there to the CPU
        if not is_moved:
            return out
        return mapped(out, torch.Tensor, lambda tensor: owners[id(tensor)] if id(tensor) in owners else cls(tensor))


def refuse_mixture(func, args, kwargs):
    """As CUDA: numbers (tensors without dimensions) and indices may come from the CPU, nothing else."""
    if func in INDEXING:
        args = [args[0], [index for index in args[1] if isinstance(index, TensorElsewhere)], *args[2:]]
    tensors = list(tensors_of(args, kwargs))
    moved = [isinstance(tensor, TensorElsewhere) for tensor in tensors]
    if any(moved) and any(tensor.dim() for tensor, is_moved in zip(tensors, moved) if not is_moved):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found {NAME} and cpu")


class Elsewhere(TorchDispatchMode):
    """Tensors made for the second device, or moved to it, become :class:`TensorElsewhere`."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nothing is compiled here, and the guard against it takes as long as an operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        moved = any(isinstance(tensor, TensorElsewhere) for tensor in tensors_of(args, kwargs))
        if moved or is_elsewhere(kwargs.get("device")):
            return TensorElsewhere.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **kwargs)


def backend_module():
    """What PyTorch asks a kind of device for."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16, torch.float16]

    return Module()


class TensorsFromLists(TorchFunctionMode):
    """``torch.tensor(..., device=...)``, which hides from dispatch modes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and is_elsewhere(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextlib.contextmanager
def second_device():
    """``torch.device("elsewhere")`` works inside."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module())
        LIBRARIES.extend(emulated_autocast.register_all())
    with Elsewhere(), TensorsFromLists():
        yield torch.device(NAME, 0)
