r"""ECL-SR
################################################

Reference:
    Peilin Zhou, Jingqi Gao, Yueqi Xie, Qichen Ye, Yining Hua, Jaeboum Kim, Shoujin Wang, Sunghun Kim. "Equivariant
    Contrastive Learning for Sequential Recommendation." RecSys 2023.

States of histories shall not feel dropout, and shall feel it when items are replaced. For training only, a generator
fills masked places by items that would fit, and a discriminator that is given the encoder's states of the true
history has to find them. docs/eclsr.md has the equations, ``properties/model/ECLSR.yaml`` the meaning of each setting.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.augmentation import share_of
from recbole_diffusion.layers.contrastive import info_nce
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.layers.top_items import top_items
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company
from recbole_diffusion.processes import rows_of_all


class ECLSR(TransformerRecommender):
    """Equivariant contrastive learning for sequential recommendation.

    A part of the loss whose weight is 0 does not exist; with all three at 0 what is left is SASRec, or the encoder that
    is chosen instead of its Transformer.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/ECLSR.yaml``.
        dataset (SequenceDataset): for the number of items.

    Attributes:
        generator (PositionedTransformer): both ways, with positions of its own and the encoder's item table.
        judge (nn.Linear): what the discriminator reads of a state of the encoder's blocks.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weight = {part: config[f"{part}_weight"] for part in ("contrast", "discriminator", "generator")}
        self.replaces = bool(self.weight["discriminator"] or self.weight["generator"])
        if self.replaces:  # the generator is the paper's, whatever recommends
            self.generator = PositionedTransformer(config, self.max_seq_length, "sasrec", config["generator_layers"])
        if self.weight["discriminator"]:
            self.judge = nn.Linear(config["hidden_size"], 1, bias=False)
        self.initialize(with_mask=self.replaces)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if config["contrast_weight"]:
            require_company(config)
        for key, needed in {"loss_type": "CE", "pos_align": "end", "repetition": "none"}.items():
            if config["official_compat"] and config[key] != needed:
                raise UsageError(f"official_compat has padding in the loss, left of the items: set {key}: {needed}")

    def loss_weights(self, interaction):
        lengths = interaction[self.ITEM_SEQ_LEN]
        rows, tokens, masked = len(interaction), int(lengths.sum()), int(self._count(lengths).sum())
        weights = super().loss_weights(interaction)
        if self.config["official_compat"] and self.config["ce_positions"] == "all":
            weights["recommendation"] += rows * self.max_seq_length - tokens
        return {**weights, "discriminator": tokens, "generator": max(1, masked)}

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        weight, compat = self.weight, self.config["official_compat"]
        if not (any(weight.values()) or compat):
            return {"recommendation": self.recommend_and_encode(item_seq, item_seq_len, target)[0]}
        layout = PackedLayout(item_seq_len)
        items, encode = layout.pack(item_seq), self._encode_with_padding if compat else self._encode
        recommendation, states, ends, means = encode(items, layout, target)
        parts = {"recommendation": recommendation}
        if weight["contrast"]:
            parts["contrast"] = weight["contrast"] * self._contrast(means, target)
        if self.replaces:
            generator_loss, replaced = self._generate(items, self._choose(layout), layout)
        if weight["discriminator"]:
            condition = states[:, 0] if self.config["condition"] == "addall" else ends[layout.row, 0]
            logits = self._discriminate(replaced, condition, layout)
            loss = F.binary_cross_entropy_with_logits(logits, (replaced != items).to(logits.dtype))
            parts["discriminator"] = weight["discriminator"] * loss
        if weight["generator"]:
            parts["generator"] = weight["generator"] * generator_loss
        return parts

    def _encode(self, items, layout, target):
        """Encode histories, twice where they are contrasted, and every token only where its state is wanted.

        Returns:
            tuple: recommendation loss [], states of the tokens [N, copies, d], at least of the first copy where the
            discriminator needs them, of the ends [B, copies, d], means of the latest states [B, copies, d].
        """
        config, copies = self.config, 2 if self.weight["contrast"] else 1
        at_last = config["ce_positions"] == "last"
        first = not at_last or bool(self.weight["discriminator"] and config["condition"] == "addall")
        full = copies if copies == 2 and config["k_last"] > 1 else int(first)
        x = self.item_embedding(items).unsqueeze(1).expand(-1, copies, -1)
        if full == copies:
            states = self.recommender(x, layout, causal=True)
            ends, means = states[layout.last], self._means(states, layout)
        else:
            states, ends = self.recommender.at_last(x, layout, causal=True, full_views=full)
            means = ends  # k_last: 1, or no contrast
        loss = self.recommendation_loss((ends if at_last else states)[:, 0], items, layout, target)
        return loss, states, ends, means

    def _means(self, states, layout):
        """Mean of the last ``k_last`` states of each history, of all where it is shorter: [N, c, d] -> [B, c, d]."""
        k = self.config["k_last"]
        share = (layout.length - layout.position <= k) / layout.length.clamp(max=k)
        sums = torch.zeros_like(states[layout.last])
        return sums.index_add(0, layout.row, states * share.to(states.dtype)[:, None, None])

    def _contrast(self, means, target):
        """InfoNCE, one direction: a copy finds the other one of its history. means: [B, 2, d]."""
        (one, other), hidden_pairs = means.unbind(1), None
        if self.config["mask_same_target"]:
            hidden_pairs = (target[:, None] == rows_of_all(target)).fill_diagonal_(False)
        return info_nce(one, rows_of_all(other), self.config["tau"], hidden_pairs)

    # Equivariance: generator and discriminator

    def _count(self, lengths):
        """How many items of histories of some lengths ``strategy: sample`` masks, and ``prob`` about as many."""
        return torch.minimum(share_of(lengths, self.config["mask_ratio"]) + 1, lengths - 1)

    def _choose(self, layout):
        """Tokens to mask, never the first of a history, and so none where it is the only one: [n] token numbers."""
        keys = torch.rand(layout.n_tokens, device=layout.row.device)
        inner, ratio = layout.position > 0, self.config["mask_ratio"]
        if self.config["strategy"] == "sample":
            order = keys.masked_fill(~inner, -1).argsort(descending=True)
            order = order[layout.group[order].argsort(stable=True)]  # sequence by sequence, its first item at the end
            return order[layout.position < self._count(layout.length)]
        drawn = inner & (keys < ratio)
        before = layout.ends - layout.length[layout.ends] + 1  # the first token of each sequence, which is never drawn
        so_far = drawn.cumsum(0)
        within = so_far - so_far[before][layout.group]
        drawn &= within <= int(ratio * self.max_seq_length) + 1
        drawn[layout.ends[within[layout.ends] == 0]] = True
        return (drawn & inner).nonzero().squeeze(1)

    def _generate(self, items, chosen, layout):
        """Fill masked places.

        Args:
            items (torch.LongTensor): [N].
            chosen (torch.LongTensor): [n] tokens to mask; only they meet the catalogue.
            layout (PackedLayout): of the histories.

        Returns:
            tuple: loss [] of the true items at the chosen tokens, items [N] with the best ones there, without gradient.
        """
        masked, table = items.index_fill(0, chosen, self.mask_token), self.item_embedding.weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weight["generator"] > 0):
            states = self.generator(self.embed(masked).unsqueeze(1), layout, causal=False)[chosen, 0]
            if not len(chosen):  # only histories of one item
                return states.sum(), items
            loss = linear_cross_entropy(states, table[1:], items[chosen] - 1)[0]
        with torch.no_grad():
            return loss, items.index_put((chosen,), top_items(states, table, 1)[:, 0])

    def _discriminate(self, replaced, condition, layout):
        """How likely each item was put in, as logits, by the encoder itself. [N], [N, d] -> [N]."""
        x = self.item_embedding(replaced) + condition
        return self.judge(self.recommender(x.unsqueeze(1), layout, causal=True))[:, 0, 0]

    # What the released code does instead (official_compat)

    def _encode_with_padding(self, items, layout, target):
        """Left-padded rows of full length, whose padding is in the loss, as item 0, and among the latest states.

        A query of padding sees every token of its row, as all keys are hidden from it alike. Returns what
        :meth:`_encode` does.
        """
        rows, width, copies = len(layout.last), self.max_seq_length, 2 if self.weight["contrast"] else 1
        padded = PackedLayout.with_padding(rows, width, items.device)
        cells = layout.row * width + width - layout.length + layout.position
        placed = items.new_zeros(rows * width).index_put((cells,), items)
        real = (placed > 0).view(rows, width)
        later = torch.ones(width, width, dtype=torch.bool, device=items.device).triu_(1)
        padded.blocks[0].hidden = (later | ~real[:, None]) & real[:, :, None]
        x = self.item_embedding(placed).unsqueeze(1).expand(-1, copies, -1)
        every = self.recommender(x, padded, causal=True)
        means = every.unflatten(0, (rows, width))[:, -self.config["k_last"] :].mean(1)
        states, ends = every[cells], every[padded.last]
        hidden, label = ends, target
        if self.config["ce_positions"] == "all":
            hidden, label = every, torch.where(placed > 0, placed.roll(-1), 0)
            label[padded.last] = target
            taught = self.taught(layout)
            if taught is not None:  # padding stays, pseudo items go
                kept = torch.ones_like(placed, dtype=torch.bool).index_fill(0, cells, False).index_fill(0, cells[taught], True)
                hidden, label = hidden[kept], label[kept]
        return linear_cross_entropy(hidden[:, 0], self.item_embedding.weight, label)[0], states, ends, means
