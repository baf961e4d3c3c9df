"""RecBole's loaders with three additions: batches of similar length or of one fold, and the seen items at evaluation."""

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.utils import create_samplers

from recbole_diffusion import processes
from recbole_diffusion.data.folds import FOLD, batches_within
from recbole_diffusion.errors import UsageError

# Batches whose examples are sorted together by length: large enough to save padding, small against an epoch,
# so that batches stay random.
BATCHES_PER_POOL = 50
MOST_SCORES = 2**25  # of one batch of an evaluation: 134 MB, which a large catalogue reaches with few rows; more takes longer


class RowNumbers(torch.utils.data.DataLoader):
    """PyTorch's loader of row numbers, which RecBole hands over as a list of them all: a range takes no memory.

    It stands behind RecBole's loaders in the order of classes, and so between them and PyTorch's.
    """

    def __init__(self, dataset, **options):
        super().__init__(range(len(dataset)), **options)


class SharedTrainDataLoader(TrainDataLoader, RowNumbers):
    """The batches of a single process, of which every process gets its share of the rows.

    A batch of fewer rows than processes belongs to the first one, the others get ``None``.
    """

    def collate_fn(self, index):
        size, rank = processes.world_size(), processes.rank()
        if len(index) < size:
            return super().collate_fn(index) if rank == 0 else None
        return super().collate_fn(index[rank::size])


class LengthGroupedTrainDataLoader(SharedTrainDataLoader):
    """Batches of similar length in random order, a new grouping every epoch."""

    def __init__(self, config, dataset, sampler, shuffle=True):
        self._order = np.arange(len(dataset))
        super().__init__(config, dataset, sampler, shuffle=False)

    def __iter__(self):
        lengths = self._dataset.inter_feat[self._dataset.item_list_length_field].numpy()
        self._order = group_by_length(lengths, self.step, self.generator)
        return super().__iter__()

    def collate_fn(self, index):
        return super().collate_fn(self._order[np.array(index)])


class FoldTrainDataLoader(SharedTrainDataLoader):
    """Batches of one fold each, in random order and cut anew every epoch where ``shuffle`` is on."""

    def __init__(self, config, dataset, sampler, shuffle=True):
        self._folds, self._shuffles = dataset.inter_feat[FOLD].numpy(), shuffle
        super().__init__(config, dataset, sampler, shuffle=False)

    def _init_batch_size_and_step(self):
        """What RecBole walks through are the batches, one at a time: the last one of every fold may be smaller."""
        super()._init_batch_size_and_step()
        self._rows, self.step = self.step, 1
        self._batches = batches_within(self._folds, self._rows)
        self.sample_size = len(self._batches)

    def __iter__(self):
        if self._shuffles:
            self._batches = batches_within(self._folds, self._rows, self.generator)
        return super().__iter__()

    def collate_fn(self, index):
        return super().collate_fn(self._batches[index[0]])


def group_by_length(lengths, batch_size, generator):
    """A random order of the examples in which consecutive batches hold similar lengths.

    Args:
        lengths (np.ndarray): [n] history lengths.
        batch_size (int): examples per batch.
        generator (torch.Generator): source of the order.

    Returns:
        np.ndarray: [n] a permutation; an incomplete batch stays at the end.
    """
    order = torch.randperm(len(lengths), generator=generator).numpy()
    pool = batch_size * BATCHES_PER_POOL
    pools = [order[i : i + pool] for i in range(0, len(order), pool)]
    order = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in pools])
    full = len(order) // batch_size
    batches = order[: full * batch_size].reshape(full, batch_size)
    batches = batches[torch.randperm(full, generator=generator).numpy()]
    return np.concatenate([batches.reshape(-1), order[full * batch_size :]])


class SequenceEvalDataLoader(FullSortEvalDataLoader, RowNumbers):
    """Full ranking that also hands over the seen items when ``mask_history`` is on."""

    mask_history = False
    watch = staticmethod(lambda batches: batches)  # shows a bar, where somebody looks

    def __iter__(self):
        return iter(self.watch(super().__iter__()))

    def _init_batch_size_and_step(self):
        self.step = rows_at_once(self.config["eval_batch_size"], self._dataset.item_num)
        self.set_batch_size(self.step)

    @property
    def can_mask_history(self):
        """Whether the data set knows the whole history; RecBole's few special ones do not."""
        return hasattr(self._dataset, "history")

    def collate_fn(self, index):
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        seen = self._dataset.history(np.array(index)) if self.mask_history else None
        return interaction, seen, positive_u, positive_i


def rows_at_once(most, n_items):
    """How many rows an evaluation scores at once: ``most``, or fewer where they would have more than :data:`MOST_SCORES`."""
    return min(most, max(1, MOST_SCORES // n_items))


class SampledEvalDataLoader(NegSampleEvalDataLoader):
    """RecBole's loader of sampled ranking, whose candidates belong to the user, the part and the seed.

    So every evaluation ranks the same ones, whatever happened before, in whatever batches and processes.
    """

    def _neg_sampling(self, inter_feat):
        """RecBole's, which is called for the rows of one user and draws from NumPy's global generator."""
        number = ("valid", "test").index(self._sampler.phase)
        state = np.random.get_state()
        np.random.seed([self.config["seed"], number, int(inter_feat[self.uid_field][0])])
        try:
            return super()._neg_sampling(inter_feat)
        finally:
            np.random.set_state(state)


def build_loaders(config, dataset, parts=None):
    """Split a data set and wrap its parts.

    Args:
        config (DiffusionConfig): settings.
        dataset (SequenceDataset): the whole data.
        parts (list[SequenceDataset], optional): its parts, where it is split already.

    Returns:
        tuple: training, validation and test loader; None for validation where ready-made splits have none.

    Raises:
        UsageError: when ``mask_history`` cannot be done, and see :meth:`SequenceDataset.build`.
    """
    parts = parts or dataset.build()
    samplers = samplers_of(config, dataset, parts)
    grouped = config["trim_padding"] and not config.is_plugin_model  # packed models have no padding to save
    train_class = LengthGroupedTrainDataLoader if grouped and config["shuffle"] else SharedTrainDataLoader
    if config["graph_folds"]:
        train_class = FoldTrainDataLoader
    train = train_class(config, parts[0], samplers[0], shuffle=config["shuffle"])
    return train, *(
        _eval_loader(config, own_users(part, phase), sampler, phase) if len(part) else None
        for part, sampler, phase in zip(parts[1:], samplers[1:], ("valid", "test"))
    )


def samplers_of(config, dataset, parts):
    """RecBole's samplers of negatives for the three parts; None where nothing is drawn: they hold a set for every user."""
    modes = config["eval_args"]["mode"]
    ranks_all = all(modes[phase] == "full" for phase in ("valid", "test"))
    if ranks_all and config["train_neg_sample_args"]["distribution"] == "none":
        return None, None, None
    return create_samplers(config, dataset, parts)


def own_users(part, phase):
    """The rows of this process's users: each row belongs to exactly one process.

    Raises:
        UsageError: when some process would get none.
    """
    size = processes.world_size()
    if size == 1:
        return part
    owner = part.inter_feat[part.uid_field].numpy() % size
    if len(np.unique(owner)) < size:
        raise UsageError(f"the {phase} part has too few users for {size} processes: use fewer")
    return part.copy(part.inter_feat[np.flatnonzero(owner == processes.rank())])


def _eval_loader(config, part, sampler, phase):
    full = config["eval_args"]["mode"][phase] == "full"
    if not full:
        part.trims = False  # this loader concatenates the rows of users, which needs one width
    loader_class = SequenceEvalDataLoader if full else SampledEvalDataLoader
    loader = loader_class(config, part, sampler, shuffle=False)
    if config["mask_history"]:
        if not getattr(loader, "can_mask_history", False):
            raise UsageError("mask_history needs full ranking (eval_args mode: full) on a data set of the plugin's class")
        loader.mask_history = True
    return loader
