"""DiffSBR written plainly: a dense graph, one session and one neighbour at a time, every step of the chain spelled out.

It reads the weights and settings of a model, so that both compute the same numbers from the same parameters, and is
given the training sessions as lists. This is what the fast version is checked against (tests/model/test_diffsbr_plain.py).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.retrieval import CosineScorer


def adjacency(sessions, n_items, edges):
    """D^-1 A, counted pair by pair: [V, V]."""
    counts = torch.zeros(n_items, n_items)
    for items in sessions:
        for place, item in enumerate(items):
            others = items[place + 1 : place + 2] if edges == "transitions" else items[:place] + items[place + 1 :]
            for other in others:
                counts[item, other] += float(item != other)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def propagate(layer, graph, table):
    """Eq. 2-3. graph: [V, V]; table: [V, d] -> [V, d]."""
    layers = [table]
    for number in range(layer.n_layers):
        if layer.form == "residual":
            layers.append(layers[-1] + graph @ layers[-1])
        else:
            layers.append(F.normalize(graph @ layers[-1] @ layer.weights[number].weight.t(), dim=-1))
    return layers[-1] if layer.form == "residual" else sum(layers) / len(layers)


def session_vector(layer, items):
    """Eq. 4-5. items: [n, d] of one session -> [d]."""
    return sum(layer.weight((layer.last(items[-1]) + layer.item(item)).sigmoid()) * item for item in items)


def similarity(scorer, session, other):
    """Eq. 6, or the product of two towers. session, other: [d] -> []."""
    if isinstance(scorer, CosineScorer):
        return F.cosine_similarity(scorer.tower(session), scorer.tower(other), dim=0) / scorer.temperature
    if hasattr(scorer, "tower"):
        return scorer.tower(session) @ scorer.tower(other)
    first = torch.cat([scorer.query.weight, scorer.session.weight], 1)
    hidden = (first @ torch.cat([session, other]) + scorer.query.bias).relu()
    return scorer.output(hidden).squeeze(0)


def time_vector(embedding, t, steps, raw):
    """d_t: sines and cosines of the step, of a thousand or as it is, through a small network. t: int -> [d]."""
    half = embedding.network[0].in_features // 2
    angles = [(t if raw else 1000 / steps * t) * 10000 ** (-number / half) for number in range(half)]
    return embedding.network(torch.tensor([*map(math.cos, angles), *map(math.sin, angles)]))


def restore(network, x, t, condition, steps, raw=False):
    """Eq. 10: x_0 predicted from x_t, of T steps. x, condition: [d]; t: int -> [d]."""
    first = torch.cat([network.state.weight, network.time.weight, network.condition.weight], 1)
    joined = torch.cat([x, time_vector(network.step_embedding, t, steps, raw), condition])
    return network.output((first @ joined + network.state.bias).tanh())


def attend(layer, latent, self_latent):
    """Cross-modal attention with one head. latent, self_latent: [d] -> [d]."""
    query, key, value = layer.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = layer.in_proj_bias.chunk(3)
    pair = torch.stack([latent, self_latent])
    scores = (pair @ key.t() + key_bias) @ (query @ latent + query_bias) / len(latent) ** 0.5
    return latent + layer.out_proj(scores.softmax(0) @ (pair @ value.t() + value_bias))


def contrast(anchor, candidates, positive, tau):
    """InfoNCE of one anchor [d], whose positive is a row of the candidates [M, d]: []."""
    cosines = F.cosine_similarity(anchor.unsqueeze(0), candidates) / tau
    return cosines.logsumexp(0) - cosines[positive]


def mean(values):
    return sum(values) / len(values)


def ranking(rows):
    """Neighbours of a session in the order of their errors: [] mean over all ordered pairs."""
    margins = []
    for row in rows:
        for a, error in enumerate(row.errors.tolist()):
            worse = [b for b, other in enumerate(row.errors.tolist()) if error < other]
            margins += [F.softplus(row.similarity[b] - row.similarity[a]) for b in worse]
    return mean(margins)


@dataclass
class Row:
    """What a step of training found for one session."""

    session: torch.Tensor  # [d]
    look: torch.Tensor  # [d] or None
    similarity: torch.Tensor  # [k]
    weight: torch.Tensor  # [k]
    latent: torch.Tensor = None  # [d]
    errors: torch.Tensor = None  # [k]
    self_latent: torch.Tensor = None  # [d]
    self_error: torch.Tensor = None  # []


class PlainDiffSBR:
    """The objective and the inference of a model.

    Args:
        model (DiffSBR): whose weights and settings are used.
        sessions (dict[int, list[int]]): the training sessions: user -> items.
        betas (torch.Tensor): [T] variances.
        own (set[int]): users whose sessions the graph lacks, those of the fold of a batch.
    """

    def __init__(self, model, sessions, betas, own=frozenset()):
        self.model, self.config = model, model.config
        self.betas, self.alpha_bar = betas.tolist(), torch.cumprod(1 - betas, 0).tolist()
        self.fusion = "none" if self.config["item_features"] == "none" else self.config["fusion"]
        self.generates = self.config["neighbors"] == "latent"

        others = [items for user, items in sessions.items() if user not in own]
        whole, graph = (adjacency(kept, model.n_items, self.config["graph_edges"]) for kept in (sessions.values(), others))
        self.ids = propagate(model.propagation, graph, model.item_embedding.weight)
        self.looks = None
        if self.fusion != "none":
            self.looks = propagate(model.feature_propagation, graph, model.feature_embedding.weight)
        end = -1 if self.config["bank_sessions"] == "input" else None
        shown = {user: items[:end] for user, items in sessions.items()}
        self.bank = {user: session_vector(model.session, self.ids[items]).detach() for user, items in shown.items()}
        ids = propagate(model.propagation, whole, model.item_embedding.weight)  # the search is in the graph of all
        self.searched = {user: session_vector(model.session, ids[items]).detach() for user, items in shown.items()}

    # Sessions and neighbours

    def represent(self, items):
        """s and s_mo, where it is used: [d] each."""
        session = session_vector(self.model.session, self.ids[items])
        used = self.fusion == "late" or (self.fusion != "none" and self.generates)
        return session, session_vector(self.model.feature_session, self.looks[items]) if used else None

    def retrieve(self, session, own):
        """The most similar training sessions but the own one: vectors [k, d] and similarities [k]."""
        scorer, others = self.model.scorer, [user for user in self.searched if user != own]
        others.sort(key=lambda user: -similarity(scorer, session, self.searched[user]).item())
        best = [self.bank[user] for user in others[: self.config["k_neighbors"]]]
        return torch.stack(best), torch.stack([similarity(scorer, session, vector) for vector in best])

    def guide(self, session, look, own=None):
        """Conditions [k, d] and similarities [k]."""
        if self.config["retrieval"]:
            conditions, similarities = self.retrieve(session, own)
        else:
            conditions, similarities = self.model.no_neighbour.unsqueeze(0), torch.zeros(1)
        if self.fusion == "condition" and self.generates:
            conditions = conditions + self.model.merge(look)
        return conditions, similarities

    def enrich(self, session, look):
        """Early fusion."""
        return session + self.model.merge(look) if self.fusion == "early" and self.generates else session

    def combine(self, session, look, latent):
        """s* (Eq. 17)."""
        balance = torch.sigmoid(self.model.balance)
        combined = balance * session + (1 - balance) * latent
        return combined + self.model.merge(look) if self.fusion == "late" else combined

    def noised(self, clean, t, noise):
        """Eq. 8-9: x_t."""
        return self.alpha_bar[t] ** 0.5 * clean + (1 - self.alpha_bar[t]) ** 0.5 * noise

    # Training

    def loss_parts(self, histories, targets, users, t, noise, anchors):
        """The terms of Eq. 20.

        Args:
            histories (list[list[int]]): items of B sessions.
            targets, users (list[int]): [B].
            t (list[int]): [B] time steps.
            noise (torch.Tensor): [B, n, d], where n is one, or one for each neighbour.
            anchors (list[int]): items whose alignment counts.
        """
        rows = [self.train_row(*row) for row in zip(histories, users, t, noise)]
        losses = [self.recommendation(row, target) for row, target in zip(rows, targets)]
        parts = {"recommendation": mean(losses)}
        if self.generates:
            parts.update(self.diffusion_parts(rows))
        if self.fusion != "none":
            tables = F.normalize(self.ids[1:], dim=-1), F.normalize(self.looks[1:], dim=-1)  # without padding
            losses = [contrast(tables[0][item - 1], tables[1], item - 1, self.config["tau"]) for item in anchors]
            parts["alignment"] = self.config["alignment_weight"] * mean(losses)
        return parts

    def train_row(self, items, user, t, noise):
        """One session, its neighbours and what one random step makes of them."""
        session, look = self.represent(items)
        conditions, similarities = self.guide(session, look, user)
        row = Row(self.enrich(session, look), look, similarities, similarities.softmax(0))
        if not self.generates:
            row.latent = row.weight @ conditions
            return row
        clean = row.session.detach() if self.config["detach_target"] else row.session
        steps, noised = len(self.betas), [self.noised(clean, t, one) for one in noise]
        copies = noised if self.config["noise_per_copy"] else noised * len(conditions)
        generated = torch.stack([restore(self.model.denoiser, x, t, one, steps) for x, one in zip(copies, conditions)])
        row.latent = row.weight @ generated
        row.errors = torch.stack([((clean - one) ** 2).mean() for one in generated])  # Eq. 12
        if self.fusion in ("contrast", "attention"):
            seen = generated if self.config["self_input"] == "restored" else noised
            restored = [restore(self.model.self_denoiser, x, t, look, steps) for x in seen]
            row.self_latent = mean(restored)
            row.self_error = mean([((clean - one) ** 2).mean() for one in restored])  # Eq. 15
        if self.fusion == "attention":
            row.latent = attend(self.model.cross_modal, row.latent, row.self_latent)
        return row

    def recommendation(self, row, target):
        """Eq. 18-19: cross-entropy over all real items."""
        logits = self.ids[1:] @ self.combine(row.session, row.look, row.latent)
        return logits.logsumexp(0) - logits[target - 1]

    def diffusion_parts(self, rows):
        """The terms of Eq. 14-16."""
        lambda_1, lambda_2, tau = (self.config[key] for key in ("lambda_1", "lambda_2", "tau"))
        parts = {"generation": lambda_1 * mean([row.weight.detach() @ row.errors for row in rows])}
        if self.config["retrieval"] and self.config["feedback"] == "weighted":
            parts["feedback"] = lambda_1 * mean([row.weight @ row.errors.detach() for row in rows])
        if self.config["retrieval"] and self.config["feedback"] == "ranking":
            parts["feedback"] = lambda_1 * ranking(rows)
        if self.fusion in ("contrast", "attention"):
            parts["self_generation"] = lambda_1 * mean([row.self_error for row in rows])
        if self.fusion == "contrast":
            candidates = torch.stack([row.self_latent for row in rows])
            losses = [contrast(row.latent, candidates, number, tau) for number, row in enumerate(rows)]
            parts["contrast"] = lambda_2 * mean(losses)
        return parts

    # Inference

    def encode(self, items, noise):
        """s* of a session that is noised for T' steps and restored. items: list[int]; noise: [d] -> [d]."""
        session, look = self.represent(items)
        conditions, similarities = self.guide(session, look)
        session, weight = self.enrich(session, look), similarities.softmax(0)
        if not self.generates:
            return self.combine(session, look, weight @ conditions)
        steps = self.config["corruption_steps"]
        start = self.noised(session, steps - 1, noise) if steps else session
        latent = weight @ torch.stack([self.reverse(self.model.denoiser, start, one) for one in conditions])
        if self.fusion == "attention":
            latent = attend(self.model.cross_modal, latent, self.reverse(self.model.self_denoiser, start, look))
        return self.combine(session, look, latent)

    def reverse(self, network, x, condition):
        """Eq. 11-13: the mean of the posterior at every step, without its variance. x, condition: [d] -> [d]."""
        for t in reversed(range(self.config["corruption_steps"] or self.config["diffusion_steps"])):
            before, now, beta = self.alpha_bar[t - 1] if t else 1.0, self.alpha_bar[t], self.betas[t]
            raw = self.config["inference_times"] == "raw"
            clean = restore(network, x, t, condition, len(self.betas), raw)
            x = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - now)
        return x

    def scores(self, items, noise):
        """Scores of all items: [V]."""
        return self.ids @ self.encode(items, noise)
