r"""SimDiffRec
################################################

Reference:
    Jinkyeong Choi, Yejin Noh, Donghyeon Park. "Similarity-Guided Diffusion for Contrastive Sequential
    Recommendation." 2025.

A causal Transformer recommends; a diffusion model beside it proposes, for training only, which positions of a
history to replace and by what. The noise that it removes is the mean of each item's nearest neighbours.
Equation numbers are the paper's; where it leaves something open, ``properties/model/SimDiffRec.yaml`` says what
each setting chooses.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.diffusion.guided_noise import GuidedNoiseProcess
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import info_nce
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.item_lists import ItemLists
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.layers.sampled_softmax import draw_negatives, log_weights, sampled_logits
from recbole_diffusion.layers.top_items import top_items
from recbole_diffusion.model.transformer_recommender import TransformerRecommender
from recbole_diffusion.processes import rows_of_all


class SimDiffRec(TransformerRecommender):
    """Similarity-guided diffusion for contrastive sequential recommendation.

    With ``alpha: 0`` and ``beta: 0`` nothing of the diffusion model exists and what is left is SASRec, or the encoder that
    is chosen instead of its Transformer.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/SimDiffRec.yaml``.
        dataset (SequenceDataset): for the number of items.

    Raises:
        UsageError: when ``k_noise`` or ``k_sample`` exceeds the number of items.
    """

    learns_rows = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.alpha, self.beta = config["alpha"], config["beta"]
        if self.alpha or self.beta:  # a denoiser of its own is the paper's, whatever recommends
            self._check_catalogue()
            shared, longest = self.recommender.transformer if config["share_denoiser"] else None, self.max_seq_length
            self.denoiser = PositionedTransformer(config, longest, "sasrec", config["denoiser_layers"], shared)
            self.time_embedding = nn.Embedding(config["diffusion_steps"], config["hidden_size"])
            self.process = GuidedNoiseProcess(
                config["diffusion_steps"], config["beta_start"], config["beta_end"], config["noise_param"]
            )
        self.neighbours, self.neighbours_age = None, 0
        self.lists, self.lists_age = None, 0
        self.initialize_normal(config["initializer_range"])

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if config["official_compat"] and (config["confidence_t"] != "train" or config["reverse_steps"] != 1):
            raise UsageError("official_compat restores in the training step: set confidence_t: train, reverse_steps: 1")
        sampled, lists = config["rounding_loss"] == "sampled", config["neighbour_search"] == "lists"
        if config["official_compat"] and (sampled or lists):
            raise UsageError("official_compat is exact as the released code: set rounding_loss: full, neighbour_search: exact")
        if config["sparse_table"] and (config["alpha"] or config["beta"]) and not sampled:
            raise UsageError("sparse_table needs a loss L_d that does not move the whole table: set rounding_loss: sampled")
        if lists and config["noise_refresh"] > 1:
            raise UsageError("noise_refresh above 1 searches for all items at once: leave it at 1 with neighbour_search: lists")

    def _check_catalogue(self):
        config, others = self.config, self.n_items - 2
        if config["noise"] == "similarity" and config["k_noise"] > others:
            raise UsageError(f"k_noise {config['k_noise']} is larger than the {others} other items of the data: lower it")
        ranked = others if config["exclude_original"] else others + 1
        if self.alpha and config["hard_negative"] and not config["official_compat"] and config["k_sample"] > ranked:
            raise UsageError(f"k_sample {config['k_sample']} is larger than the {ranked} items it is a rank of")

    def loss_weights(self, interaction):
        rows, tokens = len(interaction), int(interaction[self.ITEM_SEQ_LEN].sum())
        return {
            "recommendation": rows if self.config["ce_positions"] == "last" else self.taught_tokens(interaction),
            "diffusion": rows if self.config["official_compat"] else tokens,  # with padding, all rows are of one length
            "contrast": rows,
        }

    def training_state(self):
        lists = self.lists and self.lists.state()
        neighbours = {"neighbours": self.neighbours, "neighbours_age": self.neighbours_age}
        return {**neighbours, "lists": lists, "lists_age": self.lists_age}

    def load_training_state(self, state):
        self.neighbours, self.neighbours_age = state["neighbours"], state["neighbours_age"]
        kept = state.get("lists")  # checkpoints from before have none
        self.lists, self.lists_age = kept and ItemLists(**kept), state.get("lists_age", 0)

    # Training (Eq. 18)

    def loss_parts(self, item_seq, item_seq_len, target):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        parts = {}
        if self.alpha or self.beta:
            diffusion_loss, confidence, restored = self._diffuse(items, layout)
            parts["diffusion"] = self.beta * diffusion_loss
        if self.alpha:
            hidden, ends = self._encode_views(items, layout, confidence, restored)
            parts["contrast"] = self.alpha * self._contrast(ends, target)
        else:
            hidden = self.hidden(items, layout)
        hidden = hidden[layout.last] if self.config["ce_positions"] == "last" else hidden
        return {"recommendation": self.recommendation_loss(hidden, items, layout, target), **parts}

    # Diffusion (Eq. 6-13)

    def _diffuse(self, items, layout):
        """Noise the histories, restore them, and say how sure the restoration is.

        Returns:
            tuple: L_d [], confidence of every token [N] (Eq. 16), restored vectors [N, d]; only L_d has a gradient.
        """
        if self.config["official_compat"]:
            return self._diffuse_with_padding(items, layout)
        clean, noise = self.item_embedding(items), self._noise(items)
        t = self._random_steps(layout)
        restored = self._denoise(self.process.add_noise(clean, noise, t), t, layout)
        loss, confidence = self._restoration_loss(restored, clean, items, first_item=1)
        if self.alpha and (self.config["confidence_t"] == "T" or self.config["reverse_steps"] > 1):  # the contrast reads them
            restored, confidence = self._reverse(clean, noise, t, items, layout)
        return loss, confidence, restored.detach()

    def _noise(self, items):
        """Mean of the most similar items (Eq. 6-7), once per distinct item of the batch. items: [N] -> [N, d]."""
        table = self.item_embedding.weight
        if self.config["noise"] == "gaussian":
            return torch.randn(len(items), table.shape[1], device=items.device)
        distinct, inverse = items.unique(return_inverse=True)
        noise = F.embedding_bag(self._similar_items(distinct), table, mode="mean", sparse=self.item_embedding.sparse)
        return (noise.detach() if self.config["detach_noise"] else noise)[inverse]

    @torch.no_grad()
    def _similar_items(self, items):
        """The ``k_noise`` nearest other items. items: [U] -> [U, k_noise]."""
        table, every, unit = self.item_embedding.weight, self.config["noise_refresh"], self.config["sim_metric"] == "cosine"
        if self.config["neighbour_search"] == "lists":
            return self._search(F.normalize(table[items], dim=-1) if unit else table[items], self.config["k_noise"], items, unit)
        if unit:
            table = F.normalize(table, dim=-1)
        if every == 1:
            return top_items(table[items], table, self.config["k_noise"], excluded=items)
        if self.neighbours is None or self.neighbours_age >= every:
            everything = torch.arange(self.n_items, device=items.device)
            self.neighbours = top_items(table, table, self.config["k_noise"], excluded=everything)
            self.neighbours_age = 0
        self.neighbours_age += 1
        return self.neighbours[items]

    @torch.no_grad()
    def _search(self, queries, k, excluded=None, unit=False):
        """The k items nearest to some vectors, by ``neighbour_search``. queries: [M, d] -> [M, k], best first."""
        config, table = self.config, self.item_embedding.weight
        if config["neighbour_search"] == "exact":
            return top_items(queries, table, k, excluded)
        if self.lists is None or self.lists_age >= config["search_refresh"]:
            self.lists, self.lists_age = ItemLists.of(table, config["search_lists"], config["sim_metric"] == "cosine"), 0
        self.lists_age += 1
        return self.lists.top_items(queries, table, k, excluded, config["search_probes"], unit)

    def _random_steps(self, layout):
        """One random step per sequence, an unbiased sample of the sum in Eq. 13: [N]."""
        return torch.randint(self.process.steps, layout.last.shape, device=layout.last.device)[layout.row]

    def _denoise(self, noised, t, layout):
        """f_theta: restored vectors of noised ones. noised: [N, d]; t: [N] -> [N, d]."""
        return self.denoiser((noised + self.time_embedding(t)).unsqueeze(1), layout, causal=False)[:, 0]

    def _restoration_loss(self, restored, clean, items, first_item):
        """L_d (Eq. 13): rounding to the right item (Eq. 12) and distance to the clean vector."""
        rounding, confidence = self._round(restored, items, first_item)
        return rounding + self.config["mse_weight"] * F.mse_loss(restored, clean), confidence

    def _round(self, restored, items, first_item=1):
        """Rounding to the right item: loss [], and the confidence [N], estimated from drawn items with ``sampled``."""
        config, table = self.config, self.item_embedding.weight
        if config["rounding_loss"] == "full":
            loss, logsumexp, maximum = linear_cross_entropy(restored, table[first_item:], items - first_item)
            return loss, (maximum - logsumexp).exp()
        negatives = draw_negatives(items, self.n_items, config["n_negatives"])
        weights = log_weights("importance", items, negatives, self.n_items)
        logits = sampled_logits(restored, table, items, negatives, None, weights, self.item_embedding.sparse)
        logsumexp, own = logits.logsumexp(1), logits.detach() - F.pad(weights, (1, 0))
        return (logsumexp - logits[:, 0]).mean(), (own.amax(1) - logsumexp.detach()).exp()

    @torch.no_grad()
    def _reverse(self, clean, noise, t, items, layout):
        """Restore in ``reverse_steps`` deterministic jumps from ``confidence_t`` on. Vectors [N, d], confidence [N]."""
        if self.config["confidence_t"] == "T":
            t = torch.full_like(t, self.process.steps - 1)
        restored, jumps = clean, self.config["reverse_steps"]
        for left in range(jumps, 0, -1):
            now = t * left // jumps
            state = self.process.add_noise(restored, noise, now)
            restored = self._denoise(state, now, layout)
        return restored, self._round(restored, items)[1]

    # Augmentation and contrast (Eq. 14-17)

    def _encode_views(self, items, layout, confidence, restored):
        """Encode the histories and their augmentations.

        Returns:
            tuple: states of the original [N, d], last states of the original, positive and, with ``hard_negative``,
            negative view [B, views, d].
        """
        if self.config["official_compat"]:
            return self._encode_random_views(items, layout, confidence)
        views = [items, *self._augment(items, layout, confidence, restored)]
        embeddings = self.item_embedding(torch.stack(views, 1))
        hidden, ends = self.recommender.at_last(embeddings, layout, causal=True, full_views=1)
        return hidden[:, 0], ends

    @torch.no_grad()
    def _augment(self, items, layout, confidence, restored):
        """Replace the most confident positions by the best restored item, and by the one of rank ``k_sample``."""
        chosen = self._most_confident(layout, confidence, (self.config["aug_ratio"] * layout.length).long().clamp(min=1))
        excluded = items[chosen] if self.config["exclude_original"] else None
        ranks = [0, self.config["k_sample"] - 1] if self.config["hard_negative"] else [0]
        ranked = self._search(restored[chosen], ranks[-1] + 1, excluded)
        return [items.index_put((chosen,), ranked[:, rank]) for rank in ranks]

    def _most_confident(self, layout, confidence, count):
        """Tokens among the ``count`` most confident ones of their sequence. count: [N] -> [n] token numbers."""
        if self.config["positions"] == "random":
            confidence = torch.rand_like(confidence)
        order = confidence.argsort(descending=True)
        order = order[layout.group[order].argsort(stable=True)]  # sequence by sequence, most confident first
        return order[layout.position < count]  # count is the same for all tokens of a sequence

    def _contrast(self, ends, target):
        """L_cl (Eq. 17). ends: [B, views, d]; candidates are the views of all users of the batch."""
        views, hidden_pairs = rows_of_all(ends[:, 1:]), None
        if self.config["mask_same_target"]:
            same = target[:, None] == rows_of_all(target)
            hidden_pairs = same.fill_diagonal_(False).repeat(1, views.shape[1])
        candidates = views.transpose(0, 1).flatten(0, 1)
        return info_nce(ends[:, 0], candidates, self.config["tau"], hidden_pairs)

    # What the released code does instead (official_compat)

    def _diffuse_with_padding(self, items, layout):
        """Restore left-padded rows of full length, where padding is one more item to be predicted."""
        width = self.max_seq_length
        padded_layout = PackedLayout.with_padding(len(layout.last), width, items.device)
        cells = layout.row * width + width - layout.length + layout.position
        padded = items.new_zeros(padded_layout.n_tokens).index_put((cells,), items)
        padded_layout.blocks[0].real = (padded > 0).unflatten(0, (-1, width))
        clean, t = self.item_embedding(padded), self._random_steps(padded_layout)
        restored = self._denoise(self.process.add_noise(clean, self._noise(padded), t), t, padded_layout)
        loss, confidence = self._restoration_loss(restored, clean, padded, first_item=0)
        return loss, confidence[cells], restored.detach()[cells]

    def _encode_random_views(self, items, layout, confidence):
        """Views with random items at ``aug_ratio * L`` positions, whatever the length: shorter histories grow."""
        width = int(self.config["aug_ratio"] * self.max_seq_length)
        lengths = layout.length[layout.last]
        chosen = self._most_confident(layout, confidence, torch.full_like(layout.length, width))
        grown = PackedLayout(lengths.clamp(min=width))
        shift = (width - lengths).clamp(min=0)
        views = self.random_items((grown.n_tokens, 2 if self.config["hard_negative"] else 1), items.device)
        kept = torch.ones_like(items, dtype=torch.bool).index_fill(0, chosen, False)
        first = grown.last - grown.length[grown.last] + 1  # [B] first token of each grown row
        places = first[layout.row] + shift[layout.row] + layout.position
        views[places[kept]] = items[kept].unsqueeze(1)
        hidden = self.hidden(items, layout)
        view_ends = self.recommender.at_last(self.item_embedding(views), grown, causal=True)[1]
        return hidden, torch.cat([hidden[layout.last].unsqueeze(1), view_ends], 1)
