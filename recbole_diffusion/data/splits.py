"""RecBole's splits by operations on whole arrays; its loops take minutes on ten million rows."""

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.data.orders import grouped_order, small_numbers


def rows_of(feat, index):
    """Some rows of an ``Interaction``, in the order of their numbers (array or tensor), which RecBole looks up one by one."""
    index = torch.as_tensor(np.ascontiguousarray(index))
    return Interaction({name: column[index] for name, column in feat.interaction.items()})


class ArraySplits:
    """The splitting of a data set, to be mixed in before RecBole's class. Parts hold the rows that RecBole's hold."""

    def split_by_ratio(self, ratios, group_by=None):
        """RecBole's, group by group where ``group_by`` names a field."""
        if group_by is None:
            return super().split_by_ratio(ratios)
        shares = [ratio / sum(ratios) for ratio in ratios]
        order, place, size = self._places(group_by)
        sizes, which = np.unique(size, return_inverse=True)
        ends = np.array([self._calcu_split_ids(tot=int(n), ratios=shares) for n in sizes])  # [sizes, parts - 1]
        part = (place[:, None] >= ends[which]).sum(1)
        return self._parts(order, part, len(ratios))

    def leave_one_out(self, group_by, leave_one_mode):
        """RecBole's: the last rows of every group, but never its only one, are validation and test."""
        if group_by is None or leave_one_mode not in ("valid_and_test", "valid_only", "test_only"):
            return super().leave_one_out(group_by, leave_one_mode)  # which knows what to say
        left_out = 2 if leave_one_mode == "valid_and_test" else 1
        last_part = 1 if leave_one_mode == "valid_only" else 2
        return self._parts(*self._ends_held_out(group_by, left_out, last_part), 3)

    def _ends_held_out(self, field, left_out, last_part):
        """Rows group by group and the part of each, where the last ``left_out`` of a group go to the last parts: arrays [n]."""
        order, place, size = self._places(field)
        size -= 1
        from_end = np.subtract(size, place, out=place)
        held = from_end < np.minimum(left_out, size)
        return order, np.where(held, last_part - from_end, 0).astype(np.int8)

    def time_based_split(self, ratios, group_by):
        """RecBole's: rows after a moment are the test, of the earlier ones of every group the latest are validation."""
        if group_by is None or self.time_field not in self.inter_feat:
            return super().time_based_split(ratios, group_by)
        shares = [ratio / sum(ratios) for ratio in ratios]
        times = self.inter_feat[self.time_field].numpy()
        order, place, size = self._places(group_by)
        earlier = times[order] <= np.percentile(times, 100 * (1 - shares[-1]))
        group = np.cumsum(place == 0) - 1
        n_earlier = np.bincount(group, earlier).astype(int)[group]
        n_train = (n_earlier * (shares[0] / (1 - shares[2]))).astype(int)
        return self._parts(order, (place >= n_train).astype(int) + (place >= n_earlier), 3)

    def _places(self, field):
        """Rows group by group, in their order; the place of each in its group, and the group's size: arrays [n]."""
        keys = self.inter_feat[field].numpy()
        order, counts = grouped_order(keys), np.bincount(keys)
        small = small_numbers(len(keys))
        sizes = counts[counts > 0].astype(small)
        starts = np.cumsum(sizes, dtype=small) - sizes
        return order, np.arange(len(keys), dtype=small) - np.repeat(starts, sizes), np.repeat(sizes, sizes)

    def _parts(self, order, part, n_parts):
        """Copies of the data set with the rows of each part. order, part: [n]."""
        self._drop_unused_col()
        rows = [order[part == number] for number in range(n_parts)]
        rows[0] = self._training_rows(rows[0])
        return [self.copy(rows_of(self.inter_feat, index)) for index in rows]

    def _training_rows(self, rows):
        """Rows of the training part, group by group, of which a data set may need some only: [n] -> [m]."""
        return rows
