"""Item tables of which a step moves only the rows that it meets: their optimizer, clipping of their gradients."""

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer, SparseAdam


def sparse_tables(model):
    """Weights whose gradients hold a few rows: a list of parameters."""
    kinds = nn.Embedding, nn.EmbeddingBag
    return [module.weight for module in model.modules() if isinstance(module, kinds) and module.sparse]


class WithSparseTable(Optimizer):
    """An optimizer for most parameters and ``torch.optim.SparseAdam`` for tables, as one.

    A row that a step does not meet stays where it is, and its moments stay what they were: with Adam both go on moving. The
    learning rates are one list, so that schedules reach both.

    Args:
        rest (torch.optim.Optimizer): of all other parameters.
        tables (list[torch.nn.Parameter]): [V, d] each.
        learning_rate (float): of the tables.
    """

    def __init__(self, rest, tables, learning_rate):
        self.parts = {"rest": rest, "tables": SparseAdam(tables, lr=learning_rate)}
        super().__init__(self._groups(), {})

    def _groups(self):
        return [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both. ``closure`` is not supported."""
        for part in self.parts.values():
            part.step()

    def state_dict(self):
        """Name of the part -> its state."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict):
        """Go on from what :meth:`state_dict` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups[:] = self._groups()  # loading makes new ones


def clip_gradients(parameters, **limit):
    """``clip_grad_norm_``, which also takes gradients that hold a few rows; ``limit`` are its other arguments."""
    clip_grad_norm_([_same_norm(parameter) for parameter in parameters], **limit)


def _same_norm(parameter):
    """The parameter, or what has the rows of its gradient as a gradient, sharing their memory."""
    if parameter.grad is None or not parameter.grad.is_sparse:
        return parameter
    parameter.grad = parameter.grad.coalesce()  # a row that is there twice has the norm of its sum
    rows = torch.empty_like(parameter.grad.values())
    rows.grad = parameter.grad.values()
    return rows
