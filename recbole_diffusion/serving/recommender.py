"""Recommendations for histories of item tokens, from a checkpoint alone."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.devices import usable_device
from recbole_diffusion.errors import UsageError, one_line
from recbole_diffusion.serving.catalogue import Catalogue
from recbole_diffusion.serving.histories import is_token
from recbole_diffusion.serving.index import ItemIndex, Seen, usual_path
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.registry import TRIMMABLE
from recbole_diffusion.training.checkpoint import load_checkpoint, reusable_settings

UNKNOWN = ("drop", "error")
# Settings that change how a trained model samples and none of its weights.
SAMPLING_SETTINGS = (
    "sampling_steps", "sampler", "reverse", "reverse_variance", "ddim_eta", "sampling_noise", "guidance_strength", "ensemble_seeds",
    "eval_draws", "eval_neighbours",
)  # fmt: skip


class UnknownItemError(UsageError):
    """An item that the model was not trained on.

    Attributes:
        row (int): number of the history, from 0.
        token (str): the item.
    """

    def __init__(self, row: int, token: str) -> None:
        super().__init__(f"history {row}: unknown item '{token}' (unknown: drop ignores them)")
        self.row, self.token = row, token


class Ranking(list[tuple[str, float]]):
    """``(token, score)`` pairs, best first.

    Attributes:
        source (str): ``model``, or ``popularity`` when the history holds no known item; scores are then counts of the
            training part.
        unknown (list[str]): items of the history that the model does not know.
    """

    def __init__(self, pairs: Iterable[tuple[str, float]], source: str, unknown: list[str]) -> None:
        super().__init__(pairs)
        self.source, self.unknown = source, unknown


class Recommender:
    """A trained model that maps item tokens to item tokens.

    Attributes:
        index (ItemIndex | None): finds items approximately, in place of a ranking of all.

    Args:
        config (DiffusionConfig): settings of the model.
        network (nn.Module): the model, on its device.
        item_tokens (list[str]): token of every item number; number 0 is padding.
        item_counts (list[int], optional): how often each item occurs in the training part, for empty histories.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        network: Any,
        item_tokens: list[str],
        item_counts: list[int] | None = None,
    ) -> None:
        self.config, self.network = config, network.eval()
        self.tokens = item_tokens
        self.max_length = config["MAX_ITEM_LIST_LENGTH"]
        self.index: ItemIndex | None = None
        self._numbers = {token: number for number, token in enumerate(item_tokens) if number}
        self._trims = config.is_plugin_model or config["model"] in TRIMMABLE
        self._popular = None
        if item_counts is not None:
            by_count = np.argsort(-np.asarray(item_counts)[1:], kind="stable") + 1
            self._popular = [(item_tokens[number], float(item_counts[number])) for number in by_count]

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: str | None = None,
        trust_checkpoint: bool = False,
        index: str | PathLike[str] | None = None,
        n_probes: int | None = None,
        **sampling: Any,
    ) -> Recommender:
        """Read a checkpoint; the data set is not needed.

        Args:
            path (str): checkpoint written by :func:`recbole_diffusion.run`.
            trust_checkpoint (bool): read a pickle from elsewhere and execute any code in it.
            device (str, optional): ``cpu``, ``cuda``, ``cuda:1``, ...; by default as in training where there is one.
            index (str, optional): file of ``recbole-diffusion index``, ``auto`` for the one beside the checkpoint; lists are
                then approximate.
            n_probes (int, optional): how many lists of the index a history looks at.
            sampling: ``sampling_steps`` of a diffusion model that samples, for example 1, or others of :data:`SAMPLING_SETTINGS`.

        Raises:
            UsageError: when a file is missing, damaged or foreign, when the model cannot recommend for new users, for an index
                of other weights, and for a setting that the model does not have.
        """
        chosen = None if device is None else usable_device(device)
        checkpoint = load_checkpoint(path, trust_checkpoint)
        config = _restored_config(checkpoint, path, sampling)
        config["device"] = chosen or config["device"]
        network = _restored_network(config, checkpoint, path)
        recommender = cls(config, network, checkpoint["item_tokens"], _restored_counts(checkpoint, path))
        if index is not None:
            recommender.index = ItemIndex.load(usual_path(path) if index == "auto" else index, network, n_probes)
        return recommender

    def recommend(
        self,
        histories: Sequence[Sequence[str | int]],
        k: int = 10,
        exclude_seen: bool = False,
        unknown: str = "drop",
        batch_size: int = 256,
    ) -> list[Ranking]:
        """The best next items of some histories.

        The scores of a history do not depend on the others, up to rounding in float32.

        Args:
            histories (Sequence[Sequence[str]]): item tokens of each user, oldest first; whole numbers are read as
                text. Only the latest ``MAX_ITEM_LIST_LENGTH`` known ones reach the model.
            k (int): items per history.
            exclude_seen (bool): leave out all items of the history; the list is shorter when too few are left.
            unknown (str): what to do with tokens that the model does not know: ``drop`` or ``error``.
            batch_size (int): histories scored at once; scores are [batch_size, items].

        Returns:
            list[Ranking]: one per history.

        Raises:
            UsageError: for k that is no number from 1 to the number of items, for something else than lists of tokens,
                for an unknown token under ``error``, for an empty history when the checkpoint has no counts.
        """
        self.check_request(k, unknown, batch_size)
        k, batch_size = int(k), int(batch_size)  # PyTorch does not take all whole numbers of NumPy
        if not _is_listed(histories):
            raise UsageError(f"histories must be a list of lists of item tokens, got {_shown(histories)}")
        checked = [self._check_history(row, history) for row, history in enumerate(histories)]
        found = []
        for first in range(0, len(checked), batch_size):
            part = checked[first : first + batch_size]
            found.extend(self._recommend_batch(part, first, k, exclude_seen, unknown))
        return found

    @torch.no_grad()
    def explain(self, history: Sequence[str | int], ranking: Ranking) -> list[dict[str, float]]:
        """How real each factor of the model takes recommended items for, which MFGAN's discriminators say.

        Args:
            history (Sequence[str]): as :meth:`recommend` got it.
            ranking (Ranking): what it returned.

        Returns:
            list[dict[str, float]]: name of the factor -> probability, for every item of the ranking.

        Raises:
            UsageError: for a model without factors, and for a history without known items.
        """
        if not getattr(self.network, "factors", None):
            raise UsageError(f"{self.config['model']} has no factors to explain by: MFGAN has, but for its twin")
        known = [self._numbers[str(token)] for token in history if str(token) in self._numbers]
        if not known:
            raise UsageError("a history without known items is ranked by popularity, which no factor explains")
        network, batch = self.network, self._batch([known])
        items = torch.tensor([[self._numbers[token] for token, _ in ranking]], device=batch[network.ITEM_SEQ].device)
        rewards = network.factor_rewards(batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN], items)
        columns = {name: values[0].tolist() for name, values in rewards.items()}
        return [{name: values[place] for name, values in columns.items()} for place in range(len(ranking))]

    def check_request(self, k: Any, unknown: str, batch_size: Any) -> None:
        """Raise UsageError for a value that :meth:`recommend` cannot use."""
        for name, value in (("k", k), ("batch_size", batch_size)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, got {value}")
        if k > len(self._numbers):
            raise UsageError(f"k {k} is larger than the number of items, {len(self._numbers)}")
        if unknown not in UNKNOWN:
            raise UsageError(f"unknown must be one of {', '.join(UNKNOWN)}, got '{unknown}'")

    @staticmethod
    def _check_history(row: int, history: Any) -> list[str]:
        if not _is_listed(history):
            raise UsageError(f"history {row} must be a list of item tokens, got {_shown(history)}")
        history = list(history)
        for token in history:
            if not is_token(token):
                raise UsageError(f"history {row}: an item must be text or a whole number, got {_shown(token)}")
        return [str(token) for token in history]

    def _recommend_batch(
        self, histories: list[list[str]], first: int, k: int, exclude_seen: bool, unknown: str
    ) -> list[Ranking]:
        rankings, rows, known = [], [], []
        for row, history in enumerate(histories):
            lost = [token for token in history if token not in self._numbers]
            if lost and unknown == "error":
                raise UnknownItemError(first + row, lost[0])
            items = [self._numbers[token] for token in history if token in self._numbers]
            if items:
                rows.append(row)
                known.append(items)
            rankings.append(Ranking([] if items else self._most_popular(k), "model" if items else "popularity", lost))
        if known:
            for row, pairs in zip(rows, self._rank(known, k, exclude_seen)):
                rankings[row].extend(pairs)
        return rankings

    def _most_popular(self, k: int) -> list[tuple[str, float]]:
        if self._popular is None:
            raise UsageError("a history without known items needs item_counts, which the checkpoint lacks: train again")
        return self._popular[:k]

    @torch.no_grad()
    def _rank(self, histories: list[list[int]], k: int, exclude_seen: bool) -> Iterator[list[tuple[str, float]]]:
        """Best items of histories of item numbers: for each a list of (token, score)."""
        if self.index is not None:
            yield from self._rank_by_index(self.index, histories, k, exclude_seen)
            return
        try:
            scores = self.network.full_sort_predict(self._batch(histories)).view(len(histories), -1)
        except KeyError as error:
            raise UsageError(
                f"{self.config['model']} scores by more than a history, it asks for {error}: use load_data_and_model"
            ) from None
        scores[:, 0] = float("-inf")
        if exclude_seen:
            rows = [row for row, items in enumerate(histories) for _ in items]
            scores[rows, [item for items in histories for item in items]] = float("-inf")
        best, items = scores.topk(k)
        if best.isnan().any():
            raise UsageError("the model's scores are no numbers: its training diverged")
        for values, numbers in zip(best.tolist(), items.tolist()):
            yield [(self.tokens[n], value) for value, n in zip(values, numbers) if value > float("-inf")]

    def _rank_by_index(
        self, index: ItemIndex, histories: list[list[int]], k: int, exclude_seen: bool
    ) -> Iterator[list[tuple[str, float]]]:
        """As :meth:`_rank`, among the items of a few lists and those of the history, with their exact scores."""
        network, batch = self.network, self._batch(histories)
        users = network.encode(batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN])
        table, seen = network.item_vectors(), Seen(histories, users.device)
        moved = exclude_seen or network.repetition is not None  # items of the history may leave the best
        wanted = min(k + (seen.items.shape[1] if moved else 0), len(self.tokens) - 1)
        found = index.lists.top_items(users, table, wanted, n_probes=index.n_probes)
        scores = torch.einsum("bd,bkd->bk", users.to(table.dtype), table[found])
        scores = scores.masked_fill(seen.holds(found), float("-inf"))  # they come with the history
        own = torch.einsum("bd,bkd->bk", users.to(table.dtype), table[seen.items])
        met = network.met_at_end(batch[network.ITEM_SEQ], batch[network.ITEM_SEQ_LEN])
        own = own if met is None else own + seen.additions(met, len(table)).to(own.dtype)
        own = own.masked_fill(seen.is_padding, float("-inf")) if not exclude_seen else torch.full_like(own, float("-inf"))
        best, places = torch.cat([scores, own], 1).topk(k)
        if best.isnan().any():
            raise UsageError("the model's scores are no numbers: its training diverged")
        items = torch.cat([found, seen.items], 1).gather(1, places)
        for values, numbers in zip(best.tolist(), items.tolist()):
            yield [(self.tokens[n], value) for value, n in zip(values, numbers) if value > float("-inf")]

    def popularity(self) -> tuple[list[str], np.ndarray]:
        """Tokens of the items of the training part, and their shares of it. Raises UsageError where counts are missing."""
        pairs = [(token, count) for token, count in self._most_popular(len(self.tokens)) if count > 0]
        counts = np.array([count for _, count in pairs])
        return [token for token, _ in pairs], counts / counts.sum()

    def _batch(self, histories: list[list[int]]) -> Interaction:
        network = self.network
        lengths = [min(len(items), self.max_length) for items in histories]
        padded = np.zeros((len(histories), max(lengths) if self._trims else self.max_length), dtype=np.int64)
        for row, length, items in zip(padded, lengths, histories):
            row[:length] = items[-length:]
        columns = {network.ITEM_SEQ: torch.from_numpy(padded), network.ITEM_SEQ_LEN: torch.tensor(lengths)}
        return Interaction(columns).to(self.config["device"])


def _restored_config(checkpoint: Any, path: object, sampling: dict[str, Any]) -> DiffusionConfig:
    saved = checkpoint.get("config")
    if isinstance(saved, dict) and checkpoint.get("item_tokens") is None:
        raise UsageError(f"'{path}' does not hold its items, as RecBole's own checkpoints: use load_data_and_model")
    if not isinstance(saved, dict) or not isinstance(checkpoint["item_tokens"], list):
        raise UsageError(f"'{path}' is not a checkpoint of recbole_diffusion: it has no settings or no items")
    for key in sampling:
        check_sampling(saved, key)
    try:
        settings = {**reusable_settings(saved, None), **sampling}
        return DiffusionConfig(saved["model"], saved["dataset"], config_dict=settings)
    except (KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"'{path}' is not a checkpoint of recbole_diffusion: damaged settings ({error})") from None


def check_sampling(saved: Mapping[str, Any], key: str) -> None:
    """Raise UsageError when a model has no such setting of sampling. saved: settings of its training."""
    if key not in SAMPLING_SETTINGS or key not in saved:
        raise UsageError(f"{saved.get('model')} has no {key} to change: leave it out")


def _restored_network(config: DiffusionConfig, checkpoint: Any, path: object) -> torch.nn.Module:
    network = config.model_class(config, Catalogue(config, checkpoint))
    try:
        network.load_state_dict(checkpoint["state_dict"])
        network.load_other_parameter(checkpoint.get("other_parameter"))
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        if "current model is torch.Size([1, " in str(error):
            raise UsageError(
                f"{config['model']} learns something for every user of its data and cannot recommend for new ones: use "
                f"load_data_and_model"
            ) from None
        raise UsageError(f"'{path}' does not fit {config['model']}: {one_line(error, 200)}") from None
    return network.to(config["device"])


def _restored_counts(checkpoint: Any, path: object) -> list[int] | None:
    """How often each item occurs in the training part, None in checkpoints from before these were kept."""
    counts, n_items = checkpoint.get("item_counts"), len(checkpoint["item_tokens"])
    if counts is None:
        return None
    if not isinstance(counts, torch.Tensor) or counts.shape != (n_items,):
        raise UsageError(f"'{path}' is damaged: its item_counts are not one number for each of {n_items} items")
    return counts.tolist()


def _is_listed(value: Any) -> bool:
    """Whether a value holds others in an order of their own, which text, dicts and sets do not."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)):
        return False
    try:
        iter(value)  # arrays without dimensions look iterable and are not
    except TypeError:
        return False
    return True


class _Shortened(reprlib.Repr):
    """Values of NumPy look like those of Python."""

    def repr1(self, x: Any, level: int) -> str:
        return super().repr1(x.item() if isinstance(x, np.generic) else x, level)


def _shown(value: object) -> str:
    """A value of any size and kind as a piece of one line."""
    return one_line(_Shortened().repr(value))
