"""Training sessions as neighbours by their items and by their intents (MSGAT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from recbole_diffusion.layers.overlap import SessionSets, nearest_of_each
from recbole_diffusion.layers.packed import FineLayout, PackedLayout
from recbole_diffusion.layers.session_bank import SessionBank

SEQUENCES_AT_A_TIME = 2048
NEIGHBOURHOODS_AT_A_TIME = 512

# Packed items [N] and where they belong -> sessions [n, d] and their targets [n, D].
Reader = Callable[[torch.Tensor, PackedLayout], tuple[torch.Tensor, torch.Tensor]]
# Targets [n, D], the means of the items of sessions [n, d] and of others [n, m, d], overlaps [n, m] -> [n, d].
Neighbourhood = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
        overlaps = nearest_of_each(self.sets, self.shown, n_candidates)
        for name, tensor in (
            ("row_of_user", whole.row_of_user),
            ("sequences", sequences),
            ("lengths", (sequences > 0).sum(1)),
            ("kind", kind),
            ("overlapping", overlaps.session),
            ("jaccard", overlaps.jaccard),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def __len__(self) -> int:
        return len(self.kind)

    def intents(self, read: Reader, neighbourhood: Neighbourhood, table: torch.Tensor) -> torch.Tensor:
        """All sessions and what is around them, in which none meets itself.

        Args:
            read, neighbourhood (callable): see above.
            table (torch.Tensor): [V, d] items.

        Returns:
            torch.Tensor: [S, d].
        """
        everything = torch.arange(len(self), device=self.kind.device)
        parts = zip(self.sequences.split(SEQUENCES_AT_A_TIME), self.lengths.split(SEQUENCES_AT_A_TIME))
        layouts = ((rows, FineLayout(lengths)) for rows, lengths in parts)
        sessions, targets = zip(*(read(layout.pack(rows), layout) for rows, layout in layouts))
        session, target = torch.cat(sessions), torch.cat(targets)
        whole, shown = self.sets.means(table, everything), self.shown.means(table, everything)
        around = []
        for some in everything.split(NEIGHBOURHOODS_AT_A_TIME):
            others = whole[self.overlapping[some]]
            around.append(neighbourhood(target[self.kind[some]], shown[some], others, self.jaccard[some]))
        return session[self.kind] + torch.cat(around)
