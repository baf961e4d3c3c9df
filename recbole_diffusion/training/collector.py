"""What is collected of each batch of scores before the metrics are computed."""

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct

from recbole_diffusion import processes

PER_ROW = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")  # collected batch by batch


class OneTargetCollector(Collector):
    """RecBole's collector for one target per row, without a second ``[B, V]`` matrix and a second top-k.

    Of several processes, each collects the rows of its users, and all get everybody's: metrics are computed from the
    same rows as in one process, whatever the sizes of the parts.

    Attributes:
        ranks (list[torch.Tensor] | None): an empty list makes it keep the ranks of the targets, a tensor per batch.
    """

    ranks = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        wanted = [name for name in ("rec.items", "rec.topk") if self.register.need(name)]
        others = any(self.register.need(name) for name in ("rec.meanrank", "rec.score", "data.label"))
        one_each = len(positive_u) == len(scores_tensor) and torch.equal(positive_u, torch.arange(len(positive_u)))
        if others or not one_each:
            return super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        best, top = scores_tensor.topk(max(self.topk), dim=-1)
        if "rec.items" in wanted:
            self.data_struct.update_tensor("rec.items", top)
        if "rec.topk" in wanted:
            # A list that runs out of unseen items is filled up with removed ones, which are no hits.
            hits = ((top == positive_i.to(top.device)[:, None]) & best.isfinite()).int()
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, torch.ones_like(hits[:, :1])], 1))
            if self.ranks is not None:
                self.ranks.append(ranks_of_hits(hits))

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
        torch.ShortTensor: [B] from 1, or 0 where the target is not in the list. On the CPU.
    """
    return torch.where(hits.any(1), hits.argmax(1) + 1, 0).to(torch.int16).cpu()
