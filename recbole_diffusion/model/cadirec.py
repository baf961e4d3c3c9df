r"""CaDiRec
################################################

Reference:
    Ziqiang Cui, Haolun Wu, Bowei He, Ji Cheng, Chen Ma. "Context Matters: Enhancing Sequential Recommendation with
    Context-aware Diffusion-based Contrastive Learning." CIKM 2024.

A causal Transformer recommends. For training only, a diffusion model restores a few random positions of a history while it
sees the others, and what it proposes for them makes two views of the history, which are contrasted. What is open or done
otherwise by the released code is a setting in ``properties/model/CaDiRec.yaml``.
"""

import torch
from torch import nn

from recbole_diffusion.data.later import later_items
from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cross_entropy import weighted_cross_entropy
from recbole_diffusion.layers.disentangled import named_denoiser
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.top_items import best_without, top_items
from recbole_diffusion.model.base import configured_betas, require_even_width
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company
from recbole_diffusion.processes import all_have_rows


class CaDiRec(TransformerRecommender):
    """Context-aware diffusion-based contrastive learning.

    With ``alpha: 0`` and ``beta: 0`` what is left is SASRec, with SASRec's random numbers. With ``twin: True`` the masked
    positions are restored from nothing instead of noise, in one step from a clean context, as BERT does it.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/CaDiRec.yaml``.
        dataset (SequenceDataset): for the number of items.

    Raises UsageError when ``k_candidates`` exceeds the number of items.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.alpha, self.beta, self.leaks = config["alpha"], config["beta"], config["official_negatives"]
        self.first_item = 0 if config["padding_in_softmax"] else 1
        self.n_best = config["k_candidates"] + config["exclude_original"] if self.alpha else 0
        self.time_embedding, self.item_bias, self.steps_taken = None, None, 0
        if self.leaks:
            self.logger.warning("official_negatives LEAK the test targets into training; results are marked")
            self.register_buffer("later", later_items(dataset), persistent=False)
        if self.alpha or self.beta:
            self._init_diffusion(config)
        self.initialize()

    def _init_diffusion(self, config):
        if self.n_best > self.n_items - 1:
            raise UsageError(f"k_candidates {config['k_candidates']} of {self.n_items - 1} items are too many: lower it")
        self.denoiser = named_denoiser(config["denoiser"], config, self.max_seq_length)
        if not config["twin"]:
            betas = configured_betas(config)
            self.process, self.time_embedding = GaussianProcess(betas), StepEmbedding(len(betas), config["hidden_size"])
            self.chain = reverse_chain(betas, config["generation_steps"], "ddim")
        if config["item_bias"] and self.beta:
            self.item_bias = nn.Parameter(torch.zeros(self.n_items))

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        steps, taken, diffuses = config["diffusion_steps"], config["generation_steps"], not config["twin"]
        if config["alpha"]:
            require_company(config)
        if config["official_negatives"] and config["loss_type"] != "BCE":
            raise UsageError("official_negatives are those of loss_type: BCE")
        if not diffuses and taken > 1:
            raise UsageError("twin: True has no diffusion to take generation_steps with: leave them at 1")
        if (config["alpha"] or config["beta"]) and diffuses:
            require_even_width(config)
            configured_betas(config)
            if taken > steps:
                raise UsageError(f"generation_steps {taken} is larger than the {steps} diffusion_steps")

    def training_state(self):
        return {"steps_taken": self.steps_taken}

    def load_training_state(self, state):
        self.steps_taken = state["steps_taken"]

    # Training

    def loss_inputs(self, interaction):
        later = (self.later[interaction[self.USER_ID]],) if self.leaks else ()
        return *super().loss_inputs(interaction), *later

    def loss_parts(self, item_seq, item_seq_len, target, later=None):
        layout = PackedLayout(item_seq_len)
        items, parts = layout.pack(item_seq), {}
        if self.alpha or self.beta:
            masked = self._mask(layout)
            diffusion, candidates = self._diffuse(items, layout, masked)
            parts["diffusion"] = self.beta * diffusion
        if self.alpha:
            hidden, ends = self._encode_views(items, layout, self._replace(items, masked, candidates))
            warm = self.steps_taken >= self.config["warm_up_steps"]
            parts["contrast"] = self.alpha * warm * self.contrast(*ends.unbind(1), target)
        else:
            hidden = self.hidden(items, layout)
        self.steps_taken += all_have_rows()  # or the process without rows would stay behind
        if self.config["ce_positions"] == "last":
            hidden = hidden[layout.last]
        return {"recommendation": self.recommendation_loss(hidden, items, layout, target, later), **parts}

    # Diffusion

    def _mask(self, layout):
        """Positions to restore, each with probability ``mask_ratio``: bool [N]."""
        draws = torch.rand(layout.n_tokens, device=layout.row.device)
        if self.config["min_masked"]:  # the smallest draw of a history always falls under the ratio
            least = draws.new_ones(len(layout.last)).scatter_reduce(0, layout.row, draws, "amin")
            draws = draws.masked_fill(draws == least[layout.row], 0)
        return draws < self.config["mask_ratio"]

    def _diffuse(self, items, layout, masked):
        """Restore the M masked positions, in the histories that have some; they alone meet the catalogue.

        Returns:
            tuple: loss [], mean over all B histories, of which those without a masked position count as 0; the best
            items for each masked position [M, k_candidates].
        """
        count = torch.zeros_like(layout.last).index_add(0, layout.group, masked.long())
        touched = count > 0
        if not touched.any():  # one history goes through the network all the same: it has a gradient in every step
            touched[0] = True
        kept = touched[layout.group]
        some = PackedLayout(layout.length[layout.ends][touched])  # sorted by length as they are, so the order stays
        shares = (1 / (count * len(count)))[layout.group][masked]
        return self._restore(items[kept], some, masked[kept], shares)

    def _restore(self, items, layout, masked, shares):
        """The same for histories that all count. shares: [M] of each masked position in the loss."""
        state, t = self._noised(items, layout, masked)
        wanted, restored = items[masked], self._denoise(state, t, layout)[masked]
        first, (queries, table) = self.first_item, self._scored(restored)
        loss, best = weighted_cross_entropy(queries, table[first:], wanted - first, shares, self.n_best)
        best = best + first
        if self.config["mse_weight"]:
            distance = (restored - self.item_embedding(wanted)).square().mean(-1)
            loss = loss + self.config["mse_weight"] * (shares * distance).sum()
        if self.n_best and self.config["generation_steps"] > 1:
            with torch.no_grad():
                best = top_items(*self._scored(self._generate(state, layout, masked)), self.n_best)
        return loss, best_without(best, wanted) if self.config["exclude_original"] else best

    def _scored(self, restored):
        """Vectors whose products score items: those of restored items [M, d or d + 1], those of items [V, d or d + 1]."""
        table = self.item_embedding.weight
        if self.item_bias is None:
            return restored, table
        one = restored.new_ones(len(restored), 1)
        return torch.cat([restored, one], 1), torch.cat([table, self.item_bias.unsqueeze(1)], 1)

    def _noised(self, items, layout, masked):
        """What the denoiser sees: states [N, d] and their time steps [N], None without diffusion."""
        clean = self.item_embedding(items)
        if self.time_embedding is None:
            return clean.masked_fill(masked.unsqueeze(1), 0), None
        t = torch.randint(self.process.steps, layout.last.shape, device=items.device)[layout.row]
        start = clean + self.process.noise[0] * torch.randn_like(clean)  # x_0 of an item, as in DiffuSeq
        noise = torch.randn(int(masked.sum()), clean.shape[1], device=items.device, dtype=clean.dtype)
        context = start if self.config["context_noise"] else clean
        return context.index_put((masked,), self.process.add_noise(start[masked], noise, t[masked])), t

    def _denoise(self, state, t, layout):
        """Restored vectors [N, d] of states [N, d]; every position sees all of its history."""
        if t is not None:
            state = state + self.time_embedding()[t]
        return self.denoiser(state, layout)

    def _generate(self, state, layout, masked):
        """Vectors of the masked positions [M, d], generated from pure noise in ``generation_steps`` jumps."""

        def denoise(x, t, _):
            return self._denoise(state.index_put((masked,), x), torch.full_like(layout.row, t), layout)[masked].to(x.dtype)

        return self.chain.run(torch.randn_like(state[masked]), denoise, None)

    def _replace(self, items, masked, candidates):
        """Two views: at every masked position a random candidate. items: [N]; candidates: [M, k] -> [N, 2]."""
        choice = torch.randint(candidates.shape[1], (len(candidates), 2), device=items.device)
        return items.unsqueeze(1).repeat(1, 2).index_put((masked,), candidates.gather(1, choice))

    def _encode_views(self, items, layout, views):
        """States of the history at every token [N, d], and of its views at their ends [B, 2, d].

        The contrast does not move the items: their vectors in the views carry no gradient.
        """
        table = self.item_embedding.weight
        embeddings = torch.cat([table[items].unsqueeze(1), table.detach()[views]], 1)
        hidden, ends = self.recommender.at_last(embeddings, layout, causal=True, full_views=1)
        return hidden[:, 0], ends[:, 1:]

