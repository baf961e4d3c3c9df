"""What models share that restore the next item from its noised vector, by a Transformer over the history."""

import math

import torch
from torch import nn

from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys, mix
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.approximator import Approximator
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import (
    DiffusionSequentialRecommender,
    configured_betas,
    require_even_width,
    require_prefixes,
)

START, LAMBDA, REVERSE = range(3)  # kinds of noise drawn for a history at evaluation


class RestoringRecommender(DiffusionSequentialRecommender):
    """A Transformer over the history restores the next item from its noised vector: z_i = e_i + lambda_i * (x + d) (Eq. 15).

    Equation and algorithm numbers are those of the DiffuRecSys paper, see :mod:`recbole_diffusion.model.diffurecsys`.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffuRec.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, hidden, sparse=bool(config["sparse_table"]))
        if config["use_position"]:
            self.position_embedding = nn.Embedding(self.max_seq_length, hidden)
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        self._init_diffusion(config)
        self.approximator = Approximator(
            config["n_blocks"],
            config["n_heads"],
            hidden,
            config["inner_size"],
            config["hidden_dropout_prob"],
            config["hidden_act"],
            config["layer_norm_eps"],
            **self._approximator_settings(),
        )
        self.first_item = 0 if config["padding_in_softmax"] else 1
        self._initialize()

    def _init_diffusion(self, config):
        betas = configured_betas(config)
        self.process = GaussianProcess(betas)
        self.chain = reverse_chain(
            betas, config["sampling_steps"], config["sampler"], config["reverse_variance"], config["ddim_eta"]
        )
        self.noise = KeyedNoise(config["seed"], config["hidden_size"])
        self.step_embedding = StepEmbedding(len(betas), config["hidden_size"])

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        steps, sampling_steps = config["diffusion_steps"], config["sampling_steps"]
        if sampling_steps > steps:
            raise UsageError(f"sampling_steps {sampling_steps} is larger than diffusion_steps {steps}")
        require_even_width(config)
        require_prefixes(config)
        configured_betas(config)
        if config["padding_in_softmax"] and config["loss_type"] in ("SS", "SCE"):
            raise UsageError(f"loss_type: {config['loss_type']} never draws padding: set padding_in_softmax: False")

    def _approximator_settings(self):
        return {}

    def _initialize(self):
        """Items and positions N(0, 1) unless scaled; Xavier for feed-forward and attention outputs (released code)."""
        for block in self.approximator.blocks:
            layers = [block.feed_forward[0], block.feed_forward[-1], block.attention.dense]
            if block.cross_attention is not None:
                layers.append(block.cross_attention.dense)
            for layer in layers:
                nn.init.xavier_normal_(layer.weight)
        with torch.no_grad():
            self.item_embedding.weight *= self.config["initializer_range"]
            if self.config["use_position"]:  # as wide as the items, which they are added to
                self.position_embedding.weight *= self.config["initializer_range"]
            if self.first_item and self.config["attention_mask"] == "keys":
                self.item_embedding.weight[0] = 0

    # The approximator (Eq. 14-16)

    def _history(self, item_seq, item_seq_len):
        """Layout of the tokens and their items: [N]."""
        if self.config["attention_mask"] == "queries":
            return PackedLayout.left_padded(item_seq, item_seq_len, self.max_seq_length)
        layout = PackedLayout(item_seq_len)
        return layout, layout.pack(item_seq)

    def _embed(self, items, layout):
        """e: [N] items -> [N, d]."""
        embedded = self.item_embedding(items)
        if self.config["use_position"]:
            from_end = self.max_seq_length - layout.length + layout.position
            embedded = embedded + self.position_embedding(from_end)
        return self.embedding_norm(self.embedding_dropout(embedded))

    def _known(self, items, layout):
        """What is told to the approximator of the history at evaluation: [N] items -> [N, d]."""
        return self._embed(items, layout)

    def _restore(self, embedded, guide, layout):
        """f_theta. embedded: [N, d]; guide: lambda_i * (x + d) [N, views, d] -> x_0 [B, views, d]."""
        return self.approximator(embedded.unsqueeze(1) + guide, None, layout)

    def _guide(self, standard_noise, noised, step_vector, layout):
        """lambda_i * (x + d), lambda_i ~ N(lambda_mean, lambda_std^2) element by element.

        Args:
            standard_noise (torch.Tensor): [N, views, d].
            noised, step_vector (torch.Tensor): x and d, [B, views, d] and the same or broadcast against it.

        Returns:
            torch.Tensor: [N, views, d].
        """
        strength = standard_noise * self.config["lambda_std"] + self.config["lambda_mean"]
        return strength * (noised + step_vector)[layout.row]

    # Training (Algorithm 1)

    def loss_parts(self, item_seq, item_seq_len, target):
        layout, items = self._history(item_seq, item_seq_len)
        noised = self._noised(target)
        embedded = self._embed(items, layout)
        restored = self._restore(embedded, self._random_guide(embedded, *noised, layout), layout)[:, 0]
        return {"recommendation": self._recommendation_loss(restored, item_seq, item_seq_len, target)}

    def _noised(self, target):
        """Next items at random time steps: x and d, each [B, 1, d]."""
        clean = self.item_embedding(target)
        t = torch.randint(self.process.steps, target.shape, device=target.device)
        noised = self.process.add_noise(clean, self._training_noise(clean), t)
        return noised.unsqueeze(1), self.step_embedding()[t].unsqueeze(1)

    def _training_noise(self, clean):
        """epsilon of Eq. 20: [B, d]."""
        return torch.randn_like(clean)

    def _random_guide(self, embedded, noised, step_vector, layout):
        """:meth:`_guide` with fresh noise. embedded: [N, d]; noised, step_vector: [B, 1, d] -> [N, 1, d]."""
        return self._guide(torch.randn_like(embedded).unsqueeze(1), noised, step_vector, layout)

    def _recommendation_loss(self, restored, item_seq, item_seq_len, target):
        """Cross-entropy of the next items [B] for restored vectors [B, d] (Eq. 24-25): []."""
        return self.softmax_loss(restored, target, self.met_at_end(item_seq, item_seq_len), self.first_item)

    # Inference (Algorithms 2 and 3)

    def sample(self, item_seq, item_seq_len, n_samples=1):
        """Restore the next item from pure noise (Algorithm 2), ``n_samples`` times independently.

        The noise belongs to a history, so it does not depend on the other rows of a batch.

        Args:
            item_seq (torch.LongTensor): [B, L].
            item_seq_len (torch.LongTensor): [B].
            n_samples (int): seeds of Algorithm 3.

        Returns:
            torch.Tensor: x_0, [B, n_samples, d].
        """
        layout, items = self._history(item_seq, item_seq_len)
        known, step_vectors = self._known(items, layout), self.step_embedding()
        distance = layout.length - 1 - layout.position  # to the latest item
        seeds = torch.arange(n_samples, device=items.device)
        history = mix(history_keys(items, distance, layout.row, len(item_seq))[:, None], seeds)  # [B, n_samples]
        token = mix(history[layout.row], distance[:, None])

        def denoise(x, t, step):
            guide = self._guide(self.noise(token, LAMBDA, step), x, step_vectors[t], layout)
            return self._restore(known, guide, layout)

        return self.chain.run(self.noise(history, START), denoise, lambda step: self.noise(history, REVERSE, step))

    def encode(self, item_seq, item_seq_len):
        return self.sample(item_seq, item_seq_len)[:, 0]

    @property
    def ranks_by_products(self):
        """Whether one sample gives the scores."""
        return self.config["ensemble_seeds"] == 1

    def full_sort_predict(self, interaction):
        """Rounding by inner product (Eq. 26): [B, V]; with ``ensemble_seeds`` the log of the mean probability."""
        if self.config["ensemble_seeds"] == 1:
            return super().full_sort_predict(interaction)
        return self.ensemble_scores(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def predict(self, interaction):
        """Score of one item per history: [B]."""
        if self.config["ensemble_seeds"] == 1:
            return super().predict(interaction)
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def ensemble_scores(self, item_seq, item_seq_len):
        """Log of the probability of each item, averaged over seeds (Algorithm 3): [B, V] float32."""
        samples = self.sample(item_seq, item_seq_len, self.config["ensemble_seeds"])
        met = self.met_at_end(item_seq, item_seq_len)
        total = None  # logarithm of the sum, since far items have probabilities that float32 rounds to 0
        for vectors in samples.unbind(1):
            logits = (vectors @ self.item_embedding.weight.t()).float()
            logits = logits if met is None else met.to(logits)
            logits[:, : self.first_item] = float("-inf")
            scores = logits.log_softmax(-1)
            total = scores if total is None else torch.logaddexp(total, scores)
        return total - math.log(samples.shape[1])
