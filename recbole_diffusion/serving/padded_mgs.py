"""MGS on padded rows, on the same weights: every item stands where it was met last, and other places are empty."""

import torch
import torch.nn.functional as F

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.mirror import BOTH, NEWER, OLDER, SELF, SLOPE
from recbole_diffusion.serving.padded import PaddedScorer


class PaddedMGS(PaddedScorer):
    """MGS, whose mirrors of all items stand in the file.

    Raises:
        UsageError: for a model that draws mates anew in every evaluation.
    """

    def __init__(self, model):
        super().__init__(model)
        if model.mirrors is not None:
            if model.config["eval_neighbours"] == "random":
                raise UsageError(
                    "eval_neighbours: random draws anew for every history, which a file cannot: MGS cannot be exported"
                )
            everything = torch.arange(model.n_items)
            with torch.no_grad():
                self.register_buffer("mirrors", model.evaluated_mirrors(everything))
            self.register_buffer("paired", model.mirrors.paired(everything))

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        model = self.model
        real = torch.arange(self.width) < item_seq_len[:, None]
        same = (item_seq[:, :, None] == item_seq[:, None]) & real[:, None] & real[:, :, None]
        node = real & ~(same & torch.ones(self.width, self.width, dtype=torch.bool).triu(1)).any(2)
        codes = self._codes(same & node[:, None], node, real)
        items = x = self.model.item_embedding(item_seq)
        mirrors = seen = None
        if model.mirrors is not None:
            mirrors, seen = self.mirrors[item_seq], (self.paired[item_seq] & node)[:, None]
        for layer in model.neighbours:
            x = self._local(layer, x, codes)
            if mirrors is not None:
                x, mirrors = self._exchange(model.exchange, x, mirrors, seen)
        keeps = model.highway(torch.cat([items, x], -1)).sigmoid()
        return self._read(model.readout, keeps * items + (1 - keeps) * x, mirrors, node, item_seq_len - 1)

    @staticmethod
    def _codes(stands, node, real):
        """Relation of each place to each other, -1 where there is none; stands [B, L, L]: of an item, where it stands."""
        before = (stands[:, :-1] & real[:, 1:, None]).float()
        steps = before.transpose(1, 2) @ stands[:, 1:].float() > 0  # [B, older, newer]
        itself = torch.eye(node.shape[1], dtype=torch.bool) & node[:, None]
        older, newer = steps.transpose(1, 2), steps  # of the neighbours, where rows look at columns
        codes = torch.full(steps.shape, -1).masked_fill(older, OLDER).masked_fill(newer, NEWER)
        return codes.masked_fill(older & newer, BOTH).masked_fill(itself, SELF)

    @staticmethod
    def _local(layer, x, codes):
        """x: [B, L, hidden]; codes: [B, L, L] -> [B, L, hidden]; at empty places the mean, which nobody reads."""
        logits = torch.full(codes.shape, -1e4)
        for kind in range(BOTH + 1):
            products = F.leaky_relu((x * layer.weight[kind]) @ x.transpose(1, 2), SLOPE)
            logits = torch.where(codes == kind, products, logits)
        return logits.softmax(-1) @ x

    @staticmethod
    def _exchange(layer, x, mirrors, seen):
        """x, mirrors: [B, L, hidden]; seen: [B, 1, L] which places have a mirror -> both."""
        maps = layer.maps
        share = layer.scale * (maps["item"](x) * maps["mirror"](mirrors)).sum(-1, keepdim=True)
        x = x + share * (mirrors - x)
        logits = layer.scale * maps["mirror_query"](mirrors) @ maps["item_key"](x).transpose(1, 2)
        weights = logits.masked_fill(~seen, -1e4).softmax(-1)
        return x, (weights @ mirrors) * seen.transpose(1, 2)

    def _read(self, layer, x, mirrors, node, last):
        """x, mirrors: [B, L, hidden]; node: [B, L]; last: [B] -> [B, hidden]."""
        newer = node.flip(1).long().cumsum(1).flip(1) - node.long()  # how many items were met after this one
        placed, latest = x + layer.position_embedding(newer.clamp(max=self.width - 1)), self.at(x, last)
        parts = layer.item(placed) + layer.last(latest).unsqueeze(1)
        if mirrors is not None:
            parts = parts + layer.mirror(mirrors)
        weights = layer.weight(parts.sigmoid()) * node.unsqueeze(-1)
        session = (weights * placed).sum(1)
        if layer.gate is None:
            return session
        gate = layer.mu * layer.gate(torch.cat([session, latest], -1)).sigmoid()
        return gate * latest + (1 - gate) * session
