"""What models ask of a data set, answered from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.config import DiffusionConfig


class Catalogue:
    """What models ask of a data set when they are built, answered from a checkpoint.

    A single user, so that a model with a vector for every user does not fit its own weights and is refused.
    """

    user_num = 1

    def __init__(self, config: DiffusionConfig, checkpoint: dict[str, Any]) -> None:
        self._user_field, self._item_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self._model, self._checkpoint = config["model"], checkpoint
        self.item_num = len(checkpoint["item_tokens"])
        self.field2seqlen = {self._item_field + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}

    def num(self, field: str) -> int:
        """Number of values of the user or the item field."""
        return {self._user_field: self.user_num, self._item_field: self.item_num}[field]

    def sessions(self) -> Any:
        """Training sessions that the model itself keeps, as :meth:`SequenceDataset.sessions` returns them."""
        return self._kept("training_sessions")

    def session_folds(self, *_: Any) -> None:
        """None: training is over, and new histories see the graph of all sessions."""

    def item_counts(self) -> Any:
        """Counts that the model itself keeps, as :meth:`SequenceDataset.item_counts` returns them."""
        return self._kept("item_counts")

    def transitions(self) -> Any:
        """Counts that the model itself keeps, as :meth:`SequenceDataset.transitions` returns them."""
        return self._kept("transitions")

    def training_examples(self, *_: Any, **__: Any) -> None:
        """None: training is over."""

    def item_attributes(self, *_: Any) -> Any:
        """Attributes that the model itself keeps, as :meth:`SequenceDataset.item_attributes` returns them."""
        return self._kept("item_attributes")

    def item_features(self, choice: str, missing: str, width: int | None, kind: str = "text") -> torch.Tensor | None:
        """Item vectors [V, d] of a trained model, None when it was trained without."""
        weights = self._checkpoint["state_dict"]
        names = [f"features.{kind}.weight", *(["feature_embedding.weight"] if kind == "text" else [])]
        return next((weights[name] for name in names if name in weights), None)

    def item_prices(self, *_: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Levels and categories [V] that the model itself keeps, as :meth:`SequenceDataset.item_prices` returns them."""
        weights = self._checkpoint["state_dict"]
        return weights.get("price_level"), weights.get("category")

    def __getattr__(self, name: str) -> Any:
        raise self._not_kept(name)

    def _kept(self, name: str) -> Any:
        kept = self._checkpoint.get("other_parameter") or {}
        if name not in kept:
            raise self._not_kept(name)
        return kept[name]

    def _not_kept(self, name: str) -> UsageError:
        return UsageError(
            f"{self._model} needs '{name}' of its data set, which a checkpoint does not hold: use load_data_and_model"
        )
