"""RecBole's filters and order, exactly: what goes are the rows that are meant, and a log line counts them."""

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_diffusion.data.orders import grouped_order, stable_order
from recbole_diffusion.errors import UsageError


class ExactFilters:
    """The filtering part of a RecBole data set, to be mixed in before RecBole's class.

    RecBole takes the labels of rows for their places once rows are gone, so that a row without an item stays where
    another lacks its user, and a good one goes. It keeps any of the duplicates of one moment, and never finds a token
    that a setting writes as a number.

    Raises:
        UsageError: for ``rm_dup_inter`` that cannot be done, and for ``val_interval`` of a column that is not loaded.
    """

    def _change_feat_format(self):
        """Order the rows while their times are float64; RecBole's tensors are float32, whose sort keeps this order."""
        if self.benchmark_filename_list is None and self.time_field in self.inter_feat:
            self._sort_by_user_and_time()
        super()._change_feat_format()

    def _sort_by_user_and_time(self):
        """Rows of one user after the other, each in the order of time; in one moment the order of the file decides."""
        order = stable_order(self.inter_feat[self.time_field].to_numpy())
        order = order[grouped_order(self.inter_feat[self.uid_field].to_numpy()[order])]
        self.inter_feat = pd.DataFrame({name: column.array.take(order) for name, column in self.inter_feat.items()}, copy=False)

    def _filter_nan_user_or_item(self):
        """Drop rows without user or item, of all files."""
        if self.user_feat is not None:
            self._drop_rows("user_feat", self.user_feat[self.uid_field].isna(), f"no {self.uid_field}")
        if self.item_feat is not None:
            self._drop_rows("item_feat", self.item_feat[self.iid_field].isna(), f"no {self.iid_field}")
        ids = self.inter_feat.columns.intersection([self.uid_field, self.iid_field])
        broken = pd.Series(np.any([self.inter_feat[name].isna() for name in ids], axis=0))
        self._drop_rows("inter_feat", broken, f"no {' or no '.join(ids)}")

    def _drop_rows(self, name, broken, reason):
        """Drop the rows of a frame for which a column [n] is True."""
        frame, broken = getattr(self, name), broken.to_numpy()
        if broken.any():
            first = int(broken.argmax()) + 1
            self.logger.warning(
                f"{int(broken.sum())} of {len(frame)} rows of {name} have {reason} and are left out, the first is row {first}"
            )
            setattr(self, name, frame[~broken].reset_index(drop=True))

    def _remove_duplication(self):
        """Keep the first or last interaction of a user with an item; in one moment the order of the file decides."""
        keep = self.config["rm_dup_inter"]
        if keep is None:
            return
        if self.time_field not in self.inter_feat:
            raise UsageError(f"rm_dup_inter: {keep} needs the time field '{self.time_field}' in load_col")
        frame = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)
        self.inter_feat = frame.drop_duplicates([self.uid_field, self.iid_field], keep=keep, ignore_index=True)
        self.logger.info(f"rm_dup_inter: {len(frame) - len(self.inter_feat)} of {len(frame)} interactions are repetitions")

    def _filter_by_field_value(self):
        """``val_interval``: numbers within intervals, tokens out of a list."""
        for field, allowed in (self.config["val_interval"] or {}).items():
            if field not in self.field2type:
                raise UsageError(f"val_interval names '{field}', which is not loaded: name it in load_col")
            for name in self.feat_name_list:
                frame = getattr(self, name)
                if field not in frame:
                    continue
                if self.field2type[field] == FeatureType.TOKEN:
                    kept = frame[field].isin([str(token) for token in allowed])  # a yaml file makes numbers of 1 and 2
                else:
                    kept = self._within_intervals(frame[field].to_numpy(), self._parse_intervals_str(allowed))
                setattr(self, name, frame[kept])

    def _filter_inter_by_user_or_item(self):
        """RecBole's, which copies everything even where there are no files of users and items."""
        if self.user_feat is not None or self.item_feat is not None:
            super()._filter_inter_by_user_or_item()

    def _filter_by_inter_num(self):
        """RecBole's filter by numbers of interactions (k-core), which goes round until all that is left fits.

        Users and items are counted by their numbers instead of by their names. In each round everyone that is outside
        goes at once; users and items of their own files go when they have too few interactions, or none.
        """
        if self.uid_field is None or self.iid_field is None:
            return
        sides = {"user": ("user_inter_num_interval", self.uid_field), "item": ("item_inter_num_interval", self.iid_field)}
        intervals = {name: self._intervals(setting) for name, (setting, _) in sides.items()}
        if not any(intervals.values()):
            return
        sides = {
            name: CountedSide(intervals[name], self.inter_feat[field], getattr(self, f"{name}_feat"), field)
            for name, (_, field) in sides.items()
            if intervals[name]
        }
        n = len(self.inter_feat)
        kept = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
        while any([side.ban(self._within_intervals) for side in sides.values()]):
            gone = np.any([side.banned[side.numbers[kept]] for side in sides.values()], axis=0)
            for side in sides.values():
                side.uncount(kept[gone])
            kept = kept[~gone]
        if len(kept) < n:
            self.inter_feat = self.inter_feat.take(kept)
        for name, side in sides.items():
            if side.file is not None and not side.in_file.all():
                setattr(self, f"{name}_feat", side.file.take(np.flatnonzero(side.in_file)))

    def _intervals(self, setting):
        """The intervals of a setting, None where it says nothing."""
        intervals = self._parse_intervals_str(self.config[setting]) or None
        if intervals and len(intervals) > 1:
            self.logger.warning(f"{setting} has several intervals, of which one must hold")
        return intervals


class CountedSide:
    """Users or items while they are filtered by their numbers of interactions.

    Args:
        intervals (list): as RecBole reads them.
        column (pandas.Series): names of the interactions, all there.
        file (pandas.DataFrame or None): their own file.
        field (str): its column of names.
    """

    def __init__(self, intervals, column, file, field):
        self.intervals, self.file = intervals, file
        self.numbers, names = numbered(column)
        self.counts = np.bincount(self.numbers, minlength=len(names))
        self.banned = np.zeros(len(names), dtype=bool)
        if file is not None:
            self.in_file = np.ones(len(file), dtype=bool)
            self.file_numbers = pd.Index(names, dtype=object).get_indexer(file[field])  # -1: no interactions

    def ban(self, within):
        """Ban everyone who is outside; whether there is anyone new. within: counts and intervals to whether they fit."""
        counts = np.append(self.counts, 0)  # the last one, place -1, is of everyone without interactions
        outside = (counts > 0) & ~within(counts, self.intervals)
        few = np.zeros(0, dtype=bool)
        if self.file is not None:
            few = self.in_file & (counts[self.file_numbers] < self.intervals[0][1])
            outside[self.file_numbers[few & (self.file_numbers >= 0)]] = True
            self.in_file &= ~(few | outside[self.file_numbers])
        self.banned |= outside[:-1]
        return bool(outside.any() or few.any())

    def uncount(self, rows):
        """Take some interactions, an array of their rows, out of the counts."""
        self.counts -= np.bincount(self.numbers[rows], minlength=len(self.counts))


def numbered(column):
    """A number of each value of a column of names, and the names: int arrays [n] and an array of objects [V]."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), column.cat.categories.to_numpy()
    numbers, names = pd.factorize(column)
    return numbers, np.asarray(names, dtype=object)
