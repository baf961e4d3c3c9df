"""What is collected of each batch of scores before the metrics are computed."""

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct

from recbole_diffusion import processes
from recbole_diffusion.data.dataset import training_item_counts

PER_ROW = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")  # collected batch by batch


class OneTargetCollector(Collector):
    """RecBole's collector for one target per row, without a second ``[B, V]`` matrix and a second top-k.

    What one metric needs changes no other, and a target that was removed from the ranking is no hit of any. Of several
    processes, each collects the rows of its users, and all get everybody's: metrics are computed from the same rows as
    in one process, whatever the sizes of the parts.

    Attributes:
        ranks (list[torch.Tensor] | None): an empty list makes it keep the ranks of the targets, a tensor per batch.
    """

    ranks = None

    def data_collect(self, train_data):
        """RecBole's, with every training interaction counted once; its rows are examples, of which users have any number."""
        super().data_collect(train_data)
        if self.register.need("data.count_items"):
            counts = training_item_counts(train_data._dataset)
            self.data_struct.set("data.count_items", {item: counts[item].item() for item in counts.nonzero()[:, 0].tolist()})

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a batch.

        Args:
            scores_tensor (torch.FloatTensor): [B, V], minus infinity where an item is not in the ranking.
            interaction (Interaction): the rows.
            positive_u (torch.LongTensor): [n] rows of the targets, in the order of the data.
            positive_i (torch.LongTensor): [n] the targets.
        """
        positive_u, positive_i = positive_u.to(scores_tensor.device), positive_i.to(scores_tensor.device)
        one_each = torch.equal(positive_u, torch.arange(len(scores_tensor), device=positive_u.device))
        wants_list = self.ranks is not None or self.register.need("rec.items") or self.register.need("rec.topk")
        if wants_list:
            best, top = scores_tensor.topk(max(self.topk), dim=-1)
            # A list that runs out of unseen items is filled up with removed ones, which are no hits.
            hits = ((top[positive_u] == positive_i[:, None]) & best[positive_u].isfinite()).int()
        if self.ranks is not None:
            self.ranks.append(ranks_of_hits(hits))
        if not one_each:  # sampled ranking of users with several targets, all of which are in the ranking
            return super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", top)
        if self.register.need("rec.topk"):
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, torch.ones_like(hits[:, :1])], 1))
        if self.register.need("rec.meanrank"):
            self.data_struct.update_tensor("rec.meanrank", mean_ranks(scores_tensor, positive_i))

    def get_data_struct(self):
        """All that was collected; RecBole's fails on metrics that need counts of the data, such as ItemCoverage."""
        struct = DataStruct()
        for name, value in list(self.data_struct._data_dict.items()):
            if name in PER_ROW:
                value = torch.cat(processes.gather(value.cpu()))
                del self.data_struct[name]
            struct.set(name, value)
        return struct


def ranks_of_hits(hits):
    """Ranks of targets in their lists.

    Args:
        hits (torch.IntTensor): [B, K] 1 where the target stands in the list of K items.

    Returns:
        torch.ShortTensor: [B] from 1, or 0 where the target is not in the list; an IntTensor where lists are longer than it can
        count. On the CPU.
    """
    kind = torch.int16 if hits.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
    return torch.where(hits.any(1), hits.argmax(1) + 1, 0).to(kind).cpu()


def mean_ranks(scores, targets):
    """What GAUC needs of each row; a target that was removed from the ranking stands behind all items that were not.

    Args:
        scores (torch.FloatTensor): [B, V], minus infinity where an item is not in the ranking.
        targets (torch.LongTensor): [B].

    Returns:
        torch.DoubleTensor: [B, 3] rank of the target from 1, the mean of all places where scores are equal; number of
        items in the ranking, which holds a removed target and, for it to be behind, at least one other; number of targets.
    """
    own = scores.gather(1, targets[:, None])
    there = own[:, 0] > -torch.inf
    others = (scores > -torch.inf).sum(1) - there.long()
    rank = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
    size = torch.where(there, others + 1, others.clamp(min=1) + 1)
    return torch.stack([torch.where(there, rank.double(), size.double()), size, torch.ones_like(size)], 1)
