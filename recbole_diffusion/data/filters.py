"""RecBole's filters and order, exactly: what goes are the rows that are meant, and a log line counts them."""

from recbole.utils import FeatureType

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
            order = [self.uid_field, self.time_field]
            self.inter_feat = self.inter_feat.sort_values(order, kind="stable", ignore_index=True)
        super()._change_feat_format()

    def _filter_nan_user_or_item(self):
        """Drop rows without user or item, of all files."""
        if self.user_feat is not None:
            self._drop_rows("user_feat", self.user_feat[self.uid_field].isna(), f"no {self.uid_field}")
        if self.item_feat is not None:
            self._drop_rows("item_feat", self.item_feat[self.iid_field].isna(), f"no {self.iid_field}")
        ids = self.inter_feat.columns.intersection([self.uid_field, self.iid_field])
        self._drop_rows("inter_feat", self.inter_feat[ids].isna().any(axis=1), f"no {' or no '.join(ids)}")

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
