"""Sequences by index: one flat array per field, and a start and a length per example.

RecBole's ``SequentialDataset`` stores a padded row of every field for every prefix. Here an example is three
integers, and the padded rows exist only for the batch that is asked for.
"""

import os

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction, cat_interactions
from recbole.utils import FeatureType

from recbole_diffusion.data.atomic_files import find_atomic, inter_files
from recbole_diffusion.data.atomic_reader import AtomicReader
from recbole_diffusion.data.attributes import ItemAttributes
from recbole_diffusion.data.columns import check_kinds
from recbole_diffusion.data.examples import HISTORY_START, TARGET, USER_START, TrainingExamples, numbered_in_groups
from recbole_diffusion.data.filters import ExactFilters
from recbole_diffusion.data.folds import FoldedSessions
from recbole_diffusion.data.item_sides import ItemSides
from recbole_diffusion.data.numbering import ArrayNumbering
from recbole_diffusion.data.orders import small_numbers, stable_order
from recbole_diffusion.data.pseudo_items import augmented_parts
from recbole_diffusion.data.ready_made import ReadyMadeSplits
from recbole_diffusion.data.splits import ArraySplits, rows_of
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.leaks import leaking_setting
from recbole_diffusion.settings.properties import property_names


class SequenceDataset(
    AtomicReader,
    ExactFilters,
    ArrayNumbering,
    FoldedSessions,
    ItemAttributes,
    ItemSides,
    ReadyMadeSplits,
    ArraySplits,
    SequentialDataset,
):
    """RecBole's sequential data set with lazily built histories and strict input checks.

    ``inter_feat`` holds one row per example with scalar columns only, so RecBole's sorting and splitting work on it
    unchanged. Indexing the data set (``dataset[index]``) returns an ``Interaction`` with the histories
    ``<field>_list`` as ``[B, width]`` tensors, zero-padded on the right. The width is the longest history of the
    batch for the plugin's models and under ``trim_padding``, otherwise ``MAX_ITEM_LIST_LENGTH``.

    Raises:
        UsageError: missing or empty file, broken header, missing column, non-numeric number, filters that leave
            nothing, counts other than ``expected_counts``.
    """

    def __init__(self, config):
        self.lists_items_only = config.is_plugin_model  # RecBole's models may read the history of any field
        self.trims = self.lists_items_only or config["trim_padding"]
        self.names_examples = getattr(config.model_class, "reads_places", False)
        self.flat = {}
        super().__init__(config)

    # Loading

    def _load_data(self, token, dataset_path):
        folder_exists = os.path.isdir(dataset_path)
        files = [f"{token}.inter"]
        if self.benchmark_filename_list is not None:
            files = [f"{token}.{part}.inter" for part in self.benchmark_filename_list]
        known = [name for name in property_names("dataset") if name != token]
        missing = [file for file in files if not find_atomic(dataset_path, file)]
        found = sorted(path.name for path in inter_files(dataset_path, f"{token}.*"))
        if missing and found and self.benchmark_filename_list is not None:
            raise UsageError(
                f"file '{missing[0]}' of dataset '{token}' not found in '{os.path.abspath(dataset_path)}', "
                f"which has {', '.join(found)}: name their parts in benchmark_filename"
            )
        if missing:
            what = f"file '{missing[0]}' of dataset" if folder_exists else "dataset"
            raise UsageError(
                f"{what} '{token}' not found in '{os.path.abspath(dataset_path)}'"
                f"{did_you_mean(token, known) if not folder_exists else ''}: set --data_path to the "
                f"folder that holds {token}/, or build it with 'recbole-diffusion prepare {token} --source=RAW_FILE'"
            )
        super()._load_data(token, dataset_path)

    # Processing

    def _data_filtering(self):
        before = self._counts()
        try:
            super()._data_filtering()
        except ValueError as error:
            if "feat is empty" not in str(error) and len(self.inter_feat):
                raise
            raise UsageError(self._nothing_left(before)) from None
        if not len(self.inter_feat):
            raise UsageError(self._nothing_left(before))

    def _nothing_left(self, before):
        return (
            f"the filters leave nothing of dataset '{self.dataset_name}': {_describe(before)} before, "
            f"{_describe(self._counts())} after (user_inter_num_interval {self.config['user_inter_num_interval']}, "
            f"item_inter_num_interval {self.config['item_inter_num_interval']}, "
            f"val_interval {self.config['val_interval']})"
        )

    def _counts(self):
        frame = self.inter_feat
        return {
            "users": frame[self.uid_field].nunique() if self.uid_field in frame else 0,
            "items": frame[self.iid_field].nunique() if self.iid_field in frame else 0,
            "interactions": len(frame),
        }

    def _data_processing(self):
        check_kinds(self.config, self.field2type)
        super()._data_processing()
        counts, expected = self._counts(), self.config["expected_counts"]
        if self.benchmark_filename_list is not None:  # histories count, too; they share the numbering of the targets
            counts["items"] = self.item_num - 1
        if expected and expected != counts:
            raise UsageError(
                f"dataset '{self.dataset_name}' has {_describe(counts)} after filtering, expected "
                f"{_describe(expected)}: it is another version of the data (expected_counts: ~ accepts it)"
            )

    def _fill_nan(self):
        """RecBole fills in place on a column, which pandas no longer carries through to the frame."""
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif kind == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        super()._fill_nan()

    # Histories

    def _change_feat_format(self):
        """Turn the frames into tensors and every history into (start, length)."""
        if self.benchmark_filename_list is not None:
            lists = self._take_lists()
            Dataset._change_feat_format(self)
            self._index_lists(lists)
            return
        if self.time_field not in self.inter_feat:
            columns = ", ".join(self.inter_feat.columns)
            raise UsageError(
                f"sequences need the time field '{self.time_field}': add it to load_col, or name another TIME_FIELD; "
                f"loaded are {columns}"
            )
        # Sorted here in float64: RecBole's tensors are float32, in which seconds since 1970 collide.
        self._sort_by_user_and_time()
        self._warn_about_ties()
        self.times = self.inter_feat[self.time_field].to_numpy()
        Dataset._change_feat_format(self)
        self._aug_presets()
        self._index_prefixes()

    def _warn_about_ties(self):
        columns = [self.inter_feat[field].to_numpy() for field in (self.uid_field, self.time_field)]
        same = np.all([column[1:] == column[:-1] for column in columns], axis=0).sum() / len(self.inter_feat)
        if same > 0:
            self.logger.warning(
                f"{same:.1%} of the interactions share user and time with the one before: they keep the file's order"
            )

    def _index_prefixes(self):
        """Every prefix of a user is an example: history ``flat[start : start + length]``, target right after it."""
        users = self.inter_feat[self.uid_field].numpy()
        opens = np.ones(len(users), dtype=bool)
        opens[1:] = users[1:] != users[:-1]
        target, first = np.flatnonzero(~opens), np.flatnonzero(opens)
        if not len(target):
            raise UsageError(f"dataset '{self.dataset_name}' holds no examples: every user has one interaction")
        sizes = np.diff(np.append(first, len(users)))
        target, first = (rows.astype(small_numbers(len(users) + 1)) for rows in (target, first))
        user_start = np.repeat(first, sizes - 1)
        start = np.maximum(user_start, target - self.max_item_list_len)

        self.flat = {field: self.inter_feat[field] for field in self.inter_feat if field != self.uid_field}
        examples = rows_of(self.inter_feat, target)
        examples.update(self._index_columns(start, (target - start).astype(np.int64), user_start, target))
        self.inter_feat = examples

    def _take_lists(self):
        """Ready-made histories of ``benchmark_filename`` files: field -> list of arrays, out of the frame."""
        suffix = self.config["LIST_SUFFIX"]
        fields = [f for f in self.inter_feat if f + suffix in self.inter_feat]
        return {field: list(self.inter_feat.pop(field + suffix)) for field in fields}

    def _index_lists(self, lists):
        lengths = np.array([len(row) for row in lists[self.iid_field]])
        if (lengths == 0).any():
            raise UsageError(f"dataset '{self.dataset_name}': example {int(lengths.argmin()) + 1} has an empty history")
        ends = lengths.cumsum()
        kept = np.minimum(lengths, self.max_item_list_len)
        for field, rows in lists.items():
            other = np.flatnonzero([len(row) != length for row, length in zip(rows, lengths)])
            if len(other):
                raise UsageError(
                    f"dataset '{self.dataset_name}': example {other[0] + 1} has {len(rows[other[0]])} values of "
                    f"'{field}' for {lengths[other[0]]} items"
                )
            self.flat[field] = torch.as_tensor(np.concatenate(rows))
        self.inter_feat.update(self._index_columns(ends - kept, kept, ends - lengths, ends))

    def _index_columns(self, start, length, user_start, target):
        small = small_numbers(len(self.flat[self.iid_field]) + 1)  # four columns of the length of all examples
        places = {HISTORY_START: start, USER_START: user_start, TARGET: target}
        columns = {name: torch.as_tensor(place.astype(small, copy=False)) for name, place in places.items()}
        return Interaction({self.item_list_length_field: torch.as_tensor(length), **columns})

    def build(self):
        """Split into training, validation and test part (RecBole), then choose the view of the training part.

        Raises:
            UsageError: when a part has no rows.
        """
        datasets = super().build()
        for part, dataset in zip(("training", "validation", "test"), datasets):
            if not len(dataset) and self.benchmark_filename_list is None:
                split = self.config["eval_args"]["split"]
                hint = ": leave-one-out needs users with at least 4 interactions" if "LS" in split else ""
                raise UsageError(f"dataset '{self.dataset_name}' has no {part} rows under split {split}{hint}")
        train = datasets[0]
        if self.benchmark_filename_list is not None:
            if not self.config["train_last_only"]:
                datasets[0] = train.copy(train.prefix_examples())
        elif self.config["train_view"] == "sequence":
            datasets[0] = train.copy(train.longest_examples())
        if self.config["augmented"]:
            datasets = augmented_parts(datasets)
        if leaking_setting(self.config.final_config_dict):
            datasets[0].evaluation_parts = [part for part in datasets[1:] if len(part)]
        sizes = [len(part) for part in datasets]
        self.logger.info("split: {} training examples, {} of validation, {} of test".format(*sizes))
        return datasets

    def sort(self, by, ascending=True):
        """RecBole's order; by time it is exact, although the column is float32, in which seconds since 1970 collide."""
        if by != self.time_field:
            return super().sort(by, ascending)
        moments = torch.from_numpy(self.times)[self.inter_feat[TARGET]]
        order = stable_order(moments.numpy())
        columns = self.inter_feat.interaction  # one by one, or all would be there twice
        for name in columns:
            columns[name] = columns[name][torch.from_numpy(order if ascending else order[::-1].copy())]

    def _training_rows(self, rows):
        """With ``train_view: sequence`` the last of every user, see :meth:`longest_examples`."""
        if self.config["train_view"] != "sequence" or not self.lists_items_only:
            return rows
        users = self.inter_feat[self.uid_field].numpy()[rows]
        return rows[np.append(users[1:] != users[:-1], True)] if len(rows) else rows

    def time_based_split(self, ratios, group_by):
        """RecBole's split at a moment of all users, which is found and compared in float64."""
        rounded = self.inter_feat[self.time_field]
        exact = torch.as_tensor(self.times)[self.inter_feat[TARGET]]
        self.inter_feat.update(Interaction({self.time_field: exact}))
        parts = super().time_based_split(ratios, group_by)
        for part in parts:
            part.inter_feat.update(Interaction({self.time_field: part.inter_feat[self.time_field].to(rounded.dtype)}))
        self.inter_feat.update(Interaction({self.time_field: rounded}))
        return parts

    def longest_examples(self):
        """The longest example of each user, whose history holds all the others: ``Interaction`` of one row per user."""
        user, target = self.inter_feat[self.uid_field].numpy(), self.inter_feat[TARGET].numpy()
        order = np.lexsort((target - self.inter_feat[USER_START].numpy(), user))
        is_last = np.append(user[order][1:] != user[order][:-1], True)
        return rows_of(self.inter_feat, order[is_last])

    def prefix_examples(self):
        """Every prefix of ready-made examples, the whole ones included: ``Interaction``."""
        start, length = self.inter_feat[HISTORY_START], self.inter_feat[self.item_list_length_field]
        shorter, place = numbered_in_groups(length - 1)
        place = place + 1  # 1 .. length - 1, the length of the prefix
        target = start[shorter] + place
        prefixes = self.inter_feat[shorter]
        prefixes.update(Interaction({self.item_list_length_field: place, TARGET: target}))
        prefixes.update(Interaction({field: values[target] for field, values in self.flat.items()}))
        return cat_interactions([self.inter_feat, prefixes])

    def sessions(self, whole=False):
        """The sessions of this part, targets included, each once; of longer ones the latest items.

        Args:
            whole (bool): all items of each session.

        Returns:
            tuple: items [n] of one session after the other, lengths [S], at most ``MAX_ITEM_LIST_LENGTH + 1`` unless
            whole, and user numbers [S], all LongTensors.
        """
        examples = self.longest_examples()
        start = examples[USER_START]
        if not whole:  # what was generated stands before it
            start = torch.maximum(start, examples[HISTORY_START])
        length = examples[TARGET] - start + 1
        session, place = numbered_in_groups(length)
        cells = (start[session] + place).clamp(max=len(self.flat[self.iid_field]) - 1)
        items = self.flat[self.iid_field][cells]
        items[length.cumsum(0) - 1] = examples[self.iid_field]
        return items, length, examples[self.uid_field]

    def training_examples(self, every_prefix=False):
        """The examples of this part by the place of their target, for models that look histories up while they train.

        Args:
            every_prefix (bool): with ``train_view: sequence``, every prefix instead of one example per user.

        Returns:
            TrainingExamples
        """
        columns = [self.inter_feat[name] for name in (HISTORY_START, self.item_list_length_field, TARGET, self.iid_field)]
        flat = self.flat[self.iid_field]
        if every_prefix and self.config["train_view"] == "sequence" and self.benchmark_filename_list is None:
            first, target = self.inter_feat[USER_START] + 1, self.inter_feat[TARGET]
            row, step = numbered_in_groups(target - first + 1)
            place = first[row] + step
            start = torch.maximum(first[row] - 1, place - self.max_item_list_len)
            columns = [start, place - start, place, flat[place]]
        return TrainingExamples(flat, *columns)

    def item_counts(self):
        """How often each item occurs in the whole sessions of this part: LongTensor [V]."""
        return torch.bincount(self.sessions(whole=True)[0], minlength=self.item_num)

    def transitions(self):
        """How often an item follows another in the whole sessions of this part, whatever the view of the examples.

        Returns:
            tuple: items, their successors and how often, all LongTensors [n]; sorted by item, then by successor.
        """
        items, length, _ = self.sessions(whole=True)
        inner = torch.ones(len(items), dtype=torch.bool)
        inner[length.cumsum(0) - 1] = False  # the last item of a session has no successor
        before = inner.nonzero().squeeze(1)
        pairs, counts = (items[before] * self.item_num + items[before + 1]).unique(return_counts=True)
        return pairs // self.item_num, pairs % self.item_num, counts

    def __getitem__(self, index, join=True):
        examples = self.inter_feat[index]
        start, length = examples[HISTORY_START], examples[self.item_list_length_field]
        width = int(length.max()) if self.trims else self.max_item_list_len
        place = torch.arange(width)
        real = place < length[:, None]
        cells = torch.where(real, start[:, None] + place, 0)
        hidden = (HISTORY_START, USER_START) if self.names_examples else (HISTORY_START, USER_START, TARGET)
        columns = {k: v for k, v in examples.interaction.items() if k not in hidden}
        for field in [self.iid_field] if self.lists_items_only else self.flat:
            rows = self.flat[field][cells]
            columns[field + self.config["LIST_SUFFIX"]] = rows * real.view(*real.shape, *[1] * (rows.dim() - 2))
        batch = Interaction(columns)
        return self.join(batch) if join else batch

    def history(self, index):
        """Items that came before the targets of some examples, the whole user's and not only the latest.

        Args:
            index (torch.LongTensor | np.ndarray): [B] example numbers.

        Returns:
            tuple: ``(rows, items)``, both [n]: items[j] was seen in example rows[j].
        """
        examples = self.inter_feat[index]
        start, end = examples[USER_START], examples[TARGET]
        rows, place = numbered_in_groups(end - start)
        return rows, self.flat[self.iid_field][start[rows] + place]


def training_item_counts(dataset):
    """How often each item occurs in the training part, as a tensor [V].

    Args:
        dataset (Dataset): the training part. Of RecBole's special data sets and of ready-made histories, which overlap
            in unknown ways, the targets are counted; otherwise every interaction once.
    """
    items = dataset.inter_feat[dataset.iid_field]
    if TARGET in dataset.inter_feat and dataset.benchmark_filename_list is None:
        bounds = torch.zeros(len(dataset.flat[dataset.iid_field]) + 1, dtype=torch.long)
        examples, one = dataset.inter_feat, torch.ones(len(items), dtype=torch.long)
        bounds.index_add_(0, examples[USER_START], one).index_add_(0, examples[TARGET] + 1, -one)
        items = dataset.flat[dataset.iid_field][bounds[:-1].cumsum(0) > 0]
    return torch.bincount(items, minlength=dataset.item_num)


def _describe(counts):
    return ", ".join(f"{counts.get(key, '?')} {key}" for key in ("users", "items", "interactions"))
