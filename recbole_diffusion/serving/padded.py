"""Trained models on padded rows, on the same weights.

The packed layers make tensors whose shapes depend on the data, which does not export. Here every history is a row of fixed
width; ``tests/serving/test_export.py`` holds both to the same numbers.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.hstu import HSTU
from recbole_diffusion.layers.ligr import LiGR
from recbole_diffusion.layers.macaron import Macaron
from recbole_diffusion.layers.transformer import PackedTransformer
from recbole_diffusion.layers.wasserstein import as_query


def attend(layer, query, key, value, visible):
    """Multi-head attention with the weights of a packed layer.

    Args:
        layer (MultiHeadAttention): number of heads, scale and output projection.
        query, key, value (torch.Tensor): [B, L, hidden].
        visible (torch.Tensor): bool, broadcast over [B, heads, query, key].

    Returns:
        torch.Tensor: [B, L, hidden].
    """
    q, k, v = (x.unflatten(-1, (layer.n_heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = ((q * layer.scale) @ k.transpose(-2, -1)).masked_fill(~visible, float("-inf"))
    return layer.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class PaddedScorer(nn.Module):
    """Scores of histories on padded rows; subclasses give the vector of a history."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.width = model.max_seq_length

    def forward(self, item_seq, item_seq_len):
        """Score all items.

        Args:
            item_seq (torch.LongTensor): [B, L] item numbers, oldest first, zeros on the right; L is
                ``MAX_ITEM_LIST_LENGTH``.
            item_seq_len (torch.LongTensor): [B] number of items, at least 1.

        Returns:
            torch.Tensor: [B, V]; minus infinity for padding, item number 0.
        """
        scores = self.scores(self.encode(item_seq, item_seq_len))
        if getattr(self.model, "repetition", None) is not None:
            scores = scores + self.met(item_seq, item_seq_len, scores)
        return torch.cat([torch.full_like(scores[:, :1], float("-inf")), scores[:, 1:]], 1)

    def items(self):
        """Vectors of all items: [V, d]."""
        return self.model.item_embedding.weight

    def scores(self, users):
        """[B, d] from ``encode`` -> [B, V]."""
        return users @ self.items().t()

    def met(self, item_seq, item_seq_len, scores):
        """What ``repetition: learned`` adds to the items of the histories: [B, V]."""
        repetition = self.model.repetition
        distance = (item_seq_len[:, None] - torch.arange(self.width)).clamp(min=1)  # padding stands in column 0 only
        never = torch.full(scores.shape, self.width + 1, dtype=torch.long)
        nearest = never.scatter_reduce(1, item_seq, distance, "amin")
        group = torch.cat([repetition.group, repetition.group.new_tensor([len(repetition.amount)])])
        return torch.cat([repetition.amounts, repetition.amount.new_zeros(1)])[group[nearest]]

    def at(self, x, place):
        """x: [B, L, hidden]; place: [B] -> [B, hidden]."""
        return x.gather(1, place[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)


class PaddedEncoder(PaddedScorer):
    """The causal encoder of the models that stand on TransformerRecommender."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        return self.at(self.states(self.model.recommender, item_seq, item_seq_len), item_seq_len - 1)

    def states(self, encoder, item_seq, item_seq_len):
        """States of a PositionedTransformer at every item: [B, L, hidden]."""
        place = torch.arange(self.width)
        position = place[None]
        if encoder.align_end:
            position = (place + self.width - item_seq_len[:, None]).clamp(max=self.width - 1)
        x = encoder.LayerNorm(self.model.item_embedding(item_seq) + encoder.position_embedding(position))
        return self.through(encoder.transformer, x)

    def through(self, stack, x):
        """Blocks of an encoder, causal: [B, L, hidden] -> [B, L, hidden]."""
        place = torch.arange(self.width)
        distance = place[:, None] - place  # at least 0 where a key is seen: padding stands behind the items
        return PADDED[type(stack)](stack, x, distance)


class PaddedVSAN(PaddedEncoder):
    """VSAN with the means of its latent vectors, or what stands for them."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        model = self.model
        state = self.states(model.recommender, item_seq, item_seq_len)
        log_variance = None
        if model.log_variance is not None:
            of_spread = self.states(model.spread_network, item_seq, item_seq_len) if model.spread_network else state
            log_variance = model.log_variance(of_spread)
        latent = model.latent(model.mean(state), log_variance)
        return self.at(self.through(model.generation, latent), item_seq_len - 1)


class PaddedDreamRec(PaddedEncoder):
    """DreamRec or PreferDiff: the same encoder and a linear map, the mean of the whole chain."""

    def __init__(self, model):
        super().__init__(model)
        with torch.no_grad():
            zero, eye = torch.zeros(1, model.config["hidden_size"]), torch.eye(model.config["hidden_size"])
            shift = model.generate(zero)
            gain = model.generate(eye) - shift
        self.register_buffer("shift", shift)
        self.register_buffer("gain", gain)

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        return super().encode(item_seq, item_seq_len) @ self.gain + self.shift


def through_sasrec(stack, x, distance):
    """Causal, padded form of PackedTransformer. x: [B, L, hidden]; distance: [L, L] place of query less place of key."""
    for attention, feed_forward in zip(stack.attention, stack.feed_forward):
        x = attention.LayerNorm(x + attend(attention, *attention.qkv(x).chunk(3, -1), distance >= 0))
        x = feed_forward(x)
    return x


def through_ligr(stack, x, distance):
    """The same of LiGR."""
    for block in stack.blocks:
        normed = block.attention_residual.norm(x)
        change = attend(block.attention, *block.attention.qkv(normed).chunk(3, -1), distance >= 0)
        x = block.fed_forward(block.attention_residual(x, normed, change))
    return stack.norm(x)


def through_hstu(stack, x, distance):
    """The same of HSTU."""
    for block in stack.blocks:
        u, *qkv = F.silu(block.uqkv(block.norm(x))).chunk(4, -1)
        q, k, v = (part.unflatten(-1, (block.n_heads, -1)).transpose(1, 2) for part in qkv)
        weights = block.weights(q @ k.transpose(-2, -1), distance).masked_fill(distance < 0, 0)
        x = x + block.changed(u, (weights @ v).transpose(1, 2).flatten(2))
    return stack.norm(x)


def through_macaron(stack, x, distance):
    """The same of Macaron."""
    for block in stack.blocks:
        x = block.before(x)
        normed = block.norm(x)
        seen = attend(block.attention, block.query(normed), *block.key_value(x).chunk(2, -1), distance >= 0)
        x = block.after(normed + seen)
    return stack.norm(x)


PADDED = {PackedTransformer: through_sasrec, LiGR: through_ligr, HSTU: through_hstu, Macaron: through_macaron}


class PaddedSTOSA(PaddedScorer):
    """The Gaussians of STOSA, whose layers take padded rows as well."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, 2 * hidden + 1]."""
        points = self.model.states(item_seq, item_seq_len[:, None], torch.arange(self.width)[None])
        return as_query(self.at(points, item_seq_len - 1))

    def items(self):
        """[V, 2 * hidden + 1]."""
        return self.model.item_vectors()


class PaddedACVAE(PaddedScorer):
    """ACVAE without noise: its GRU over padded rows, and the latest states."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden + 1]."""
        posterior = self.model.posterior
        states, size = posterior.gru(self.model.item_embedding(item_seq.t()))[0].transpose(0, 1), posterior.kernel_size
        place = item_seq_len[:, None] - torch.arange(size, 0, -1)
        late = states.gather(1, place.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        a = F.softplus(posterior.first(self._noised(late)))
        seen = self._noised(a) * (place >= 0).unsqueeze(-1)
        d = F.softplus(posterior.second(F.softplus(posterior.convolution(seen.flatten(1)))))
        return self.model.users(posterior.out(late[:, -1] + d))

    def _noised(self, u):
        layer = self.model.posterior.noisy_layer
        return u if layer is None else layer(u, torch.zeros_like(u))

    def items(self):
        """[V, hidden + 1]."""
        return self.model.item_vectors()


class PaddedAttenMixer(PaddedScorer):
    """Atten-Mixer, whose layers take padded rows; its items have length one in the file already."""

    def __init__(self, model):
        super().__init__(model)
        self.register_buffer("directions", unit(model.item_embedding.weight.detach()))

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        real = torch.arange(self.width) < item_seq_len[:, None]
        x = self.directions[item_seq].masked_fill(~real.unsqueeze(-1), 0)
        return self.model.head.users(self.model.mixer(x, real))

    def items(self):
        """[V, hidden]."""
        return self.directions


class PaddedDIMO(PaddedScorer):
    """DIMO, whose items are propagated already in the file."""

    def __init__(self, model):
        super().__init__(model)
        with torch.no_grad():
            self.register_buffer("table", model.item_vectors())

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden] or, with a text, [B, 2 * hidden]."""
        model, x = self.model, self.table[item_seq]
        real = (torch.arange(self.width) < item_seq_len[:, None])[:, None]
        causes = (model.ids, model.texts) if model.has_text else (model.ids,)
        parts = x.split(model.config["hidden_size"], -1)
        return torch.cat([self._read(c.attention, part, item_seq_len - 1, real) for c, part in zip(causes, parts)], 1)

    def _read(self, layer, x, last, real):
        """x: [B, L, hidden]; last: [B]; real: [B, 1, L] -> [B, hidden]."""
        query = layer.query(self.at(x, last)) * layer.scale
        q, k, v = (rows.unflatten(-1, (layer.n_heads, -1)) for rows in (query, layer.key(x), layer.value(x)))
        weights = torch.einsum("bhd,blhd->bhl", q, k).masked_fill(~real, float("-inf")).softmax(-1)
        return torch.einsum("bhl,blhd->bhd", weights, v).flatten(1)

    def items(self):
        """[V, hidden] or, with a text, [V, 2 * hidden]."""
        return self.table


class PaddedMMSBR(PaddedScorer):
    """MMSBR, whose items are made of their modalities already in the file."""

    def __init__(self, model):
        super().__init__(model)
        with torch.no_grad():
            self.register_buffer("table", model.item_vectors())

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> as wide as the items."""
        model, x = self.model, self.table[item_seq, : self.model.config["hidden_size"]]
        real = (torch.arange(self.width) < item_seq_len[:, None]).unsqueeze(-1)
        mean = (x * real).sum(1) / item_seq_len[:, None]
        layer = model.interest
        weight = layer.weight((layer.last(mean)[:, None] + layer.item(x)).sigmoid())
        interest = (weight * x * real).sum(1)
        if model.price_factor == "none":
            return interest
        level = model.price_level[item_seq]
        category = None if model.category is None else model.category[item_seq]
        mixed = model.prices.attention(*model.prices.entering(level, category), None)
        last = item_seq_len - 1
        own = level.gather(1, last[:, None]).squeeze(1)
        return model.with_price(interest, model.prices.leaving(own, [self.at(part, last) for part in mixed]))

    def scores(self, users):
        """[B, w] -> [B, V]."""
        return self.model.logits(users, self.table)


class PaddedAlready(PaddedScorer):
    """A model of RecBole, which works on padded rows by itself."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        return self.model(item_seq, item_seq_len)
