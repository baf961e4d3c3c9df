"""Padded forms of models that restore the next item from noise: DiffuRec, DiffuRecSys, DiQDiff and ADRec."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from recbole_diffusion.layers.approximator import FILL, CrossAttention
from recbole_diffusion.serving.padded import PaddedScorer, attend, through_sasrec


class Rows(NamedTuple):
    """Padded histories as the approximator sees them."""

    items: torch.Tensor  # [B, L]
    visible: torch.Tensor  # [B, L] bool, what queries look at
    idle: torch.Tensor  # [B, L] bool, queries that look at everything alike
    from_end: torch.Tensor  # [B, L] or [1, L] place counted so that the last item has the last one
    last: torch.Tensor  # [B] place of the last item


class PaddedDiffuRec(PaddedScorer):
    """One step of DiffuRec or DiffuRecSys without noise."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        model = self.model
        rows = self._rows(item_seq, item_seq_len)
        h = model.item_embedding(rows.items)
        if model.config["use_position"]:
            h = h + model.position_embedding(rows.from_end)
        h = model.embedding_norm(h)
        h, guide = self._known(h, rows), self._guide().expand_as(h)
        blocks = model.approximator.blocks if model.approximator.chained else model.approximator.blocks[-1:]
        if blocks[0].cross_attention is None:
            h = h + guide
        for block in blocks:
            h = self._block(block, h, guide, rows)
        return model.approximator.norm(self.at(h, rows.last))

    def _known(self, embedded, rows):
        """What is told of the history, [B, L, hidden]."""
        return embedded

    def _guide(self):
        """What is told of the noised item: [hidden]."""
        return self.model.config["lambda_mean"] * self.model.step_embedding()[0]

    def _rows(self, item_seq, item_seq_len):
        place, empty = torch.arange(self.width), self.width - item_seq_len[:, None]
        if self.model.config["attention_mask"] == "keys":
            real = place < item_seq_len[:, None]
            from_end = (place + empty).clamp(max=self.width - 1)
            return Rows(item_seq, real, torch.zeros_like(real), from_end, item_seq_len - 1)
        idle = place < empty  # padding on the left is one more item, as in the released code
        items = item_seq.gather(1, (place - empty).clamp(min=0)).masked_fill(idle, 0)
        last = torch.full_like(item_seq_len, self.width - 1)
        return Rows(items, torch.ones_like(idle), idle, place[None], last)

    def _block(self, block, h, guide, rows):
        if block.cross_attention is not None:
            h = h + self._look_at_guide(block.cross_attention, block.cross_norm(h), guide, rows)
        q, k, v = block.attention.qkv(block.attention_norm(h)).chunk(3, -1)
        h = h + self._attend(block.attention, q, k, v, rows)
        return h + block.feed_forward(block.feed_forward_norm(h))

    def _look_at_guide(self, layer, history, guide, rows):
        key, value = layer.key_value(history).chunk(2, -1)
        if isinstance(layer, CrossAttention):
            return self._attend(layer, layer.query(guide), key, value, rows)
        q, k, v = (x.unflatten(-1, (layer.n_heads, -1)) for x in (layer.query(guide), key, value))
        padding = ~rows.visible[:, :, None, None]
        if layer.key_softmax == "positions":
            k = k.masked_fill(padding, float("-inf")).softmax(1)
        else:
            k = k.softmax(2).masked_fill(padding, 0)
        summary = torch.einsum("blhd,blhe->bhde", k, v)
        mixed = torch.einsum("blhd,bhde->blhe", q.softmax(-1), summary).flatten(2)
        return layer.dense(mixed.masked_fill(rows.idle[:, :, None], FILL) if layer.fill_padding else mixed)

    def _attend(self, layer, query, key, value, rows):
        query = query.masked_fill(rows.idle[:, :, None], 0)
        return attend(layer, query, key, value, rows.visible[:, None, None, :])


class PaddedDiQDiff(PaddedDiffuRec):
    """The same of DiQDiff, with the code that suits the history best."""

    def _known(self, embedded, rows):
        config, codebook = self.model.config, self.model.codebook
        known = config["lambda_history"] * embedded
        if codebook is None:
            return known
        place = rows.last[:, None] - torch.arange(self.width)  # from the end: of the items, and where such a place is
        backwards = embedded.gather(1, place.clamp(min=0)[..., None].expand_as(embedded))
        backwards = backwards.masked_fill(place[..., None] < 0, 0).flatten(1)
        label = F.linear(backwards, codebook.weight.flatten(0, 1).t(), codebook.bias).argmax(-1)
        code = codebook.codes()[label].gather(1, place.clamp(min=0)[..., None].expand_as(embedded))
        return known + config["lambda_code"] * code

    def _guide(self):
        return torch.zeros(self.model.config["hidden_size"]) if self.model.config["twin"] else super()._guide()


class PaddedADRec(PaddedScorer):
    """ADRec without noise, all reverse steps from zeros; the denoiser reads one token in each, as in the packed model."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        model, place, last = self.model, torch.arange(self.width), item_seq_len - 1
        distance = place[:, None] - place
        states = through_sasrec(model.encoder, model.embedding_norm(model.item_embedding(item_seq)), distance)
        if model.config["twin"]:
            return self.at(through_sasrec(model.denoiser, states, distance), last)
        step_vectors, at_end = model.step_embedding(), self.at(states, last)
        following = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], 1)
        past = self._read(model._guided(states, model.item_embedding(following), step_vectors[0]), distance)
        itself = torch.ones_like(item_seq_len[:, None], dtype=torch.bool)
        seen = torch.cat([place < last[:, None], itself], 1)[:, None, None, :]

        def denoise(x, t, _):
            return self._restore(model._guided(at_end, x, step_vectors[t]), past, seen)

        return model.chain.run(torch.zeros_like(at_end), denoise, lambda step: torch.zeros_like(at_end))

    def _read(self, x, distance):
        """Keys and values [B, L, hidden] that every layer of the denoiser has for the history. x: [B, L, hidden]."""
        denoiser, past = self.model.denoiser, []
        for attention, feed_forward in zip(denoiser.attention, denoiser.feed_forward):
            query, *key_value = attention.qkv(x).chunk(3, -1)
            past.append(key_value)
            x = feed_forward(attention.LayerNorm(x + attend(attention, query, *key_value, distance >= 0)))
        return past

    def _restore(self, x, past, seen):
        """x: [B, hidden] at the last items; seen: [B, 1, 1, L + 1] bool, of the past and the item itself."""
        x, denoiser = x.unsqueeze(1), self.model.denoiser
        for attention, feed_forward, (key, value) in zip(denoiser.attention, denoiser.feed_forward, past):
            query, own_key, own_value = attention.qkv(x).chunk(3, -1)
            keys, values = torch.cat([key, own_key], 1), torch.cat([value, own_value], 1)
            x = feed_forward(attention.LayerNorm(x + attend(attention, query, keys, values, seen)))
        return x.squeeze(1)
