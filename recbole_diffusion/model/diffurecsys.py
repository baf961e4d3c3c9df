r"""DiffuRec and DiffuRecSys
################################################

References:
    Zihao Li, Aixin Sun, Chenliang Li. "DiffuRec: A Diffusion Model for Sequential Recommendation." TOIS 2023.

    Sharare Zolghadr, Ole Winther, Paul Jeha. "Generative Diffusion Models for Sequential Recommendations."
    ROEGEN@RecSys 2024.

The embedding of the next item is noised, the noised vector guides a Transformer over the history, and the
Transformer restores the item. DiffuRec adds the guide to the history, DiffuRecSys looks at it by cross-attention
(V1) and shifts the noise of training (V2). Equation and algorithm numbers are those of the DiffuRecSys paper, which
states both models; what the papers leave open is a setting in ``properties/model/*.yaml``.
"""

import math

import torch
from torch import nn

from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys, mix
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.approximator import Approximator, CrossAttention, LinearCrossAttention
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import (
    DiffusionSequentialRecommender,
    configured_betas,
    require_even_width,
    require_prefixes,
)

START, LAMBDA, REVERSE = range(3)  # kinds of noise drawn for a history at evaluation


class DiffuRec(DiffusionSequentialRecommender):
    """The baseline: z_i = e_i + lambda_i * (x + d) (Eq. 15).

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffuRec.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        hidden = config["hidden_size"]
        betas = configured_betas(config)
        self.process = GaussianProcess(betas)
        self.chain = reverse_chain(
            betas, config["sampling_steps"], config["sampler"], config["reverse_variance"], config["ddim_eta"]
        )
        self.noise = KeyedNoise(config["seed"], hidden)
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        if config["use_position"]:
            self.position_embedding = nn.Embedding(self.max_seq_length, hidden)
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        self.step_embedding = StepEmbedding(config["diffusion_steps"], hidden)
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

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        steps, sampling_steps = config["diffusion_steps"], config["sampling_steps"]
        if sampling_steps > steps:
            raise UsageError(f"sampling_steps {sampling_steps} is larger than diffusion_steps {steps}")
        require_even_width(config)
        require_prefixes(config)
        configured_betas(config)

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
        clean = self.item_embedding(target)
        t = torch.randint(self.process.steps, target.shape, device=target.device)
        noised = self.process.add_noise(clean, self._training_noise(clean), t)
        embedded = self._embed(items, layout)
        lambda_noise = torch.randn_like(embedded).unsqueeze(1)
        guide = self._guide(lambda_noise, noised.unsqueeze(1), self.step_embedding()[t].unsqueeze(1), layout)
        restored = self._restore(embedded, guide, layout)[:, 0]
        table = self.item_embedding.weight[self.first_item :]
        met = self.met_at_end(item_seq, item_seq_len)
        met = met and met.from_column(self.first_item)
        return {"recommendation": linear_cross_entropy(restored, table, target - self.first_item, met)[0]}  # Eq. 24-25

    def _training_noise(self, clean):
        """epsilon of Eq. 20: [B, d]."""
        return torch.randn_like(clean)

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
        embedded, step_vectors = self._embed(items, layout), self.step_embedding()
        distance = layout.length - 1 - layout.position  # to the latest item
        seeds = torch.arange(n_samples, device=items.device)
        history = mix(history_keys(items, distance, layout.row, len(item_seq))[:, None], seeds)  # [B, n_samples]
        token = mix(history[layout.row], distance[:, None])

        def denoise(x, t, step):
            guide = self._guide(self.noise(token, LAMBDA, step), x, step_vectors[t], layout)
            return self._restore(embedded, guide, layout)

        return self.chain.run(self.noise(history, START), denoise, lambda step: self.noise(history, REVERSE, step))

    def encode(self, item_seq, item_seq_len):
        return self.sample(item_seq, item_seq_len)[:, 0]

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


class DiffuRecSys(DiffuRec):
    """DiffuRec that looks at the guide by cross-attention (V1, Eq. 16) and shifts the noise of training (V2, Eq. 17).

    V1 is ``cross_attention: softmax, offset_noise: none``, V2 is ``offset_noise: const``.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffuRecSys.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        DiffuRec.check_config(config)
        is_linear, sees_padding = config["cross_attention"] == "linear", config["attention_mask"] == "queries"
        if config["drop_cross_output"] and not is_linear:
            raise UsageError("drop_cross_output needs cross_attention: linear")
        if config["fill_padding_rows"] and not (is_linear and sees_padding):
            raise UsageError("fill_padding_rows needs cross_attention: linear and attention_mask: queries")

    def _approximator_settings(self):
        return {
            "make_cross_attention": self._make_cross_attention,
            "chained": self.config["block_stack"] == "chained",
            "shared_norm": self.config["shared_norm"],
            "drop_block_output": self.config["drop_block_output"],
        }

    def _make_cross_attention(self):
        heads, hidden = self.config["n_heads"], self.config["hidden_size"]
        if self.config["cross_attention"] == "linear":
            dropout = self.config["hidden_dropout_prob"] if self.config["drop_cross_output"] else 0.0
            fill = self.config["fill_padding_rows"]
            return LinearCrossAttention(heads, hidden, self.config["key_softmax"], dropout, fill)
        return CrossAttention(heads, hidden, self.config["hidden_dropout_prob"])

    def _restore(self, embedded, guide, layout):
        """f_theta. embedded: [N, d]; guide: lambda_i * (x + d) [N, views, d] -> x_0 [B, views, d]."""
        return self.approximator(embedded.unsqueeze(1).expand_as(guide), guide, layout)

    def _training_noise(self, clean):
        """epsilon of Eq. 20 with an offset of its mean (Eq. 17): [B, d]."""
        noise, offset = torch.randn_like(clean), self.config["offset_noise"]
        if offset == "none":
            return noise
        shift = 1 if offset == "const" else torch.randn_like(noise[:, :1] if offset == "per_example" else noise)
        return noise + self.config["offset_strength"] * shift
