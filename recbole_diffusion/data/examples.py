"""Examples of the training part as a model sees them that looks other histories up: by number, and by target."""

import torch
import torch.nn.functional as F

# Columns of an example besides RecBole's: flat index where its history starts, where its user starts, and of the target.
HISTORY_START, USER_START, TARGET = "_history_start", "_user_start", "_target"
PSEUDO_LENGTH = "pseudo_length"  # how many items of its history, the first ones, were generated


def numbered_in_groups(sizes):
    """Members of groups, group by group.

    Args:
        sizes (torch.LongTensor): [G].

    Returns:
        tuple: group of each member and its number from 0 within it, both [sum of sizes].
    """
    group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    return group, torch.arange(len(group), device=sizes.device) - (sizes.cumsum(0) - sizes)[group]


class TrainingExamples:
    """Histories of training, on the CPU. No two examples have their target at the same place.

    Args:
        flat (torch.LongTensor): items of all users, one after the other; never changed here.
        starts, lengths (torch.LongTensor): [n] where in ``flat`` the histories stand.
        places (torch.LongTensor): [n] place of the target in ``flat``, by which batches name an example.
        targets (torch.LongTensor): [n] the next items.
    """

    def __init__(self, flat, starts, lengths, places, targets):
        order = places.argsort()
        self.flat, self.places, self.targets = flat, places[order].long(), targets[order]
        self.starts, self.lengths = starts[order], lengths[order]

    def __len__(self):
        return len(self.places)

    def find(self, places):
        """Numbers of examples by the places of their targets, -1 for what is none of them: [B] -> [B]."""
        places = places.long()
        numbers = torch.searchsorted(self.places, places).clamp(max=len(self) - 1)
        return torch.where(self.places[numbers] == places, numbers, -1)

    def histories(self, numbers):
        """Items of some histories, zeros on the right, and how many: numbers [B] -> [B, L], [B]."""
        lengths = self.lengths[numbers]
        cells, real = self._cells(numbers, int(lengths.max()))
        return self.flat[cells] * real, lengths

    def put_into(self, ids, lengths, numbers):
        """Rows of which some are replaced by training histories.

        Args:
            ids (torch.LongTensor): [B, L] items, zeros on the right.
            lengths (torch.LongTensor): [B].
            numbers (torch.LongTensor): [B] examples, on the CPU, -1 for rows that stay.

        Returns:
            tuple: new ids, maybe wider, and new lengths, on the device of ``ids``.
        """
        rows = (numbers >= 0).nonzero().squeeze(1)
        if not len(rows):
            return ids, lengths
        found, found_lengths = self.histories(numbers[rows])
        ids = F.pad(ids, (0, max(0, found.shape[1] - ids.shape[1])))
        found, rows = F.pad(found, (0, ids.shape[1] - found.shape[1])).to(ids.device), rows.to(ids.device)
        return ids.index_copy(0, rows, found), lengths.index_copy(0, rows, found_lengths.to(ids.device))

    def own_copy(self):
        """The same examples on a copy of the items in which no two share a cell, for whoever edits them."""
        row, step = numbered_in_groups(self.lengths)
        starts = self.lengths.cumsum(0) - self.lengths
        return TrainingExamples(self.flat[self.starts[row] + step], starts, self.lengths, self.places, self.targets)

    def write(self, numbers, rows):
        """Change the items of some histories in place, which only an :meth:`own_copy` allows. rows: [B, L] as read."""
        cells, real = self._cells(numbers, rows.shape[1])
        self.flat[cells[real]] = rows[real]

    def _cells(self, numbers, width):
        """Where the items of some histories stand in ``flat``: cells [B, width], whether there is an item [B, width]."""
        place = torch.arange(width)
        real = place < self.lengths[numbers][:, None]
        return torch.where(real, self.starts[numbers][:, None] + place, 0), real


class SameTarget:
    """Draws training histories with the same next item (DuoRec section 4.2), in O(B) after O(n log n) once.

    Args:
        examples (TrainingExamples): where from.
    """

    def __init__(self, examples):
        self.examples = examples
        self.order = examples.targets.argsort(stable=True)  # example numbers, target by target
        counts = torch.bincount(examples.targets)
        first = counts.cumsum(0) - counts
        self.rank = torch.empty_like(self.order)  # of an example among those with its target
        self.rank[self.order] = torch.arange(len(examples)) - first[examples.targets[self.order]]
        self.counts, self.first = torch.cat([counts, counts.new_zeros(1)]), torch.cat([first, first.new_zeros(1)])

    def draw(self, places, targets):
        """An example of the same target, uniform over all but the example itself.

        Args:
            places (torch.LongTensor): [B] where the targets stand, -1 for a row that is no training example.
            targets (torch.LongTensor): [B] the next items.

        Returns:
            torch.LongTensor: [B] example numbers, -1 where there is no other.
        """
        numbers = self.examples.find(places)
        targets = targets.clamp(max=len(self.counts) - 1)  # the last entry is for items that are never a target
        others = self.counts[targets] - (numbers >= 0).long()
        drawn = (torch.rand(len(places), dtype=torch.float64) * others).long()
        drawn += (numbers >= 0) & (drawn >= self.rank[numbers])
        drawn = self.order[(self.first[targets] + drawn).clamp(max=len(self.order) - 1)]
        return torch.where(others > 0, drawn, -1)
