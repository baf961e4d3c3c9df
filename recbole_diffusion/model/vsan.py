r"""VSAN
################################################

Reference:
    Jing Zhao, Pengpeng Zhao, Lei Zhao, Yanchi Liu, Victor S. Sheng, Xiaofang Zhou. "Variational Self-attention Network for
    Sequential Recommendation." ICDE 2021.

A reconstruction: neither code nor the text of the paper could be had. A causal Transformer infers a Gaussian for every
position of the history, a second one predicts from a sample of each what comes next; training maximises the evidence lower
bound. ``docs/vsan.md`` says where each choice comes from.
"""

import torch
from torch import nn

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.encoders import named_encoder
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.model.transformer_recommender import TransformerRecommender


def kl_from_standard_normal(mean, log_variance):
    """KL divergence of diagonal Gaussians from N(0, I), summed over the last dimension: [..., d] twice -> [...]."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(-1)


class VSAN(TransformerRecommender):
    """Variational self-attention network.

    With ``twin: True`` nothing is random and nothing is pulled to a prior: a SASRec with a linear layer between its blocks.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/VSAN.yaml``.
        dataset (SequenceDataset): for the number of items.

    Attributes:
        recommender (PositionedTransformer): the inference network, from items to the Gaussians.
        spread_network (PositionedTransformer | None): another one for their variances.
        generation (nn.Module): the blocks of the generation network, from latent vectors to states.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, self.steps_taken, self._seen = config["hidden_size"], 0, {}
        self.generation = named_encoder(config["encoder"], config, config["generation_layers"], self.max_seq_length)
        self.mean = nn.Linear(hidden, hidden)
        self.spread_network = self.log_variance = None
        if not config["twin"]:
            self.log_variance = nn.Linear(hidden, hidden)
            if config["separate_variance_stack"]:
                self.spread_network = PositionedTransformer(
                    config, self.max_seq_length, config["encoder"], config["n_layers"]
                )
        self.initialize()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if config["next_k"] > 1 and (config["ce_positions"] == "last" or config["loss_type"] != "CE"):
            raise UsageError(
                "next_k above 1 needs later items of the history and a softmax: ce_positions: all, loss_type: CE"
            )

    def loss_weights(self, interaction):
        return {**super().loss_weights(interaction), "kl": int(interaction[self.ITEM_SEQ_LEN].sum())}

    # Inference network, latent vectors, generation network

    def infer(self, items, layout):
        """The Gaussian of every position. items: [N] -> mean [N, d], log variance [N, d] or None with ``twin``."""
        embedded = self.item_embedding(items).unsqueeze(1)
        state = self.recommender(embedded, layout, causal=True)
        if self.log_variance is None:
            return self.mean(state)[:, 0], None
        of_spread = self.spread_network(embedded, layout, causal=True) if self.spread_network else state
        return self.mean(state)[:, 0], self.log_variance(of_spread)[:, 0]

    def latent(self, mean, log_variance):
        """A sample of each Gaussian in training, its mean otherwise: [N, d]."""
        if log_variance is None:
            return mean
        deviation = (log_variance / 2).exp()
        if self.training:
            return mean + deviation * torch.randn_like(mean)
        return mean + deviation if self.config["official_eval_shift"] else mean

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        latent = self.latent(*self.infer(layout.pack(item_seq), layout)).unsqueeze(1)
        latent = self.generation.first_blocks(latent, layout, causal=True)
        return self.generation.final_block_at_last(latent, layout)[:, 0]

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        mean, log_variance = self.infer(items, layout)
        hidden = self.generation(self.latent(mean, log_variance).unsqueeze(1), layout, causal=True)[:, 0]
        at_last = self.config["ce_positions"] == "last"
        loss = self.recommendation_loss(hidden[layout.last] if at_last else hidden, items, layout, target)
        if self.config["next_k"] > 1:
            loss = loss + self.later_targets(hidden, items, layout, target)
        parts = {"recommendation": loss}
        if log_variance is not None:
            divergence = kl_from_standard_normal(mean.float(), log_variance.float()).mean()
            self._seen = {"KL": divergence.detach(), "sigma": (log_variance / 2).exp().mean().detach()}
            if self.config["kl_weight"]:
                parts["kl"] = self.present_kl_weight() * divergence
        return parts

    def later_targets(self, hidden, items, layout, target):
        """What makes of the loss for the next item the mean over the next ``next_k``, all under one softmax.

        A row near the end of its history has fewer. The logarithm of the sum of exponentials is that of the next item, so
        that only the logits of the targets differ.

        Args:
            hidden (torch.Tensor): [N, d].
            items (torch.LongTensor): [N] packed.
            layout (PackedLayout): of the B histories.
            target (torch.LongTensor): [B] what follows the last items.

        Returns:
            torch.Tensor: [].
        """
        following = layout.next_items(items, target)
        ahead = torch.arange(self.config["next_k"], device=items.device)
        place = torch.arange(len(items), device=items.device)[:, None] + ahead
        there = layout.position[:, None] + ahead < layout.length[:, None]
        targets = following[place.clamp(max=len(items) - 1)]
        logits = (hidden.unsqueeze(1) * self.item_embedding(targets)).sum(-1)
        if self.repetition:
            logits = logits + self.repetition.at_every_token(items, layout).at(targets)
        mean_logit = (logits * there).sum(1) / there.sum(1)
        difference, taught = logits[:, 0] - mean_logit, self.taught(layout)
        return (difference if taught is None else difference[taught]).mean()

    def present_kl_weight(self):
        """Weight of the KL term in this step: rises by ``1 / kl_anneal_steps`` a step, up to ``kl_weight``."""
        steps, most = self.config["kl_anneal_steps"], self.config["kl_weight"]
        return min(most, self.steps_taken / steps) if steps else most

    def after_step(self):
        self.steps_taken += 1

    def training_state(self):
        return {"steps_taken": self.steps_taken}

    def load_training_state(self, state):
        self.steps_taken = state["steps_taken"]

    # Reports

    def epoch_report(self):
        return {name: float(value) for name, value in self._seen.items()}

    def epoch_warning(self, report):
        if report["sigma"] < 0.95 or report["KL"] > 0.5:
            return None
        return "the posterior has collapsed to the prior (KL {KL:.2f}, sigma {sigma:.2f}): lower kl_weight".format(
            **report
        )
