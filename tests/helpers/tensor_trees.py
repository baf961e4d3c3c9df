"""Tensors among the arguments of an operation; for its few kinds of arguments much faster than torch's own trees."""

import torch


def tensors_of(args, kwargs):
    """The tensors among the arguments of an operation, which are tensors, lists of them, or neither."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (part for part in value if isinstance(part, torch.Tensor))


def mapped(value, kind, change):
    """A value in which everything of some kind is changed, in lists and dicts too."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(part, kind, change) for part in value])
    if isinstance(value, dict):
        return {key: mapped(part, kind, change) for key, part in value.items()}
    return value
