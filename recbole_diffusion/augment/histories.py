"""Histories as the generator sees them: one flat array, with a length for each user."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Histories:
    """Items of some users, one after the other.

    Attributes:
        items (torch.LongTensor): [n] item numbers.
        lengths (torch.LongTensor): [U], each at least 1.
        users (torch.LongTensor): [U] user numbers.
    """

    items: torch.Tensor
    lengths: torch.Tensor
    users: torch.Tensor

    def __len__(self):
        return len(self.lengths)

    @property
    def starts(self):
        """Where each history starts: [U]."""
        return self.lengths.cumsum(0) - self.lengths

    def first(self, count):
        """The first items of histories that have as many: [U, count]."""
        return self.items[self.starts[:, None] + torch.arange(count)]

    def last(self):
        """The last item of each history: [U]."""
        return self.items[self.lengths.cumsum(0) - 1]

    def choose(self, rows, skip=0):
        """Some of the histories, without their first items.

        Args:
            rows (torch.LongTensor): [R].
            skip (int): items that are left out of each; what is left has at least one.

        Returns:
            Histories
        """
        starts, lengths = self.starts[rows] + skip, self.lengths[rows] - skip
        row = torch.arange(len(rows)).repeat_interleave(lengths)
        place = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
        return Histories(self.items[starts[row] + place], lengths, self.users[rows])

    def vectors(self, table, mode):
        """Mean or sum of the vectors of the items: table [V, d] -> [U, d]."""
        device = table.device
        return F.embedding_bag(self.items.to(device), table, self.starts.to(device), mode=mode)


def training_histories(train):
    """Histories of a training part with its targets. train: SequenceDataset."""
    return Histories(*train.sessions(whole=True))


def with_validation(histories, valid):
    """The same users' histories with their validation items, which the released code shows to its generator.

    Args:
        histories (Histories): of the training part.
        valid (SequenceDataset): the validation part.

    Returns:
        Histories: in the same order.
    """
    longer = Histories(*valid.sessions(whole=True))
    place = {user: row for row, user in enumerate(longer.users.tolist())}
    both = Histories(*(torch.cat(pair) for pair in zip(_parts(longer), _parts(histories))))
    rows = [place.get(user, len(longer) + row) for row, user in enumerate(histories.users.tolist())]
    return both.choose(torch.tensor(rows))


def _parts(histories):
    return histories.items, histories.lengths, histories.users


def drawn_items(histories, length, n_items, seed, own):
    """Pseudo items without a generator.

    Args:
        histories (Histories): of U users.
        length (int): M.
        n_items (int): V, with padding.
        seed (int): of the draw.
        own (bool): from the items of each user instead of all items.

    Returns:
        np.ndarray: [U, M] item numbers.
    """
    random = np.random.default_rng(seed)
    if not own:
        return random.integers(1, n_items, size=(len(histories), length))
    places = random.integers(histories.lengths.numpy()[:, None], size=(len(histories), length))
    return histories.items.numpy()[histories.starts.numpy()[:, None] + places]
