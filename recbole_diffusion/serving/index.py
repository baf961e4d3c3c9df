"""Approximate recommendation from large catalogues: an inverted file beside the checkpoint, and the command that makes and measures it.

An exact ranking multiplies a history's vector with those of all items. The index sorts the items into lists around centres and looks at the
items of a few lists only. What it finds has exact scores; what it misses is measured when it is made.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import make_folder, written_whole
from recbole_diffusion.layers.item_lists import ItemLists

FORMAT = 1
PROBES = 16
MEASURED = 1000  # histories by which recall is measured


class ItemIndex:
    """Items of a model, sorted into lists.

    Args:
        lists (ItemLists): the items.
        n_probes (int): lists that a history looks at.
        weights (str): of the model, see :func:`weights_of`.
    """

    def __init__(self, lists: ItemLists, n_probes: int, weights: str) -> None:
        self.lists, self.n_probes, self.weights = lists, n_probes, weights

    @classmethod
    def of(cls, network: torch.nn.Module, n_lists: int = 0, n_probes: int = PROBES) -> ItemIndex:
        """Sort the items of a model.

        Args:
            network (DiffusionSequentialRecommender): a model that ranks by inner product.
            n_lists (int): how many; 0 is the square root of the number of items.
            n_probes (int): lists that a history looks at; all where there are fewer.

        Raises:
            UsageError: for a model whose scores are no inner products, and for numbers out of range.
        """
        require_products(network)
        with torch.no_grad():
            table = network.item_vectors()
        n_items = len(table) - 1
        if not 0 <= n_lists <= n_items:
            raise UsageError(f"--lists={n_lists} must lie between 0 and the number of items, {n_items}")
        if n_probes < 1:
            raise UsageError(f"--probes={n_probes} must be at least 1")
        lists = ItemLists.of(table, n_lists)
        return cls(lists, min(n_probes, len(lists.centres)), weights_of(network))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises UsageError when that fails, for example on a full disk."""
        arrays = {name: value.cpu().numpy() for name, value in self.lists.state().items()}
        with written_whole(path, binary=True) as file:
            np.savez(file, format=FORMAT, weights=self.weights, n_probes=self.n_probes, **arrays)

    @classmethod
    def load(cls, path: str | PathLike[str], network: torch.nn.Module, n_probes: int | None = None) -> ItemIndex:
        """Read the file of a model.

        Args:
            path (str): written by :meth:`save`.
            network (DiffusionSequentialRecommender): the model, whose weights must be those of the file.
            n_probes (int, optional): in place of what the file says.

        Raises:
            UsageError: when the file is missing, damaged or of other weights, or the model ranks otherwise.
        """
        require_products(network)
        if not Path(path).is_file():
            raise UsageError(f"index '{path}' does not exist: recbole-diffusion index CHECKPOINT makes it")
        try:
            with np.load(path) as file:
                kept = {name: file[name] for name in ("format", "weights", "n_probes", "centres", "members", "starts")}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"'{path}' is no index of recbole_diffusion ({error}): make it again") from None
        if int(kept["format"]) != FORMAT:
            raise UsageError(f"'{path}' is an index of another version: make it again")
        if str(kept["weights"]) != weights_of(network):
            raise UsageError(f"index '{path}' belongs to other weights than the checkpoint: make it again")
        device = next(network.parameters()).device
        lists = ItemLists(*(torch.from_numpy(kept[name]).to(device) for name in ("centres", "members", "starts")))
        wanted = int(kept["n_probes"]) if n_probes is None else n_probes
        if not 1 <= wanted <= len(lists.centres):
            raise UsageError(f"--probes={wanted} must lie between 1 and the lists of '{path}', {len(lists.centres)}")
        return cls(lists, wanted, str(kept["weights"]))


class Seen:
    """The items of some histories, each once.

    Args:
        histories (list[list[int]]): item numbers, at least one each.
        device (torch.device): where the tensors are.

    Attributes:
        items (torch.LongTensor): [B, H], in ascending order, padded with 0 on the right.
        is_padding (torch.BoolTensor): [B, H].
    """

    def __init__(self, histories: list[list[int]], device: torch.device) -> None:
        own = [sorted(set(items)) for items in histories]
        counts = torch.tensor([len(items) for items in own])
        self._flat = torch.tensor([item for items in own for item in items], device=device)
        self._row = torch.arange(len(own)).repeat_interleave(counts).to(device)
        self.is_padding = (torch.arange(int(counts.max())) >= counts[:, None]).to(device)
        self.items = torch.zeros_like(self.is_padding, dtype=torch.long)
        self.items[~self.is_padding] = self._flat

    def holds(self, items: torch.Tensor) -> torch.Tensor:
        """Whether each row's history holds its items: [B, K] -> [B, K]."""
        width = self.items.shape[1]
        place = torch.searchsorted(self._ascending(), items).clamp(max=width - 1)
        return self.items.gather(1, place) == items

    def _ascending(self) -> torch.Tensor:
        return self.items.masked_fill(self.is_padding, torch.iinfo(torch.long).max)

    def additions(self, met: Any, n_items: int) -> torch.Tensor:
        """What learned repetition adds to the items: [B, H].

        Args:
            met (Additions): for cells of [B, n_items], items of the histories alone.
            n_items (int): V.
        """
        place = torch.searchsorted(self._row * n_items + self._flat, met.rows * n_items + met.columns)
        flat = met.values.new_zeros(len(self._flat)).index_put((place,), met.values)
        added = flat.new_zeros(self.items.shape)
        added[~self.is_padding] = flat
        return added


def require_products(network: Any) -> None:
    """Raise UsageError for a model whose scores are no inner products with vectors of items."""
    if not getattr(network, "ranks_by_products", False):
        raise UsageError(
            f"{type(network).__name__} does not rank by inner products of a history's vector with those of items: "
            f"recommend without an index"
        )


def weights_of(network: torch.nn.Module) -> str:
    """Hash of all weights of a model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
    return digest.hexdigest()


def usual_path(checkpoint: str | PathLike[str]) -> Path:
    """Where the index of a checkpoint lies: ``<name>.index.npz`` beside it."""
    return Path(checkpoint).with_suffix(".index.npz")


# The command


def main(args: Any) -> int:
    """Run ``recbole-diffusion index``: make the index of a checkpoint and print what it costs in recall and saves in time."""
    from recbole_diffusion.serving.recommender import Recommender

    recommender = Recommender.load(args.checkpoint, args.device, args.trust_checkpoint)
    recommender.check_request(args.k, "drop", 256)
    output = Path(args.output) if args.output else usual_path(args.checkpoint)
    make_folder(output.parent, "output")
    histories = measured_histories(recommender, args.input)
    start = time.perf_counter()
    index = ItemIndex.of(recommender.network, args.lists, args.probes)
    seconds = time.perf_counter() - start
    index.save(output)
    print(f"index    {output}, {len(index.lists.centres)} lists of {len(recommender.tokens) - 1:,} items, made in {seconds:.1f} s")
    exact, exact_rate = timed(recommender, histories, args.k)
    recommender.index = index
    found, rate = timed(recommender, histories, args.k)
    shared = [len({token for token, _ in a} & {token for token, _ in b}) / max(len(a), 1) for a, b in zip(exact, found)]
    whose = f"'{args.input}'" if args.input else "items drawn by their counts"
    print(f"recall@{args.k} {np.mean(shared):.4f} with {index.n_probes} probes, of {len(histories)} histories of {whose}")
    print(f"speed    {exact_rate:,.0f} histories per second exact, {rate:,.0f} with the index")
    return 0


def measured_histories(recommender: Any, source: str | None) -> list[list[str]]:
    """Histories of a file, or else drawn by how often items occur in the training part."""
    if source:
        from itertools import islice

        from recbole_diffusion.serving.histories import read_histories

        known = set(recommender.tokens[1:])  # others get what is popular, with an index and without
        histories = read_histories(source, commas=not any("," in token for token in known))
        with_known = (items for _, _, items in histories if not known.isdisjoint(items))
        found = list(islice(with_known, MEASURED))
        if not found:
            raise UsageError(f"'{source}' holds no history to measure recall by, with an item that the model knows")
        return found
    random = np.random.default_rng(0)
    tokens, share = recommender.popularity()
    lengths = random.integers(2, 11, MEASURED)
    return [[tokens[number] for number in random.choice(len(tokens), length, p=share)] for length in lengths]


def timed(recommender: Any, histories: list[list[str]], k: int) -> tuple[list[Any], float]:
    """Rankings, and histories per second."""
    recommender.recommend(histories[:1], k)
    start = time.perf_counter()
    found = recommender.recommend(histories, k)
    return found, len(histories) / (time.perf_counter() - start)
