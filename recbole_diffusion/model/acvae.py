r"""ACVAE
################################################

Reference:
    Zhe Xie, Chengxuan Liu, Yichi Zhang, Hongtao Lu, Dong Wang, Yue Ding. "Adversarial and Contrastive Variational
    Autoencoder for Sequential Recommendation." WWW 2021.

A variational autoencoder whose posterior has no formula: noise goes into a recurrent encoder. What its divergence from the
prior is, a critic estimates (adversarial variational Bayes); a second one ties latent vectors to the items of their own user.
The published alternation of two optimizers is one backward pass here, because every part of the loss moves its own side
only; ``docs/acvae.md`` shows why that is the same.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.frozen import frozen
from recbole_diffusion.layers.implicit_posterior import ContrastCritic, ImplicitPosterior, PriorCritic
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.base import DiffusionSequentialRecommender


class ACVAE(DiffusionSequentialRecommender):
    """Adversarial and contrastive variational autoencoder.

    With ``twin: True`` there is no noise and no critic: a GRU, a convolution and a softmax over items.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/ACVAE.yaml``.
        dataset (SequenceDataset): for the number of items.

    Attributes:
        item_embedding (nn.Embedding): [V, hidden_size] what the encoder reads, row 0 is padding.
        output (nn.Linear): vectors and biases that histories are compared with, tables of their own.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, latent, gru = config["hidden_size"], config["latent_size"], config["gru_size"]
        noisy = config["encoder_noise"] and not config["twin"]
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.posterior = ImplicitPosterior(
            hidden,
            gru,
            latent,
            config["kernel_size"],
            config["embedding_dropout_prob"],
            config["hidden_dropout_prob"],
            noisy,
        )
        self.decode = nn.Linear(latent, hidden)
        self.output = nn.Linear(hidden, self.n_items)
        self.noise = KeyedNoise(config["seed"], gru) if noisy else None
        with torch.no_grad():
            self.item_embedding.weight.mul_(config["initializer_range"])[0] = 0
        self.prior_critic = self.contrast_critic = None
        context = hidden if config["critic_context"] == "items" else gru
        if config["kl_weight"] and not config["twin"]:
            self.prior_critic = PriorCritic(context, latent, config["critic_size"], config["critic_dropout_prob"])
        if config["contrast_weight"] and not config["twin"]:
            self.contrast_critic = ContrastCritic(context, latent, config["critic_size"])

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        if config["train_batch_size"] == 1 and config["contrast_weight"] and not config["twin"]:
            raise UsageError("train_batch_size 1 leaves ACVAE no other user to contrast with: set 2 or more")

    def critics(self):
        return {"prior_critic": ("prior_critic.", self.config["critic_learning_rate"])} if self.prior_critic else {}

    def loss_weights(self, interaction):
        return {"recommendation": self.taught_tokens(interaction), None: int(interaction[self.ITEM_SEQ_LEN].sum())}

    # Scores

    def users(self, latent):
        """What items are compared with: tanh(W z) and a one for their biases, [..., hidden_size + 1]."""
        x = torch.tanh(self.decode(latent))
        return torch.cat([x, torch.ones_like(x[..., :1])], -1)

    def item_vectors(self):
        """Vectors of all items and their biases: [V, hidden_size + 1]."""
        return torch.cat([self.output.weight, self.output.bias.unsqueeze(1)], 1)

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        states = self.posterior.states(self.item_embedding(items), layout)
        from_end = layout.length - 1 - layout.position
        late = from_end < self.posterior.kernel_size  # all that the last latent vector needs
        last = late.cumsum(0)[layout.last] - 1
        position = torch.minimum(layout.position, layout.position + self.posterior.kernel_size - layout.length)[late]
        keys, latent = history_keys(items, from_end, layout.row, len(item_seq))[layout.row[late]], 0.0
        draws = self.config["eval_draws"] if self.noise else 0
        for number in range(max(draws, 1)):

            def draw(place, number=number):
                return self.noise(keys, from_end[late], number, place) if draws else torch.zeros_like(states[late])

            latent = latent + self.posterior(states[late], position, draw)[last] / max(draws, 1)
        return self.users(latent)

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        x = self.item_embedding(items)
        states = self.posterior.states(x, layout)
        z = self.posterior(states, layout.position)
        parts = {"recommendation": self._surprise(z, items, layout, target)}
        context = x if self.config["critic_context"] == "items" else states
        if self.prior_critic:
            parts["kl"] = self.config["kl_weight"] * frozen(self.prior_critic, context, z).mean()
        if self.contrast_critic:
            other = self._latents_of_others(z, item_seq, layout)
            own, foreign = self.contrast_critic(context, z, layout), self.contrast_critic(context, other, layout)
            weight = self.config["contrast_weight"] if len(item_seq) > 1 else 0  # the last batch may be a user alone
            parts["contrast"] = weight * (F.softplus(-own) + F.softplus(foreign)).mean()
        if self.prior_critic:
            context, z = context.detach(), z.detach()
            posterior, prior = self.prior_critic(context, z), self.prior_critic(context, torch.randn_like(z))
            parts["prior_critic"] = (F.softplus(-posterior) + F.softplus(prior)).mean()
        return parts

    def _surprise(self, z, items, layout, target):
        """Cross-entropy of the next items over all items: []."""
        next_item = layout.next_items(items, target)
        met = self.repetition and self.repetition.at_every_token(items, layout).from_column(1)
        taught = self.taught(layout)
        if taught is not None:
            z, next_item, met = z[taught], next_item[taught], met and met.of_rows(taught, layout.n_tokens)
        return linear_cross_entropy(self.users(z), self.item_vectors()[1:], next_item - 1, met)[0]

    def _latents_of_others(self, z, item_seq, layout):
        """For every token a latent vector of the user of the row before: [N, latent_size].

        That of the same place, and where his history is shorter that of any place of it. With ``contrast_negatives: roll``
        it is that of the same place in any case, of padding where there is no item, drawn anew.
        """
        lengths = layout.length[layout.last]
        other = (layout.row - 1) % len(lengths)
        if self.config["contrast_negatives"] == "roll":
            padded = PackedLayout.with_padding(*item_seq.shape, item_seq.device)
            states = self.posterior.states(self.item_embedding(item_seq.flatten()), padded)
            return self.posterior(states, padded.position)[other * item_seq.shape[1] + layout.position]
        anywhere = (torch.rand_like(z[:, 0].float()) * lengths[other]).long().clamp(max=lengths[other] - 1)
        place = torch.where(layout.position < lengths[other], layout.position, anywhere)
        return z[layout.last[other] - lengths[other] + 1 + place]
