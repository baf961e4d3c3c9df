"""Folds of training sessions, for graphs that show a session the edges of the others only."""

import logging

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.errors import UsageError

FOLD = "_graph_fold"  # column of a training example


def draw_folds(users, n_folds, seed):
    """Sessions at random in folds of one size, or one more.

    Args:
        users (torch.LongTensor): [n] whose session each example is from; all examples of one come into one fold.
        n_folds (int): folds.
        seed (int): of the draw.

    Returns:
        torch.LongTensor: [n] folds, counted from 0.

    Raises:
        UsageError: for more folds than sessions.
    """
    distinct, session = users.unique(return_inverse=True)
    if n_folds > len(distinct):
        raise UsageError(f"{len(distinct)} training sessions are too few for graph_folds {n_folds}: lower it")
    return (torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)) % n_folds)[session]


class FoldedSessions:
    """The part of a data set that puts training sessions into folds, to be mixed in before RecBole's class."""

    def build(self):
        """RecBole's parts; with ``graph_folds`` the examples of training name their fold."""
        parts = super().build()
        if self.config["graph_folds"]:
            examples = parts[0].inter_feat
            folds = draw_folds(examples[self.uid_field], self.config["graph_folds"], self.config["seed"])
            examples.update(Interaction({FOLD: folds}))
        return parts

    def session_folds(self, users):
        """Folds of the training sessions of some users [S], -1 for those without; None without ``graph_folds``."""
        if FOLD not in self.inter_feat:
            return None
        folds = torch.full((self.user_num,), -1)
        folds[self.inter_feat[self.uid_field]] = self.inter_feat[FOLD]
        return folds[users]


def graph_sessions(dataset, source):
    """The sessions behind an item graph, of training unless ``graph_source: all``, and their folds.

    Args:
        dataset (SequenceDataset): the training part.
        source (str): ``train``, or ``all``, of which the log warns.

    Returns:
        tuple: NumPy arrays of items [n] of one session after the other, lengths [S] and folds [S], where -1 is in no fold;
        None for the folds without ``graph_folds``. A user's sessions of evaluation are in the fold of the one of training.
    """
    parts = [dataset]
    if source == "all":
        logging.getLogger().warning("graph_source: all LEAKS the test targets into the item graph; results are marked")
        parts += dataset.evaluation_parts
    items, lengths, users = (torch.cat(columns) for columns in zip(*(part.sessions() for part in parts)))
    folds = dataset.session_folds(users)
    return items.numpy(), lengths.numpy(), None if folds is None else folds.numpy()


def batches_within(folds, batch_size, generator=None):
    """Examples in batches of one fold each.

    Args:
        folds (np.ndarray): [n] fold of each example.
        batch_size (int): most examples of a batch; the last one of each fold may be smaller.
        generator (torch.Generator, optional): source of a random order of examples and batches; without it, both keep
            theirs, fold by fold.

    Returns:
        list[np.ndarray]: numbers of examples, each in one batch.
    """
    order = np.arange(len(folds)) if generator is None else torch.randperm(len(folds), generator=generator).numpy()
    order = order[np.argsort(folds[order], kind="stable")]
    batches = []
    for members in np.split(order, np.flatnonzero(np.diff(folds[order])) + 1):
        batches += np.split(members, range(batch_size, len(members), batch_size))
    if generator is None:
        return batches
    return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]
