"""Automatic mixed precision of a GPU on the second device: which operations get half, and which full precision.

The lists are those that PyTorch documents for CUDA ("CUDA Op-Specific Behavior" of torch.amp), as far as they could
occur here. They differ from the CPU's, which computes for example layer norms and sums in the type that it is given.
"""

import torch
from tensor_trees import mapped, tensors_of

HALF = ["addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "conv1d", "conv2d", "convolution", "einsum", "linear", "matmul", "mm", "mv", "prelu", "scaled_dot_product_attention"]
FULL = ["binary_cross_entropy_with_logits", "cdist", "cosine_similarity", "cumprod", "cumsum", "dist", "exp", "expm1", "kl_div", "l1_loss", "layer_norm", "log", "log1p", "log_softmax", "logsumexp", "mse_loss", "native_layer_norm", "nll_loss", "norm", "pow", "prod", "reciprocal", "rsqrt", "softmax", "softplus", "sum"]
WIDEST = ["addcdiv", "addcmul", "cross", "dot", "index_put", "scatter_add", "vdot"]
KEY = torch._C.DispatchKey.AutocastPrivateUse1


def half(_):
    return torch.get_autocast_dtype(torch._C._get_privateuse1_backend_name())


def full(_):
    return torch.float32


def widest(tensors):
    return max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).bits)


def register(library, name, choose):
    """Cast the floating-point arguments of all overloads of an operation, then go on without autocast."""
    packet = getattr(torch.ops.aten, name)
    for overload in packet.overloads():
        operation = getattr(packet, overload)
        if any(argument.alias_info and argument.alias_info.is_write for argument in operation._schema.arguments):
            continue  # in-place, and with out=: left alone, as on CUDA

        def cast(*args, operation=operation, **kwargs):
            floating = [tensor for tensor in tensors_of(args, kwargs) if tensor.is_floating_point()]
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
                if floating:
                    dtype = choose(floating)
                    args, kwargs = mapped(
                        (args, kwargs), torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t
                    )
                return operation(*args, **kwargs)

        library.impl(operation.name(), cast, KEY.name)


def register_all():
    """Once per process; the library is to be kept for as long as the device is used."""
    everything_else = torch.library.Library("_", "IMPL")
    everything_else.fallback(torch.library.fallthrough_kernel, KEY.name)
    library = torch.library.Library("aten", "IMPL")
    for names, choose in ((HALF, half), (FULL, full), (WIDEST, widest)):
        for name in names:
            register(library, name, choose)
    return everything_else, library
