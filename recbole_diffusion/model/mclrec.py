r"""MCLRec
################################################

Reference:
    Xiuyuan Qin, Huanhuan Yuan, Pengpeng Zhao, Junhua Fang, Fuzhen Zhuang, Guanfeng Liu, Yanchi Liu, Victor Sheng.
    "Meta-optimized Contrastive Learning for Sequential Recommendation." SIGIR 2023.

Two random changes of a history, by crop, mask or reorder, are encoded, and two small networks, the augmenters, make two
more views of these states. The encoder learns to recommend and to find the pairs among four views; the augmenters learn
from the contrast only, with the encoder as it is. Only the encoder recommends. Equation numbers are the paper's.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from recbole_diffusion.layers.augmentation import crop, mask, reorder, two_operators
from recbole_diffusion.layers.contrastive import compression, pair_logits
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company
from recbole_diffusion.processes import rows_of_all

INNER_WIDTHS = 32, 16  # of the augmenters; the paper says three layers, the released code how wide
# Views h1, h2, z1, z2 that are contrasted (Eq. 9).
PAIRS = ((2, 3), (0, 3), (1, 2))


def make_augmenter(width):
    """w (Eq. 5) without its unit norm: [..., width] -> [..., width]."""
    first, second = INNER_WIDTHS
    layers = [nn.Linear(width, first), nn.GELU(), nn.Linear(first, second), nn.GELU(), nn.Linear(second, width)]
    return nn.Sequential(*layers)


class MCLRec(TransformerRecommender):
    """Meta-optimized contrastive learning.

    With ``contrast_weight: 0`` and ``meta_weight: 0`` what is left is SASRec, with SASRec's random numbers.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MCLRec.yaml``.
        dataset (SequenceDataset): for the number of items.

    Attributes:
        augmenters (nn.ModuleList): one for each view; none with ``meta_weight: 0``.
    """

    learns_rows = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weight, self.meta_weight = config["contrast_weight"], config["meta_weight"]
        self.has_views, self.digs = bool(self.weight or self.meta_weight), config["mask_as"] == "hole"
        self.initialize(with_mask=self.has_views and not self.digs)
        if self.digs:
            self.item_embedding.padding_idx = 0  # a hole is nothing but its place
        self.operators = [
            partial(crop, kept=config["crop_kept"]),
            partial(mask, share=config["mask_share"], token=0 if self.digs else self.mask_token),
            partial(reorder, share=config["reorder_share"]),
        ]
        self.augmenters = nn.ModuleList(
            make_augmenter(config["hidden_size"]) for _ in range(2 if self.meta_weight else 0)
        )

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if config["contrast_weight"] or config["meta_weight"]:
            require_company(config)

    def stack(self, views):
        items, layout = super().stack(views)
        if self.digs:
            layout.dig(items == 0)
        return items, layout

    def draw_views(self, item_seq, item_seq_len):
        """Two changed histories each (Eq. 4): two pairs of ids [B, L] and lengths [B]."""
        return two_operators(item_seq, item_seq_len, self.operators, self.config["aug_pair"])

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        """Both stages from one pass of the encoder. But with ``meta: joint``, no part has a gradient in both networks."""
        parts, states = self._encoder_stage(item_seq, item_seq_len, target)
        if self.meta_weight and self.config["meta"] != "joint":
            parts["augmenter"] = self._augmenter_stage(*(state.detach() for state in states), target)
        return parts

    def training_steps(self):
        if not self.meta_weight or self.config["meta"] not in ("alternating", "official"):
            return None
        augmenters = list(self.augmenters.parameters())
        encoder = [p for name, p in self.named_parameters() if not name.startswith("augmenters.")]
        steps = [(self.encoder_parts, encoder), (self.augmenter_parts, augmenters)]
        return [*steps, steps[0]] if self.config["meta"] == "official" else steps

    def encoder_parts(self, item_seq, item_seq_len, target):
        """The parts that the encoder learns from (Eq. 14)."""
        return self._encoder_stage(item_seq, item_seq_len, target)[0]

    def augmenter_parts(self, item_seq, item_seq_len, target):
        """The part that the augmenters learn from, with the encoder as it is now (Eq. 15)."""
        with torch.no_grad():
            states = self.ends(*self.draw_views(item_seq, item_seq_len))
        return {"augmenter": self._augmenter_stage(*states, target)}

    def _encoder_stage(self, item_seq, item_seq_len, target):
        """Returns parts by name, states of the two views [B, d] each."""
        views = self.draw_views(item_seq, item_seq_len) if self.has_views else ()
        loss, (_, *states) = self.recommend_and_encode(item_seq, item_seq_len, target, *views)
        parts = {"recommendation": loss}
        if self.weight:
            parts["contrast"] = self.weight * self.contrast(*states, target)
        if self.meta_weight:
            frozen, penalty = self.config["meta"] != "joint", self.config["reg_weight"]
            parts["meta"] = self.meta_weight * self.contrast_of_four(*states, target, penalty, frozen)
        return parts, states

    def _augmenter_stage(self, one, other, target):
        """The contrast as the augmenters see it; in the paper, R keeps its weight where the contrast has lost its own."""
        share = self.meta_weight if self.config["reg"] == "paper" else 1
        return self.contrast_of_four(one, other, target, share * self.config["reg_weight"], frozen=False)

    def contrast_of_four(self, one, other, target, penalty, frozen):
        """L_cl2 (Eq. 9) and R (Eq. 13) of states and what the augmenters make of them.

        Args:
            one, other (torch.Tensor): [B, d] states of the two views.
            target (torch.LongTensor): [B] the next items.
            penalty (float): weight of R.
            frozen (bool): whether the augmenters' weights get no gradient.

        Returns:
            torch.Tensor: []; each contrast is the mean of both directions, of which the paper takes the sum.
        """
        own = [one, other, *(self.augment(number, state, frozen) for number, state in enumerate((one, other)))]
        every, hidden = rows_of_all(torch.stack(own, 1)).unbind(1), self.hidden_pairs(target)
        loss, reg = 0, self.config["reg"]
        for a, b in PAIRS:
            pair = own[a], own[b], self.config["tau"], self.config["similarity"], (every[a], every[b]), hidden
            logits, positive = pair_logits(*pair)
            loss = loss + F.cross_entropy(logits, positive)
            if reg == "official":
                loss = loss + penalty * compression(logits, positive, "row")
            elif reg == "paper" and (a, b) == PAIRS[0]:
                loss = loss + penalty * compression(logits, positive, "batch", rows_of_all)
        return loss

    def augment(self, number, state, frozen):
        """z (Eq. 5), of unit norm: what an augmenter makes of states. state: [B, d] -> [B, d]."""
        network = self.augmenters[number]
        weights = {name: p.detach() if frozen else p for name, p in network.named_parameters()}
        return F.normalize(functional_call(network, weights, (state,)).to(state.dtype), dim=-1)
