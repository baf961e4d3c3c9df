r"""ADRec
################################################

Reference:
    Jialei Chen, Yuanbo Xu, Yiheng Jiang. "Unlocking the Power of Diffusion Models in Sequential Recommendation: A Simple
    and Effective Approach." KDD 2025, arXiv 2505.19544.

A causal Transformer encodes the history. A second causal Transformer restores the next item at every position at once:
it sees the states and, times a small lambda, the vectors of the next items, each noised by a time step of its own. For
a recommendation the next items of all positions but the last are known and enter clean; the last starts from noise.
Since they do not change while the last one is restored, what the denoiser has made of them is kept
(:mod:`recbole_diffusion.layers.past`). What is open is a setting in ``properties/model/ADRec.yaml``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.past import Past
from recbole_diffusion.layers.spread import collapse_of, spread_of
from recbole_diffusion.layers.transformer import Dropout, PackedTransformer
from recbole_diffusion.model.base import DiffusionSequentialRecommender, configured_betas, require_even_width

START, REVERSE = range(2)  # kinds of noise drawn for a history at evaluation


class ADRec(DiffusionSequentialRecommender):
    """Auto-regressive diffusion with a noise level for every token.

    With ``twin: True`` nothing of the diffusion is left: both networks are one causal Transformer without positions,
    with cross-entropy, and its weights at the start are the same.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/ADRec.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        self.encoder = self._transformer(config["n_layers"])
        self.denoiser = self._transformer(config["denoiser_layers"])
        self.initialize_normal(config["initializer_range"])
        self.deviation_at_start = config["initializer_range"]
        if not config["twin"]:
            betas = configured_betas(config)
            variance = "posterior" if config["sampling_noise"] else "none"
            self.process, self.step_embedding = GaussianProcess(betas), StepEmbedding(len(betas), hidden)
            self.chain = reverse_chain(betas, config["sampling_steps"], config["reverse"], variance)
            self.noise = KeyedNoise(config["seed"], hidden) if config["sampling_noise"] else None

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        if config["twin"]:
            return
        require_even_width(config)
        configured_betas(config)
        steps, sampling_steps = config["diffusion_steps"], config["sampling_steps"]
        if sampling_steps > steps:
            raise UsageError(f"sampling_steps {sampling_steps} is larger than diffusion_steps {steps}")

    def _transformer(self, n_layers):
        sizes = (self.config[key] for key in ("n_heads", "hidden_size", "inner_size"))
        dropouts = self.config["hidden_dropout_prob"], self.config["attn_dropout_prob"]
        return PackedTransformer(n_layers, *sizes, *dropouts, self.config["hidden_act"], self.config["layer_norm_eps"])

    def _states(self, vectors, layout):
        """H: states of the history at every token. vectors: [N, d] of its items -> [N, d]."""
        embedded = self.embedding_norm(self.embedding_dropout(vectors))
        return self.encoder(embedded.unsqueeze(1), layout, causal=True)[:, 0]

    def _guided(self, states, next_vectors, step_vectors):
        """u: what the denoiser sees, states with a little of their next items and time steps. Each [..., d]."""
        return states + self.config["noised_weight"] * (next_vectors + step_vectors)

    # Training

    def begin_epoch(self, epoch):
        table = self.item_embedding.weight
        table.requires_grad_(epoch >= self.config["frozen_epochs"])
        if epoch == 0:
            self.deviation_at_start = spread_of(table[1:])[0]

    def training_state(self):
        return {"deviation_at_start": self.deviation_at_start}

    def load_training_state(self, state):
        self.deviation_at_start = state["deviation_at_start"]

    def loss_weights(self, interaction):
        return {None: self.taught_tokens(interaction)}

    def loss_parts(self, item_seq, item_seq_len, target):
        layout = PackedLayout(item_seq_len)
        items, taught = layout.pack(item_seq), self.taught(layout)
        next_item = layout.next_items(items, target)
        clean, met = self.item_embedding(next_item), None
        restored = self._restore(self._states(self.item_embedding(items), layout), clean, layout)
        if self.repetition:
            met = self.repetition.at_every_token(items, layout).from_column(1)
        if taught is not None:
            restored, clean, next_item = restored[taught], clean[taught], next_item[taught]
            met = met and met.of_rows(taught, layout.n_tokens)
        parts = {"ce": linear_cross_entropy(restored, self.item_embedding.weight[1:], next_item - 1, met)[0]}
        if self.config["mse_weight"] and not self.config["twin"]:
            parts["mse"] = self.config["mse_weight"] * F.mse_loss(restored.float(), clean)
        return parts

    def _restore(self, states, clean, layout):
        """Restored next items at every token; each is noised by a time step of its own. Each [N, d]."""
        if not self.config["twin"]:
            t = torch.randint(self.process.steps, clean.shape[:1], device=clean.device)
            noised = self.process.add_noise(clean, torch.randn_like(clean), t)
            states = self._guided(states, noised, self.step_embedding()[t])
        return self.denoiser(states.unsqueeze(1), layout, causal=True)[:, 0]

    # Generation

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        vectors = self.item_embedding(items)
        states = self._states(vectors, layout)
        if self.config["twin"]:
            x = self.denoiser.first_blocks(states.unsqueeze(1), layout, causal=True)
            return self.denoiser.final_block_at_last(x, layout)[:, 0]
        step_vectors, at_end = self.step_embedding(), states[layout.last]
        read = self._guided(states, vectors.roll(-1, 0), step_vectors[0])  # but for the last tokens
        restore = self._restore_ends(read, layout)

        def denoise(x, t, _):
            return restore(self._guided(at_end, x, step_vectors[t]))

        if self.noise is None:
            return self.chain.run(torch.zeros_like(at_end), denoise, None)
        distance = layout.length - 1 - layout.position  # to the latest item
        keys = history_keys(items, distance, layout.row, len(item_seq))
        return self.chain.run(self.noise(keys, START), denoise, lambda step: self.noise(keys, REVERSE, step))

    def _restore_ends(self, read, layout):
        """A function that restores the next items of the last tokens from their inputs: [B, d] -> [B, d].

        Args:
            read (torch.Tensor): [N, d] inputs of all other tokens.
            layout (PackedLayout): of the histories.
        """
        if self.config["sampler"] == "cached":
            return Past(self.denoiser, read, layout).end

        def from_the_start(ends):
            inputs = read.index_put((layout.last,), ends)
            return self.denoiser(inputs.unsqueeze(1), layout, causal=True)[layout.last, 0]

        return from_the_start

    # Reports

    def epoch_report(self):
        deviation, cosine = spread_of(self.item_embedding.weight[1:])
        return {"item std": deviation, "item cosine": cosine}

    def epoch_warning(self, report):
        collapse = collapse_of(report["item std"], report["item cosine"], self.deviation_at_start)
        return collapse and f"{collapse}: lower mse_weight, or start from pretrained_item_embedding"
