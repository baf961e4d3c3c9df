"""Trained models as ONNX files: histories of item numbers in, scores of all items out.

The packed layers make tensors whose shapes depend on the data, which does not export. Here the same weights work on
padded rows; tests/serving/test_export.py holds both to the same numbers.

Models whose user vector is a function of the history are exported as they recommend, DreamRec and PreferDiff with the
mean of what they generate, which is how they recommend by default. DiffuRec, DiffuRecSys and DiQDiff start from noise,
which an exported graph cannot look up by history; exported is one step of theirs without noise: x = 0 at t = 0, lambda at
its mean and the best code, a single forward pass of the approximator. The twin of DiQDiff has no noise and is whole. Of ADRec
all steps are exported, from zeros and without noise, which is how it recommends with ``sampling_noise: False`` or as its
twin.
"""

import io
import json
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion import __version__
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import same_file, written_whole
from recbole_diffusion.layers.approximator import FILL, CrossAttention
from recbole_diffusion.layers.cosine import unit
from recbole_diffusion.layers.hstu import HSTU
from recbole_diffusion.layers.ligr import LiGR
from recbole_diffusion.layers.transformer import PackedTransformer
from recbole_diffusion.layers.wasserstein import as_query
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.versions import below

FORMATS = ("onnx",)
OLDEST_TORCH = "2.6"  # the first whose exporter writes one file


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
        scores = self.encode(item_seq, item_seq_len) @ self.items().t()
        if getattr(self.model, "repetition", None) is not None:
            scores = scores + self.met(item_seq, item_seq_len, scores)
        return torch.cat([torch.full_like(scores[:, :1], float("-inf")), scores[:, 1:]], 1)

    def items(self):
        """Vectors of all items: [V, d]."""
        return self.model.item_embedding.weight

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
        encoder, place = self.model.recommender, torch.arange(self.width)
        position = place[None]
        if encoder.align_end:
            position = (place + self.width - item_seq_len[:, None]).clamp(max=self.width - 1)
        x = encoder.LayerNorm(self.model.item_embedding(item_seq) + encoder.position_embedding(position))
        distance = place[:, None] - place  # at least 0 where a key is seen: padding stands behind the items
        x = PADDED[type(encoder.transformer)](encoder.transformer, x, distance)
        return self.at(x, item_seq_len - 1)


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


PADDED = {PackedTransformer: through_sasrec, LiGR: through_ligr, HSTU: through_hstu}


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
class PaddedSTOSA(PaddedScorer):
    """The Gaussians of STOSA, whose layers take padded rows as well."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, 2 * hidden + 1]."""
        points = self.model.states(item_seq, item_seq_len[:, None], torch.arange(self.width)[None])
        return as_query(self.at(points, item_seq_len - 1))

    def items(self):
        """[V, 2 * hidden + 1]."""
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


class PaddedAlready(PaddedScorer):
    """A model of RecBole, which works on padded rows by itself."""

    def encode(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, hidden]."""
        return self.model(item_seq, item_seq_len)


EXPORTABLE = {
    "SimDiffRec": PaddedEncoder,
    "CaDiRec": PaddedEncoder,
    "CL4SRec": PaddedEncoder,
    "DuoRec": PaddedEncoder,
    "MCLRec": PaddedEncoder,
    "DiffuRec": PaddedDiffuRec,
    "DiffuRecSys": PaddedDiffuRec,
    "DiQDiff": PaddedDiQDiff,
    "STOSA": PaddedSTOSA,
    "AttenMixer": PaddedAttenMixer,
    "ECLSR": PaddedEncoder,
    "DreamRec": PaddedDreamRec,
    "PreferDiff": PaddedDreamRec,
    "ADRec": PaddedADRec,
    "SASRec": PaddedAlready,
    "GRU4Rec": PaddedAlready,
}


def padded_scorer(model):
    """The exportable form of a trained model, on the same weights.

    Raises:
        UsageError: when there is none.
    """
    name = type(model).__name__
    if name not in EXPORTABLE:
        raise UsageError(f"{name} cannot be exported, {', '.join(EXPORTABLE)} can")
    return EXPORTABLE[name](model).eval()


def export_onnx(recommender, path):
    """Write a model as one ONNX file.

    Inputs are ``item_seq`` [batch, MAX_ITEM_LIST_LENGTH] and ``item_seq_len`` [batch], both int64; the output is
    ``scores`` [batch, items], float32. The metadata hold ``item_tokens``, a JSON list of the token of every number.

    Args:
        recommender (Recommender): the model, on the CPU.
        path (str or Path): the file.

    Raises:
        UsageError: when the model has no exportable form, packages are missing or the file cannot be written.
    """
    scorer = padded_scorer(recommender.network)
    _require_packages()
    example = torch.ones(2, scorer.width, dtype=torch.long), torch.tensor([1, scorer.width])
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own use of PyTorch
        program = torch.onnx.export(
            scorer,
            example,
            input_names=["item_seq", "item_seq_len"],
            output_names=["scores"],
            dynamic_shapes=({0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    facts = {
        "recbole_diffusion": __version__,
        "model": recommender.config["model"],
        "item_tokens": json.dumps(recommender.tokens),
    }
    program.model.metadata_props.update(facts)
    content = io.BytesIO()
    program.save(content, external_data=False)
    with written_whole(path, binary=True) as file:
        file.write(content.getvalue())


def _require_packages():
    if below(torch.__version__, OLDEST_TORCH):
        raise UsageError(f"export needs PyTorch {OLDEST_TORCH} or later, this is {torch.__version__}")
    for name in ("onnx", "onnxscript"):
        try:
            __import__(name)
        except ImportError:
            raise UsageError(f"export needs the package {name}: pip install onnx onnxruntime onnxscript") from None


# ------------------------------------------------------------------------------------------- command line


def main(args):
    """Run ``recbole-diffusion export``; returns 0."""
    if args.format not in FORMATS:
        raise UsageError(f"format must be {', '.join(FORMATS)}, got '{args.format}'")
    if same_file(args.checkpoint, args.output):
        raise UsageError(f"checkpoint and output are the same file, '{args.checkpoint}'")
    recommender = Recommender.load(args.checkpoint, "cpu", args.trust_checkpoint)
    export_onnx(recommender, args.output)
    print(
        f"{recommender.config['model']} -> {args.output}: item_seq [batch, {recommender.max_length}], "
        f"item_seq_len [batch] -> scores [batch, {len(recommender.tokens)}]"
    )
    return 0
