"""Splits that come as files (``benchmark_filename``): a row is a history and its target."""

import re
from itertools import chain, islice

import numpy as np
import torch

from recbole_diffusion.errors import UsageError

ROWS_LOOKED_AT = 1000  # for histories whose separator is another
OTHER_SEPARATORS = r"[,;|\s]"


class ReadyMadeSplits:
    """The part of a data set that reads ready-made splits, to be mixed in before RecBole's class.

    Two files are training and test; there is no validation then.

    Raises:
        UsageError: other than two or three different parts, rows without user or item, no histories, histories that
            are separated otherwise than ``seq_separator`` says.
    """

    def _load_data(self, token, dataset_path):
        parts = self.benchmark_filename_list
        if parts is not None and (len(parts) not in (2, 3) or len(set(parts)) < len(parts)):
            raise UsageError(f"benchmark_filename must name [training, validation, test] or [training, test], got {parts}")
        super()._load_data(token, dataset_path)
        if parts is not None:
            self._require_ids([f"{token}.{part}.inter" for part in parts])
            self._require_histories()
        if parts is not None and len(parts) == 2:
            self.logger.warning(f"no validation: trained on '{parts[0]}', tested on '{parts[1]}' after the last epoch")

    def _require_ids(self, files):
        """RecBole filters nothing in ready-made splits, so a row without a target would train on padding."""
        for field in self.inter_feat.columns.intersection([self.uid_field, self.iid_field]):
            missing = self.inter_feat[field].isna().to_numpy()
            if missing.any():
                ends = np.cumsum(self.file_size_list)
                row, part = int(missing.argmax()), int(np.searchsorted(ends, missing.argmax(), side="right"))
                raise UsageError(
                    f"{files[part]} row {row - int(ends[part] - self.file_size_list[part]) + 1}: no value in column "
                    f"'{field}' ({int(missing.sum())} such rows): every example needs one"
                )

    def _require_histories(self):
        """Histories and targets must be of the same items, or they would be numbered as strangers."""
        field = self.iid_field + self.config["LIST_SUFFIX"]
        for column in (self.uid_field, self.iid_field, field):
            if column not in self.inter_feat:
                raise UsageError(
                    f"dataset '{self.dataset_name}': ready-made splits need the column '{column}', loaded are "
                    f"{', '.join(self.inter_feat.columns)}: name it in load_col, or rename the column in the files"
                )
        seen = set(islice(chain.from_iterable(self.inter_feat[field].head(ROWS_LOOKED_AT)), 100 * ROWS_LOOKED_AT))
        targets = set(self.inter_feat[self.iid_field])
        pieces = {piece.strip("[]()'\"") for token in seen for piece in re.split(OTHER_SEPARATORS, token)}
        if not seen & targets and pieces & targets:
            raise UsageError(
                f"dataset '{self.dataset_name}': no item of the histories, such as '{min(seen)[:40]}', is a target: set "
                f"seq_separator (now '{self.config['seq_separator']}') to what stands between items"
            )

    def _benchmark_presets(self):
        """RecBole's, which knows the histories under one name only, whatever the item field is called."""
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        super()._benchmark_presets()

    def build(self):
        """RecBole's parts; between two files an empty one for the validation."""
        parts = super().build()
        if self.benchmark_filename_list is not None and len(parts) == 2:
            parts.insert(1, parts[0].copy(parts[0].inter_feat[torch.zeros(0, dtype=torch.long)]))
        return parts
