r"""DiffSBR
################################################

Reference:
    "Unleashing the Potential of Neighbors: Diffusion-based Latent Neighbor Generation for Session-based
    Recommendation." 2025.

A session is a point in the space of interests. Training sessions near it are retrieved and guide a diffusion model
that generates the neighbours which the data lack; a second diffusion model, guided by what the session's items look
like and are called, teaches the first by contrast. The session and its generated neighbours together are compared
with the items. Equation numbers are the paper's, whose formulas are not in its public text: they are reconstructed
(docs/diffsbr.md says how).
"""

import torch
from torch import nn

from recbole_diffusion.data.features import features_of
from recbole_diffusion.data.folds import graph_sessions
from recbole_diffusion.diffusion.keyed_noise import history_keys
from recbole_diffusion.diffusion.restoration import Restoration
from recbole_diffusion.diffusion.step_embedding import StepEmbedding
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import alignment_loss, info_nce
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.graph import SessionGraphs
from recbole_diffusion.layers.item_tables import PropagatedItems
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.retrieval import feedback_loss, session_scorer
from recbole_diffusion.layers.session_bank import SessionBank
from recbole_diffusion.layers.sessions import ConditionalDenoiser, SessionAttention
from recbole_diffusion.model.base import (
    DiffusionSequentialRecommender,
    configured_betas,
    require_even_width,
    require_prefixes,
)
from recbole_diffusion.processes import rows_of_all


class DiffSBR(PropagatedItems, DiffusionSequentialRecommender):
    """Diffusion-based latent neighbour generation for session-based recommendation.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffSBR.yaml``.
        dataset (SequenceDataset): the training part, whose sessions make the graph and the bank.

    Raises:
        UsageError: when the bank has too few sessions or the item features cannot be used.
    """

    other_parameter_name = ["training_sessions"]  # checkpoints keep them, so that a Recommender needs no data

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        self.training_sessions = dataset.sessions()
        self.leaks = config["graph_source"] == "all"
        graphs = SessionGraphs(self.n_items, config["graph_edges"], *graph_sessions(dataset, config["graph_source"]))
        needed_for = None if config["fusion"] == "contrast" else f"fusion: {config['fusion']}"  # not the default: asked for
        features = None if config["fusion"] == "none" else features_of(dataset, config, needed_for)
        self.fusion = config["fusion"] if features is not None else "none"
        self.looks_at_sessions = self.fusion == "late" or self.fusion != "none" and config["neighbors"] == "latent"

        self.init_ids(graphs, self.n_items, config)
        self.session = self._session_attention()
        self.generates, self.retrieves = config["neighbors"] == "latent", config["retrieval"]
        if self.retrieves:
            self.bank = self._session_bank_of(*self.training_sessions)
            self.scorer = session_scorer(config["scorer"], hidden, config["retriever_dropout"], config["tau"])
        if self.generates:
            self._init_diffusion()
        if self.fusion != "none":
            self._init_modality()
        self.balance = nn.Parameter(torch.zeros(()))  # lambda of Eq. 17 before the sigmoid
        self.fill_items(features)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_even_width(config)
        require_prefixes(config)
        if config["corruption_steps"] > config["diffusion_steps"]:
            raise UsageError(
                f"corruption_steps {config['corruption_steps']} is larger than diffusion_steps {config['diffusion_steps']}"
            )
        if config["neighbors"] == "observable" and not config["retrieval"]:
            raise UsageError("neighbors: observable are retrieved ones: leave retrieval at True")
        if config["neighbors"] == "observable" and config["fusion"] in ("early", "condition", "attention"):
            raise UsageError(f"fusion: {config['fusion']} is part of the generation: set neighbors: latent")
        if config["self_input"] == "restored" and config["fusion"] == "attention":
            raise UsageError("self_input: restored is the released code's, which has no fusion: attention: leave one out")
        configured_betas(config)

    # What is built

    def _session_bank_of(self, items, lengths, users):
        k = self.config["k_neighbors"]
        if k >= len(lengths):
            raise UsageError(f"k_neighbors {k} is not smaller than the bank, {len(lengths)} training sessions")
        return SessionBank(items, lengths, users, inputs_only=self.config["bank_sessions"] == "input")

    def _session_attention(self):
        return SessionAttention(self.config["hidden_size"], self.config["session_gate"], self.config["session_gate_bias"])

    def _init_diffusion(self):
        config, hidden = self.config, self.config["hidden_size"]
        self.restoration = Restoration(configured_betas(config), config, hidden)
        self.denoiser = self._denoiser()
        if not self.retrieves:
            self.no_neighbour = nn.Parameter(torch.randn(hidden))

    def _denoiser(self):
        hidden, steps = self.config["hidden_size"], self.config["diffusion_steps"]
        return ConditionalDenoiser(hidden, StepEmbedding(steps, hidden), self.config["denoiser_dropout"])

    def _init_modality(self):
        hidden = self.config["hidden_size"]
        self.init_looks(self.n_items, self.config)
        if self.looks_at_sessions:
            self.feature_session = self._session_attention()
        if self.generates and self.fusion in ("contrast", "attention"):
            self.self_denoiser = self._denoiser()
        if self.fusion == "attention":
            self.cross_modal = nn.MultiheadAttention(hidden, 1, batch_first=True)
        if self.fusion in ("early", "condition", "late"):
            self.merge = nn.Linear(hidden, hidden)

    # What stays the same between two changes of the weights

    def forget(self):
        super().forget()
        self._encoded_bank = None

    @torch.no_grad()
    def encoded_bank(self):
        """All training sessions, encoded without dropout; again every ``bank_refresh`` steps, once per evaluation."""
        bank = self._encoded_bank
        if bank is None or self.training and bank.uses == self.config["bank_refresh"] > 0:
            with self.without_dropout():
                self._encoded_bank = self.bank.encoded(self._session_encoder(self.item_vectors()), self.scorer)
            if self.training:
                self._tables = None  # the step needs tables with dropout and gradient
        self._encoded_bank.uses += 1
        return self._encoded_bank

    def _session_encoder(self, ids):
        """Function from packed items and their layout to sessions [B, d], with propagated ID vectors [V, d]."""
        return lambda items, layout: self.session(ids[items], layout)

    # Sessions and their neighbours (Eq. 4-7)

    def _represent(self, item_seq, item_seq_len, tables):
        """ID and modality vectors of sessions: [B, d] each, the second one None where it is not used."""
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        session = self.session(tables[0][items], layout)
        return session, self.feature_session(tables[1][items], layout) if self.looks_at_sessions else None

    def _retrieve(self, session, ids, user=None):
        """Training sessions nearest to some sessions, not of the same user.

        Args:
            session (torch.Tensor): [B, d].
            ids (torch.Tensor): [V, d] propagated ID vectors.
            user (torch.LongTensor, optional): [B] training users, whose own sessions they may not get.

        Returns:
            tuple: neighbours [B, k, d], which carry no gradient, and their similarities [B, k] (Eq. 6), which do.
        """
        bank = self.encoded_bank()
        own = None if user is None else self.bank.row_of_user[user]
        nearest = self.scorer.nearest(session, bank.index, self.config["k_neighbors"], own)
        if self.training:  # as the weights of this step see them, not those of the epoch's start
            neighbours = self.bank.vectors_of_each(nearest, self._session_encoder(ids))
        else:
            neighbours = bank.vectors[nearest]
        return neighbours, self.scorer.pairs(session, neighbours)

    def _guidance(self, session, look, ids, user=None):
        """Conditions of the denoiser [B, k, d] and the similarities [B, k]; the same vector for all without retrieval."""
        if self.retrieves:
            condition, similarity = self._retrieve(session, ids, user)
        else:
            condition, similarity = self.no_neighbour.expand(len(session), 1, -1), session.new_zeros(len(session), 1)
        if self.fusion == "condition":
            condition = condition + self.merge(look).unsqueeze(1)
        return condition, similarity

    def _fuse_early(self, session, look):
        """The session that is restored and recommends, with its modality under early fusion. [B, d]."""
        return session + self.merge(look) if self.fusion == "early" else session

    def _combine(self, session, look, latent):
        """s* (Eq. 17), with the modality under late fusion. [B, d]."""
        balance = self.balance.sigmoid()
        combined = balance * session + (1 - balance) * latent
        return combined + self.merge(look) if self.fusion == "late" else combined

    def _attend(self, latent, self_latent):
        """Cross-modal attention of the ablation AF: [B, d]."""
        pair = torch.stack([latent, self_latent], 1)
        return latent + self.cross_modal(latent.unsqueeze(1), pair, pair, need_weights=False)[0].squeeze(1)

    # Training (Eq. 8-20)

    def loss_inputs(self, interaction):
        return (*super().loss_inputs(interaction), interaction[self.USER_ID], self.graph_fold(interaction))

    def loss_parts(self, item_seq, item_seq_len, target, user, fold=None):
        tables = self.item_tables(fold)
        session, look = self._represent(item_seq, item_seq_len, tables)
        condition, similarity = self._guidance(session, look, tables[0], user)
        session, weight = self._fuse_early(session, look), similarity.softmax(-1)
        if self.generates:
            latent, parts = self._train_generation(session, look, condition, similarity, weight)
        else:
            latent, parts = (weight.unsqueeze(-1) * condition).sum(1), {}
        if self.fusion != "none" and self.config["alignment_weight"]:
            alignment = alignment_loss(*tables, self.config["tau"], self.config["alignment_items"])
            parts["alignment"] = self.config["alignment_weight"] * alignment
        combined = self._combine(session, look, latent)
        met = self.met_at_end(item_seq, item_seq_len)
        recommendation = linear_cross_entropy(combined, tables[0][1:], target - 1, met and met.from_column(1))[0]  # Eq. 18-19
        return {"recommendation": recommendation, **parts}

    def _train_generation(self, session, look, condition, similarity, weight):
        """Latent neighbours [B, d] from one random step each, and the losses of both diffusion models.

        The weighted form of Eq. 14, ``sum_j w_j L_j``, trains retriever and generator at once; it is written as
        two terms with the same gradient, so that the feedback can be left out (w/o FDRO).
        """
        config, lambda_1 = self.config, self.config["lambda_1"]
        clean = session.detach() if config["detach_target"] else session
        noised, t = self.restoration.noised(clean, condition.shape[1] if config["noise_per_copy"] else 1)  # [B, 1 or k, d]
        generated = self.denoiser(noised, t, self.denoiser.prepare(condition))  # [B, k, d]
        error = (clean.unsqueeze(1) - generated).square().mean(-1)  # [B, k] L_j (Eq. 12)
        latent = (weight.unsqueeze(-1) * generated).sum(1)
        parts = {"generation": lambda_1 * (weight.detach() * error).sum(1).mean()}
        if self.retrieves and config["feedback"] != "none":
            feedback = feedback_loss(similarity, weight, error.detach(), config["feedback"])
            parts["feedback"] = lambda_1 * feedback
        if self.fusion in ("contrast", "attention"):
            seen = generated if config["self_input"] == "restored" else noised
            restored = self.self_denoiser(seen, t, self.self_denoiser.prepare(look.unsqueeze(1)))
            parts["self_generation"] = lambda_1 * (clean.unsqueeze(1) - restored).square().mean()  # Eq. 15
            restored = restored.mean(1)
            if self.fusion == "contrast":
                candidates = rows_of_all(restored)
                parts["contrast"] = config["lambda_2"] * info_nce(latent, candidates, config["tau"])  # Eq. 16
            else:
                latent = self._attend(latent, restored)
        return latent, parts

    # Inference (Eq. 13, 17)

    def encode(self, item_seq, item_seq_len):
        tables = self.item_tables()
        session, look = self._represent(item_seq, item_seq_len, tables)
        condition, similarity = self._guidance(session, look, tables[0])
        session, weight = self._fuse_early(session, look), similarity.softmax(-1).unsqueeze(-1)
        if not self.generates:
            return self._combine(session, look, (weight * condition).sum(1))
        start = self._corrupt(session, item_seq, item_seq_len)
        latent = (weight * self.restoration.restored(self.denoiser, start.unsqueeze(1), condition)).sum(1)
        if self.fusion == "attention":
            latent = self._attend(latent, self.restoration.restored(self.self_denoiser, start, look))
        return self._combine(session, look, latent)

    def neighbors(self, item_seq, item_seq_len):
        """Sessions and the two kinds of neighbours, for pictures (section 5.4).

        Args:
            item_seq (torch.LongTensor): [B, L] padded on the right.
            item_seq_len (torch.LongTensor): [B].

        Returns:
            tuple: sessions [B, d], retrieved (observable) neighbours [B, k, d] and generated (latent) ones [B, k, d].

        Raises:
            UsageError: when the model retrieves or generates none.
        """
        if not (self.retrieves and self.generates):
            raise UsageError("this DiffSBR has only one kind of neighbours: train it with retrieval and neighbors: latent")
        tables = self.item_tables()
        session, look = self._represent(item_seq, item_seq_len, tables)
        observable, condition = self._retrieve(session, tables[0])[0], self._guidance(session, look, tables[0])[0]
        session = self._fuse_early(session, look)
        start = self._corrupt(session, item_seq, item_seq_len)
        return session, observable, self.restoration.restored(self.denoiser, start.unsqueeze(1), condition)

    def _corrupt(self, clean, item_seq, item_seq_len):
        """The sessions after T' steps of noise, which belongs to the session and not to the batch. [B, d]."""
        layout = PackedLayout(item_seq_len)
        keys = history_keys(layout.pack(item_seq), layout.position, layout.row, len(clean))
        return self.restoration.corrupted(clean, keys)
