r"""MFGAN
################################################

Reference:
    Ruiyang Ren, Zhaoyang Liu, Yaliang Li, Wayne Xin Zhao, Hui Wang, Bolin Ding, Ji-Rong Wen. "Sequential Recommendation with
    Self-Attentive Multi-Adversarial Network." SIGIR 2020.

A Transformer recommends; discriminators, each of which sees one factor of the items only, learn to tell what follows a history
from what it recommends; how real they take a recommendation for is its reward. First the recommender is trained alone, then
both sides. ``docs/mfgan.md`` says where the released code does something else than the paper.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.data.later import later_items
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.negatives import unseen_items
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.top_items import top_items
from recbole_diffusion.layers.towers import Factor, FrozenFactor, PrefixTower
from recbole_diffusion.model.transformer_recommender import TransformerRecommender
from recbole_diffusion.processes import rows_of_all

ID, POPULARITY, TEXT = "id", "popularity", "text"


@contextmanager
def judging(network):
    """Inside, a network neither learns nor drops anything."""
    mode = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(mode)


def policy_gradient(logits, rewards, normalise=False):
    """A loss whose gradient is that of minus the expected reward under ``softmax(logits)`` (REINFORCE with its best baseline).

    Args:
        logits, rewards (torch.Tensor): [B, C] of some candidates.
        normalise (bool): divide advantages by their deviation in the batch, of all processes.

    Returns:
        torch.Tensor: [] mean.
    """
    p = logits.detach().softmax(1)
    advantage = rewards - (p * rewards).sum(1, keepdim=True)
    if normalise:
        variance = rows_of_all((p * advantage.square()).sum(1)).mean()
        advantage = advantage / (variance.sqrt() + 1e-4)  # less than that is rounding
    return -(p * advantage * logits).sum(1).mean()  # the softmax's denominator meets p * advantage, which sums to 0


def reward_bce(positive, negative, reward):
    """What the released code takes for it: the reward weights the positive half of SASRec's loss. All [N] -> []."""
    return (reward * F.softplus(-positive) + F.softplus(negative)).mean()


class MFGAN(TransformerRecommender):
    """Multi-factor generative adversarial network.

    With ``twin: True`` there are no discriminators: a Transformer with the recommendation loss.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MFGAN.yaml``.
        dataset (SequenceDataset): for counts and attributes of the items.

    Attributes:
        factors (list[str]): names of the factors, one for each of the ``towers``.

    Raises:
        UsageError: for a factor that the data set does not have.
    """

    other_parameter_name = ["item_counts", "item_attributes"]  # checkpoints keep them, so that a Recommender needs no data

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.epoch, self.leaks = 0, config["official_leak"] and not config["twin"]
        self.item_counts, self.item_attributes = dataset.item_counts(), {}
        self.factors, self.towers = [], nn.ModuleList()
        if not config["twin"]:
            self._init_towers(dataset)
        if self.leaks:
            self.logger.warning("official_leak: discriminators LEARN from the test targets; results are marked")
            self.register_buffer("later", later_items(dataset), persistent=False)
        self.initialize()

    def _init_towers(self, dataset):
        config = self.config
        if config["n_candidates"] > self.n_items - 2:
            raise UsageError(f"n_candidates {config['n_candidates']} of {self.n_items - 1} items are too many: lower it")
        sizes = config["hidden_size"], config["n_heads"], self.max_seq_length, config["critic_dropout_prob"], config["layer_norm_eps"]
        for name, factor in self._make_factors(dataset).items():
            self.factors.append(name)
            self.towers.append(PrefixTower(factor, *sizes))

    def _make_factors(self, dataset):
        """Name -> vectors of the items by that factor, of the factors that ``factors`` names."""
        config, factors = self.config, {}
        auto = config["factors"] == "auto"
        names = [ID, POPULARITY] if auto else [name.strip() for name in config["factors"].split(",")]
        if "" in names and config["factors"].strip():
            raise UsageError(f"factors '{config['factors']}' leave a name out between commas")
        if len(set(names)) < len(names):
            raise UsageError(f"factors '{config['factors']}' name one twice")
        columns = "auto" if auto else ",".join(name for name in names if name not in (ID, POPULARITY, TEXT))
        self.item_attributes = dataset.item_attributes(columns or "none")
        width, items = config["hidden_size"], torch.arange(self.n_items)
        if ID in names:
            factors[ID] = Factor(width, self.n_items, items, items, self.n_items)
        if POPULARITY in names:
            buckets = (self.item_counts + 1).log2().long()
            factors[POPULARITY] = Factor(width, int(buckets.max()) + 1, items, buckets, self.n_items)
        for name, (owners, values) in self.item_attributes.items():
            factors[name] = Factor(width, int(values.max()) + 1, owners, values, self.n_items)
        features = self._features(dataset) if auto or TEXT in names else None
        if features is not None:
            self.feature_embedding = nn.Embedding.from_pretrained(features)  # under the name that checkpoints look for
            factors[TEXT] = FrozenFactor(width, self.feature_embedding)
        elif TEXT in names:
            raise UsageError("factor 'text' needs vectors of the items: recbole-diffusion features makes them")
        if not factors:
            raise UsageError(f"factors '{config['factors']}' leave MFGAN without discriminators: name one, or set twin: True")
        return factors

    def _features(self, dataset):
        choice = self.config["item_features"]
        return None if choice == "none" else dataset.item_features(choice, self.config["missing_features"], None)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if not config["twin"] and config["alternate"] == "step" and not (config["rec_weight"] or config["gen_weight"]):
            raise UsageError("rec_weight and gen_weight are 0: nothing would train the recommender")

    def critics(self):
        rate = self.config["critic_learning_rate"]
        return {f"critic {name}": (f"towers.{n}.", rate) for n, name in enumerate(self.factors)}

    def loss_weights(self, interaction):
        of_tokens = self.config["objective"] == "reward_bce"
        return {"recommendation": super().loss_weights(interaction)["recommendation"], None: len(interaction),
                "generator": self.taught_tokens(interaction) if of_tokens else len(interaction)}  # fmt: skip

    def loss_inputs(self, interaction):
        later = (self.later[interaction[self.USER_ID]],) if self.leaks else ()
        return *super().loss_inputs(interaction), *later

    # Phases

    def begin_epoch(self, epoch):
        self.epoch = epoch

    def sides(self):
        """Whether the recommender's reward and the discriminators have a part in this epoch: (bool, bool)."""
        since = self.epoch - self.config["pretrain_epochs"]
        if self.config["twin"] or since < 0:
            return False, False
        if self.config["alternate"] == "step":
            return True, True
        critics_turn = since % (self.config["generator_epochs"] + 1) == 0
        return not critics_turn, critics_turn

    def changes_scores(self, epoch):
        self.epoch = epoch
        return self.sides() != (False, True)

    # Losses

    def loss_parts(self, item_seq, item_seq_len, target, later=None):
        layout, (rewarded, judged) = PackedLayout(item_seq_len), self.sides()
        items = layout.pack(item_seq)
        nothing = item_seq.new_zeros((), dtype=torch.float)
        parts = dict.fromkeys(("recommendation", *(("generator",) if self.towers else ()), *self.critics()), nothing)
        self.taught(layout)  # what a policy gradient says of the last item holds behind pseudo items as well
        if rewarded or not judged:
            hidden = self.hidden(items, layout)
            at_last = self.config["ce_positions"] == "last"
            loss = self.recommendation_loss(hidden[layout.last] if at_last else hidden, items, layout, target)
            parts["recommendation"] = (self.config["rec_weight"] if rewarded else 1) * loss
        if rewarded:
            parts["generator"] = self.config["gen_weight"] * self._reward_loss(hidden, items, layout, target)
        if judged:
            parts.update(self._critics_losses(*self._real(item_seq, item_seq_len, target, later)))
        return parts

    def _reward_loss(self, hidden, items, layout, target):
        """What makes recommendations that look real more likely: []."""
        states, table = hidden[layout.last], self.item_embedding.weight
        if self.config["objective"] == "reward_bce":
            best = top_items(states.detach(), table.detach(), 1)
            reward = self._realness(items, layout, best).mean(0)[layout.row, 0]
            next_item = layout.next_items(items, target)
            met = torch.cat([layout.row, layout.row]), torch.cat([items, next_item])
            negative, taught = unseen_items(layout.row, *met, self.n_items), self.taught(layout)
            if taught is not None:
                hidden, reward, next_item, negative = (part[taught] for part in (hidden, reward, next_item, negative))
            positive, negative = ((hidden * table[which]).sum(1) for which in (next_item, negative))
            return reward_bce(positive, negative, reward)
        candidates = self._candidates(states, target)
        logits = (states.unsqueeze(1) * table[candidates]).sum(-1)
        rewards = self._realness(items, layout, candidates).mean(0)
        return policy_gradient(logits.float(), rewards.float(), self.config["normalise_advantage"])

    def _critics_losses(self, item_seq, item_seq_len, last):
        """Of every discriminator: the next items that users met are real, those that they would be recommended are not."""
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        with judging(self.recommender):  # a pass of its own: what users would be shown has no dropout
            candidates = self._candidates(self.hidden(items, layout)[layout.last], last)
        losses, n_fakes = {}, candidates.shape[1] - 1
        for name, tower in zip(self.critics(), self.towers):
            logits = tower(items, layout, candidates).float()
            fakes = F.softplus(logits[:, 1:]).sum(1) / (n_fakes if self.config["balance"] else 1)
            loss = (F.softplus(-logits[:, 0]) + fakes).mean() / (2 if self.config["balance"] else 1 + n_fakes)
            decay = 0.5 * self.config["critic_weight_decay"]
            losses[name] = loss + decay * sum(p.square().sum() for p in tower.out.parameters())
        return losses

    def _candidates(self, states, real):
        """The real next item of each row, and the best others: states [B, d], real [B] -> [B, 1 + n_candidates]."""
        table = self.item_embedding.weight.detach()
        return torch.cat([real.unsqueeze(1), top_items(states.detach(), table, self.config["n_candidates"], real)], 1)

    def _realness(self, items, layout, candidates):
        """How real every tower takes candidates for: [towers, B, C], probabilities without gradients."""
        with judging(self.towers):
            return torch.stack([tower(items, layout, candidates) for tower in self.towers]).sigmoid()

    def _real(self, item_seq, item_seq_len, target, later):
        """Histories and the items that end them, as discriminators see them; with ``official_leak`` those of whole users.

        later: [B, n] what users meet after ``target``, zeros where there is no more, or None.
        """
        if later is None:
            return item_seq, item_seq_len, target
        known = torch.arange(item_seq.shape[1] + 1 + later.shape[1], device=later.device)
        whole = F.pad(item_seq, (0, 1 + later.shape[1]))
        after = torch.arange(1 + later.shape[1], device=later.device)
        whole = whole.scatter(1, item_seq_len[:, None] + after, torch.cat([target.unsqueeze(1), later], 1))
        length = item_seq_len + (later > 0).sum(1)
        last = whole.gather(1, length.unsqueeze(1)).squeeze(1)
        first = (length - self.max_seq_length).clamp(min=0)
        place = (first[:, None] + known[: self.max_seq_length]).clamp(max=len(known) - 1)
        length = length - first
        return whole.gather(1, place) * (known[: place.shape[1]] < length[:, None]), length, last

    # Explanations

    def factor_rewards(self, item_seq, item_seq_len, items):
        """How real each factor takes items for as the next ones.

        Args:
            item_seq (torch.LongTensor): [B, L], zeros on the right.
            item_seq_len (torch.LongTensor): [B].
            items (torch.LongTensor): [B, C].

        Returns:
            dict[str, torch.Tensor]: name of a factor -> [B, C] probabilities.
        """
        layout = PackedLayout(item_seq_len)
        return dict(zip(self.factors, self._realness(layout.pack(item_seq), layout, items))) if self.towers else {}
