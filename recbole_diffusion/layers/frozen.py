"""Networks that only look on: gradients pass through them, but do not move them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def frozen(network: nn.Module, *inputs: Any) -> torch.Tensor:
    """What a network makes of its inputs, without a gradient for its parameters.

    The inputs get theirs. With a generator's loss that calls a critic so, and a critic's loss that sees detached inputs, one
    backward pass of the sum gives either side the gradient of its own loss alone.

    Args:
        network (nn.Module): its mode, training or not, is left as it is.
        inputs: of its ``forward``.

    Returns:
        torch.Tensor: what ``network(*inputs)`` is.
    """
    detached = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return functional_call(network, detached, inputs)
