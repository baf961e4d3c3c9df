"""Training sessions as neighbours by their items and by their intents (MSGAT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.overlap import SessionSets, nearest_of_each
from recbole_diffusion.layers.packed import FineLayout, PackedLayout
from recbole_diffusion.layers.session_bank import SessionBank

SEQUENCES_AT_A_TIME = NEIGHBOURHOODS_AT_A_TIME = 512  # so that what is computed stays in the cache

# Packed items [N] and where they belong -> sessions [n, d] and their targets [n, D].
Reader = Callable[[torch.Tensor, PackedLayout], tuple[torch.Tensor, torch.Tensor]]
# Targets [n, D], the means of the items of sessions [n, d] and of others [n, m, d], overlaps [n, m] -> [n, d].
Neighbourhood = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Intents:
    """What one state of the weights makes of the sessions of a bank."""

    sessions: torch.Tensor  # [s, d] distinct sequences
    targets: torch.Tensor  # [s, D] theirs
    whole: torch.Tensor  # [S, d] means of the items of all sessions
    shown: torch.Tensor  # [S, d] and of what they show
    vectors: torch.Tensor  # [S, d] intents
    index: torch.Tensor  # [S, d] of length one
    uses: int = 0  # searches so far


class OverlapBank(nn.Module):
    """Sessions, their sets of items, and which of them overlap most, which no weight changes. In no checkpoint.

    Args:
        items, lengths, users (torch.LongTensor): [n], [S] and [S] of training sessions.
        n_items (int): V.
        n_candidates (int): most sessions that overlap with one.
        inputs_only (bool): a session shows all but its last item when its intent is compared.
    """

    row_of_user: torch.Tensor
    sequences: torch.Tensor
    lengths: torch.Tensor
    kind: torch.Tensor
    overlapping: torch.Tensor
    jaccard: torch.Tensor

    def __init__(
        self,
        items: torch.Tensor,
        lengths: torch.Tensor,
        users: torch.Tensor,
        n_items: int,
        n_candidates: int,
        inputs_only: bool,
    ) -> None:
        super().__init__()
        whole, shown = SessionBank(items, lengths, users), SessionBank(items, lengths, users, inputs_only)
        self.sets = SessionSets.of_rows(whole.items, n_items)
        self.shown = SessionSets.of_rows(shown.items, n_items)
        sequences, kind = shown.items.unique(dim=0, return_inverse=True)  # equal ones are read once
        order = (sequences > 0).sum(1).argsort(stable=True)  # and those of one length together
        sequences, kind = sequences[order], order.argsort()[kind]
        overlaps = nearest_of_each(self.sets, self.shown, n_candidates)
        for name, tensor in (
            ("row_of_user", whole.row_of_user),
            ("sequences", sequences),
            ("lengths", (sequences > 0).sum(1)),
            ("kind", kind),
            ("overlapping", overlaps.session),
            ("jaccard", overlaps.similarity),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def __len__(self) -> int:
        return len(self.kind)

    @torch.no_grad()
    def intents(self, read: Reader, neighbourhood: Neighbourhood, table: torch.Tensor) -> Intents:
        """All sessions and what is around them, in which none meets itself.

        Args:
            read, neighbourhood (callable): see above.
            table (torch.Tensor): [V, d] items.
        """
        everything = torch.arange(len(self), device=self.kind.device)
        parts = zip(self.sequences.split(SEQUENCES_AT_A_TIME), self.lengths.split(SEQUENCES_AT_A_TIME))
        layouts = ((rows, FineLayout(lengths)) for rows, lengths in parts)
        sessions, targets = map(torch.cat, zip(*(read(layout.pack(rows), layout) for rows, layout in layouts)))
        means = self.sets.means(table, everything), self.shown.means(table, everything)
        found = Intents(sessions, targets, *means, vectors=means[0], index=means[0])
        parts = everything.split(NEIGHBOURHOODS_AT_A_TIME)
        found.vectors = torch.cat([self._intents(found, some, self.jaccard[some], neighbourhood) for some in parts])
        found.index = unit(found.vectors)
        return found

    def _intents(
        self, known: Intents, numbers: torch.Tensor, overlap: torch.Tensor, neighbourhood: Neighbourhood
    ) -> torch.Tensor:
        """Intents of some sessions: [n] -> [n, d]. overlap: [n, m] with the sessions that are near to each."""
        kind, others = self.kind[numbers], known.whole[self.overlapping[numbers]]
        return known.sessions[kind] + neighbourhood(known.targets[kind], known.shown[numbers], others, overlap)

    @torch.no_grad()
    def seen_by(
        self, own: torch.Tensor, numbers: torch.Tensor, known: Intents, neighbourhood: Neighbourhood
    ) -> torch.Tensor:
        """Intents of some sessions as they would be if others did not exist, for training, which must not see its target.

        Args:
            own (torch.LongTensor): [B] session that asks and is left out of what is around those that it sees.
            numbers (torch.LongTensor): [B, k] sessions that it sees.
            known (Intents): of all sessions.
            neighbourhood (callable): see above.

        Returns:
            torch.Tensor: [B, k, d].
        """
        flat = numbers.flatten()
        met = self.overlapping[flat] == own.repeat_interleave(numbers.shape[1]).unsqueeze(1)
        met &= self.jaccard[flat] > 0
        vectors, concerned = known.vectors[flat], met.any(1).nonzero().squeeze(1)
        overlap = self.jaccard[flat[concerned]].masked_fill(met[concerned], 0)
        changed = self._intents(known, flat[concerned], overlap, neighbourhood).to(vectors.dtype)
        return vectors.index_copy(0, concerned, changed).unflatten(0, numbers.shape)
