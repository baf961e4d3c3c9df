r"""MSGAT
################################################

Reference:
    Qiao, Zhou, Wen, Zhang, Gao. "Bi-channel Multiple Sparse Graph Attention Networks for Session-based Recommendation."
    CIKM 2023.

Two channels look at a session, with attention whose weights are sparse. Its own: a gated graph, self-attention with an
empty token that becomes the target, and a readout that leaves items out which do not go with it. That of others:
training sessions that share items, weighted by how much they overlap. Then sessions of similar intent are added, and
items are ranked by their cosine. Neighbours are training sessions; ``docs/msgat.md`` says why those of the released
code, which are the other sessions of the batch, are not, and which setting does the same.
"""

import torch
from torch import nn

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cosine import CosineHead, unit
from recbole_diffusion.layers.gated_graph import GatedGraph
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.overlap import SessionSets
from recbole_diffusion.layers.overlap_bank import OverlapBank
from recbole_diffusion.layers.packed import FineLayout, pad_block
from recbole_diffusion.layers.retrieval import DirectionScorer
from recbole_diffusion.layers.session_graph import Edges, item_nodes, rank_by_number, since_met, transitions
from recbole_diffusion.layers.sparse_attention import (
    NeighbourAttention,
    SparseReadout,
    SparseSelfAttention,
    mean_by_overlap,
    similar_in_batch,
    weighted,
)
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes


class MSGAT(KeepsWhatWeightsGive, DiffusionSequentialRecommender):
    """Multiple sparse graph attention networks in two channels.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MSGAT.yaml``.
        dataset (SequenceDataset): the training part, whose sessions are the neighbours.

    Raises:
        UsageError: when there are too few training sessions.
    """

    other_parameter_name = ["training_sessions"]  # checkpoints keep them, so that a Recommender needs no data

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden = config["hidden_size"]
        width = 2 * hidden  # of an item with its position
        self.item_embedding = nn.Embedding(self.n_items, hidden)
        self.position_embedding = nn.Embedding(self.max_seq_length + 2, hidden)  # padding's, and one for a target
        self.norm = nn.LayerNorm(width)
        self.graph = GatedGraph(width, config["gnn_steps"])
        self.attention = SparseSelfAttention(width, config["n_heads"], config["attn_dropout_prob"])
        self.readout = SparseReadout(width, hidden)
        self.session_dropout = Dropout(config["hidden_dropout_prob"])
        if config["inter_attention"]:
            self.neighbourhood = NeighbourAttention(width, hidden)
        self.neighbor_dropout = Dropout(config["neighbor_dropout"])
        self.head = CosineHead(config["scale"])
        self.training_sessions = dataset.sessions()
        self.leaks = config["neighbor_pool"] == "batch"
        if self.leaks:
            self.logger.warning(
                "neighbor_pool: batch mixes a session with others of its batch, which may hold its target: LEAKS test "
                "labels, scores depend on the batch, results are marked"
            )
        else:
            self.bank, self.scorer = self._bank_of(*self.training_sessions), DirectionScorer()
        self._initialize()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)

    def _bank_of(self, items, lengths, users):
        config, k = self.config, self.config["k_neighbors"]
        if k >= len(lengths):
            raise UsageError(f"k_neighbors {k} is not smaller than the bank, {len(lengths)} training sessions")
        inputs_only = config["bank_sessions"] == "input"
        return OverlapBank(items, lengths, users, self.n_items, config["n_candidates"], inputs_only)

    @torch.no_grad()
    def _initialize(self):
        """Weights from U(-1 / sqrt(d), 1 / sqrt(d)), as in the released code, but for the norms."""
        bound = self.config["hidden_size"] ** -0.5
        for name, parameter in self.named_parameters():
            if "norm." not in name and not name.startswith("repetition."):
                nn.init.uniform_(parameter, -bound, bound)
        self.item_embedding.weight[0] = 0

    # The channel of the session itself

    def _session(self, items, layout):
        """Sessions of length one [B, d] and their targets [B, 2 d]."""
        nodes = item_nodes(items, layout)
        known = nodes.items[:, 0]
        by_time = self.config["position"] == "time"
        place = 1 + (since_met(nodes, layout) if by_time else rank_by_number(nodes))
        x = self._with_place(self.item_embedding.weight[known], place)
        h = self.graph(x, transitions(nodes, layout))[nodes.at]
        nothing = None if self.config["attention_mask"] else self._padding()
        sessions, targets = zip(*(self._read(h, block, nothing) for block in layout.blocks))
        order = layout.group[layout.last]
        return unit(torch.cat(sessions)[order]), torch.cat(targets)[order]

    def _with_place(self, items, place):
        """[M, d], [M] -> [M, 2 d]."""
        return self.norm(torch.cat([items, self.position_embedding(place)], 1))

    def _padding(self):
        """What stands for padding, if it is not masked: a node without edges, [1, 2 d]."""
        nowhere = torch.zeros(1, dtype=torch.long, device=self.item_embedding.weight.device)
        return self.graph(self._with_place(self.item_embedding.weight[:1], nowhere), Edges(nowhere[:0], nowhere[:0]))

    def _read(self, h, block, nothing):
        """h: [N, 2 d] -> sessions [b, d] and targets [b, 2 d] of a block."""
        h, real = pad_block(h, block), block.real
        last = h[torch.arange(len(h), device=h.device), real.sum(1) - 1]
        seen, seen_as_real = h, real
        if nothing is not None:  # padding up to the longest session there may be is seen like items
            rest = nothing.expand(len(h), max(0, self.max_seq_length - h.shape[1]), -1)
            seen = torch.cat([torch.where(real.unsqueeze(-1), h, nothing), rest], 1)
            seen_as_real = torch.ones_like(seen[..., 0], dtype=torch.bool)
        x, target = self.attention(seen, seen_as_real)
        read = self.readout(h, last, x[:, : h.shape[1]], target, real)
        return self.session_dropout(nn.functional.selu(read)), target

    # The channel of sessions with the same items

    def _neighbourhood(self, target, itself, others, overlap):
        """Sessions that share items, as one vector of length one: [B, 2 d], [B, d], [B, m, d], [B, m] -> [B, d]."""
        if self.config["inter_attention"]:
            mixed = self.neighbourhood(target, itself, others, overlap)
        else:
            mixed = mean_by_overlap(itself, others, overlap)
        return unit(nn.functional.selu(mixed))

    def _around(self, target, item_seq, own):
        """The neighbourhood of sessions that ask: [B, 2 d], [B, L] -> [B, d]. own: [B] what each may not get, or None."""
        rows, table, most = torch.arange(len(target), device=target.device), self.item_embedding.weight, len(target)
        itself = sets = SessionSets.of_rows(item_seq, self.n_items)
        mode = "sum" if self.leaks else "mean"
        if self.leaks:  # the released code adds items up, without gradient
            table, own = table.detach(), rows
        else:
            sets, most = self.bank.sets, self.config["n_candidates"]
        found = sets.nearest(*itself.pairs(rows), len(rows), most, own)
        distinct, number = found.session.unique(return_inverse=True)
        others = sets.means(table, distinct, mode)[number]
        return self._neighbourhood(target, itself.means(table, rows, mode), others, found.similarity)

    # Sessions of similar intent

    def forget(self):
        self._encoded_bank = None

    @torch.no_grad()
    def encoded_bank(self):
        """Intents of all training sessions, without dropout; again every ``bank_refresh`` steps, once per evaluation."""
        bank = self._encoded_bank
        if bank is None or self.training and bank.uses == self.config["bank_refresh"] > 0:
            with self.without_dropout():
                bank = self.bank.intents(self._session, self._neighbourhood, self.item_embedding.weight)
            self._encoded_bank = bank
        bank.uses += 1
        return bank

    def _similar(self, intent, own):
        """Mean of each intent and the nearest ones of the bank, by their cosines: [B, d] -> [B, d]."""
        k, temperature = self.config["k_neighbors"], self.config["neighbor_temperature"]
        if self.leaks:
            return similar_in_batch(intent, 1 + k)
        if not k:
            return intent
        bank = self.encoded_bank()
        nearest = self.scorer.nearest(intent, bank.index, k, own)
        others = bank.vectors[nearest]
        if own is not None:
            others = self.bank.seen_by(own, nearest, bank, self._neighbourhood)
        cosines = (unit(others) @ unit(intent).unsqueeze(-1)).squeeze(-1)
        weights = nn.functional.pad(cosines / temperature, (1, 0), value=1 / temperature).softmax(-1)
        return weighted(weights, intent, others)

    # Recommending and training

    def encode(self, item_seq, item_seq_len, user=None):
        """User vectors [B, d]. user: [B] training users, whose own sessions are no neighbours of theirs."""
        layout = FineLayout(item_seq_len)
        own = None if user is None or self.leaks else self.bank.row_of_user[user]
        session, target = self._session(layout.pack(item_seq), layout)
        intent = session + self._around(target, item_seq, own)
        return self.head.users(session + self.neighbor_dropout(self._similar(intent, own)))

    def item_vectors(self):
        return self.head.items(self.item_embedding.weight)

    def loss_inputs(self, interaction):
        return (*super().loss_inputs(interaction), interaction[self.USER_ID])

    def loss_parts(self, item_seq, item_seq_len, target, user):
        users, met = self.encode(item_seq, item_seq_len, user), self.met_at_end(item_seq, item_seq_len)
        return {"recommendation": self.head.loss(users, self.item_vectors(), target, met)}
