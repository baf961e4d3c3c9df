"""What is computed from weights once and kept until they may have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class KeepsWhatWeightsGive(nn.Module):
    """Base, named before others, of models that keep tables of all items or the like between two changes of weights.

    A model sets what it keeps to nothing in :meth:`forget`, which is called at the start of every epoch and evaluation,
    when weights are loaded, and when the model moves to another device or type.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.forget()
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())

    def forget(self) -> None:
        """Drop what was computed from the weights."""
        raise NotImplementedError

    @property
    def keeps(self) -> bool:
        """Whether something may be kept now: weights stand still, and nothing is differentiated."""
        return not self.training and not torch.is_grad_enabled()

    def train(self, mode: bool = True) -> KeepsWhatWeightsGive:
        """Also forgets."""
        self.forget()
        return super().train(mode)

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], *arguments: Any) -> KeepsWhatWeightsGive:
        self.forget()
        return super()._apply(function, *arguments)

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """In evaluation for a moment; forgets nothing."""
        training = self.training
        super().train(False)
        try:
            yield
        finally:
            super().train(training)
