r"""MMSBR
################################################

Reference:
    Xiaokun Zhang, Bo Xu, Fenglong Ma, Chenliang Li, Liang Yang, Hongfei Lin. "Beyond Co-occurrence: Multi-modal
    Session-based Recommendation." TKDE 36(4), 2024.

An item is what it is called, what it looks like and what it costs. Pivots of every item look at its text and its images in
turn and become its vector; prices are Gaussians, and how far a price is from what the session pays counts against an item.
Whatever of these a data set lacks is left out. ``docs/mmsbr.md`` says what its released code does instead, and which
setting does the same.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.data.features import KINDS, features_of_kind, how_to_make
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import alignment_loss, hardest_contrast
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.modal_items import ModalItems
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.price_gaussians import PriceGaussians
from recbole_diffusion.layers.sessions import SessionAttention, mean_within
from recbole_diffusion.layers.transformer import DropoutSwitch
from recbole_diffusion.layers.wasserstein import as_column, as_key, as_query, as_row
from recbole_diffusion.model.base import DiffusionSequentialRecommender, require_prefixes

MODALITIES = ("text", "images")
N_HARDEST = 100  # items that each is told from under con_reduction: sum, as in the released code


class MMSBR(KeepsWhatWeightsGive, DiffusionSequentialRecommender):
    """Multi-modal session-based recommendation.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/MMSBR.yaml``.
        dataset (SequenceDataset): for the number of items and what is known of them.

    Raises:
        UsageError: when features, prices or categories cannot be used, or a setting needs some that there are not.

    Attributes:
        modalities (list[str]): those of text and images that there are.
        price_factor (str): the setting, or ``none`` without prices.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, heads = config["hidden_size"], config["n_heads"]
        features = self._find_features(dataset)
        self.modalities = [kind for kind in MODALITIES if kind in features]
        self.item_embedding = nn.Embedding(self.n_items, config["n_tokens"] * hidden)  # the pivots, side by side
        self.features = nn.ModuleDict({kind: nn.Embedding(*vectors.shape) for kind, vectors in features.items()})
        sizes = config["n_rounds"], config["n_tokens"], heads, hidden
        dropouts = config["modality_dropout"], config["hidden_dropout_prob"]
        self.items = ModalItems([features[kind].shape[1] for kind in self.modalities], *sizes, *dropouts)
        self.interest = SessionAttention(hidden, "scalar")
        self.pseudo_maps = nn.ModuleDict(self._imagined(features))
        self.price_factor = self._find_prices(dataset)
        if self.price_factor != "none":
            sizes = (1 + int(kept.max()) if kept is not None else 0 for kept in (self.price_level, self.category))
            n_levels, n_categories = sizes
            self.prices = PriceGaussians(n_levels, n_categories, heads, hidden, config["hidden_dropout_prob"])
        if self.price_factor == "minus":
            self.price_weight = nn.Parameter(torch.zeros(()))  # gamma before the softplus
        self._initialize(features)
        self._dropout = DropoutSwitch(self)
        self._say_what_is_used()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        require_prefixes(config)
        chosen = {key: config[key] for key in ("item_features", "image_features")}
        if config["feature_init"] == "random" and set(chosen.values()) == {"none"}:
            raise UsageError("feature_init: random has nothing to draw: item_features and image_features are none")
        if config["price_column"] == "none" and config["price_factor"] == "plus":
            raise UsageError("price_factor: plus needs prices: leave price_column at auto")

    # What is known of the items

    def _find_features(self, dataset):
        """Kind -> vectors [V, width] of text, of images, and of what one of them says about the other."""
        config, found = self.config, {}
        for kind, (setting, *_) in KINDS.items():
            seen = found.get(kind.removeprefix("pseudo_"))
            if kind not in MODALITIES and (not config["con_weight"] or seen is None):
                continue
            if config["feature_init"] == "random":
                vectors = None if config[setting] == "none" else torch.empty(self.n_items, config["hidden_size"])
            else:
                vectors = features_of_kind(dataset, config, kind, None if seen is None else seen.shape[1])
            if vectors is not None:
                found[kind] = vectors
        return found

    def _imagined(self, features):
        """Modality -> map of the other modality, which makes the pseudo-vectors that no file has."""
        if not (set(MODALITIES) <= set(features) and self.config["con_weight"]):
            return {}
        width = {kind: features[kind].shape[1] for kind in MODALITIES}
        kinds = [(kind, other) for kind, other in zip(MODALITIES, MODALITIES[::-1]) if f"pseudo_{kind}" not in features]
        return {kind: nn.Linear(width[other], width[kind]) for kind, other in kinds}

    def _find_prices(self, dataset):
        """Keep the levels of prices and the categories of all items; returns how prices count."""
        config, levels = self.config, (None, None)
        if config["price_factor"] != "none":
            levels = dataset.item_prices(config["price_column"], config["category_column"], config["price_levels"])
        self.register_buffer("price_level", levels[0])
        self.register_buffer("category", levels[1])
        if levels[0] is not None:
            return config["price_factor"]
        if config["price_factor"] == "plus":
            raise UsageError(
                f"price_factor: plus needs prices, which dataset '{config['dataset']}' lacks: {self._want()}, or leave the "
                f"factor at minus, which counts nothing without prices"
            )
        return "none"

    def _want(self):
        """What makes prices: a text."""
        name = self.config["dataset"]
        command = f"recbole-diffusion prepare {name} --source=RAW_FILE --meta=METADATA"
        return f"write a column price:float into {name}.item, or make it with '{command}'"

    def _say_what_is_used(self):
        config = self.config
        drawn = " (drawn at random, no file is read)" if config["feature_init"] == "random" else ""
        used = [kind + drawn for kind in self.modalities]
        if self.price_factor != "none":
            used.append("prices" if self.category is None else "prices within categories")
        wanted = {kind: how_to_make(config["dataset"], kind) for kind in MODALITIES if config[KINDS[kind][0]] != "none"}
        lacks = [f"{kind} (make them with {made})" for kind, made in wanted.items() if kind not in self.modalities]
        if self.price_factor == "none" and "none" not in (config["price_factor"], config["price_column"]):
            lacks.append(f"prices ({self._want()})")
        say = self.logger.info if used else self.logger.warning
        say(f"MMSBR uses {', '.join(used) or 'IDs alone'}{'; it lacks ' + '; '.join(lacks) if lacks else ''}")

    @torch.no_grad()
    def _initialize(self, features):
        """Tables from U(-1 / sqrt(d), 1 / sqrt(d)), as in the released code, but for features of files; layers by Glorot.

        A session starts as about the plain sum of its items. The weights of items are a vector times sigmoids, and no layer
        follows that could turn the session round: drawn below zero they make it what its items are not, and training does not
        leave that.
        """
        bound = self.config["hidden_size"] ** -0.5
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -bound, bound)
        if self.config["interest_start"] == "sum":
            weight = self.interest.weight.weight.abs_()
            weight.mul_(2 / weight.sum())  # the sigmoids start at a half
        for embedding in (self.item_embedding, *self.features.values()):
            embedding.weight[0] = 0
        if self.config["feature_init"] == "file":
            for kind, vectors in features.items():
                self.features[kind].weight.copy_(vectors)

    def begin_epoch(self, epoch):
        self._dropout.turn(self.config["dropout_epochs"] == "all" or epoch == 0)

    # Items and sessions: vectors of what they are, and beside them what they cost

    def forget(self):
        self._kept = None

    def item_vectors(self):
        """Of all items: [V, d], or [V, d + 2 d + 1] with prices that count against, [V, d + 2 d + 2] with ``plus``."""
        if self.keeps and self._kept is not None:
            return self._kept
        looks = (self.features[kind].weight for kind in self.modalities)
        items = self.items(self.item_embedding.weight, *looks).to(self.item_embedding.weight.dtype)  # half precision ends
        if self.price_factor != "none":
            side = {"minus": as_key, "plus": as_column}[self.price_factor]
            items = torch.cat([items, side(self.prices.items(self.price_level, self.category))], 1)
        if self.keeps:
            self._kept = items
        return items

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        return self._sessions(self.item_vectors(), layout.pack(item_seq), layout)

    def _sessions(self, table, items, layout):
        """Sessions, as wide as the items: table [V, w] from :meth:`item_vectors`, items [N] packed -> [B, w]."""
        x = table[items, : self.config["hidden_size"]]
        interest = self.interest(x, layout, mean_within(x, layout))
        if self.price_factor == "none":
            return interest
        category = None if self.category is None else self.category[items]
        return self.with_price(interest, self.prices.sessions(self.price_level[items], category, layout))

    def with_price(self, interest, point):
        """Interest [B, d] and point [B, 2d] of what sessions pay, as one vector for :meth:`logits`."""
        if self.price_factor == "plus":
            return torch.cat([interest, as_row(point)], 1)
        return torch.cat([interest, F.softplus(self.price_weight) * as_query(point)], 1)

    # Scores

    def logits(self, users, items):
        """Scores [B, V] of what :meth:`encode` and :meth:`item_vectors` return.

        ``s . x`` without prices, ``s . x - gamma distance`` up to a number that is the same for all items of a session,
        and with ``plus`` ``(s . x) (1 + distance)``.
        """
        if self.price_factor != "plus":
            return users @ items.t()
        hidden = self.config["hidden_size"]
        (interest, row), (x, column) = (side.split([hidden, side.shape[1] - hidden], 1) for side in (users, items))
        return (interest @ x.t()) * (1 + row @ column.t())

    def full_sort_predict(self, interaction):
        user = self.encode(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.with_repetition(self.logits(user, self.item_vectors()), interaction)

    def predict(self, interaction):
        if self.price_factor != "plus":
            return super().predict(interaction)
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        layout, table = PackedLayout(item_seq_len), self.item_vectors()
        user = self._sessions(table, layout.pack(item_seq), layout)
        met = self.met_at_end(item_seq, item_seq_len)
        met = met and met.from_column(1)
        if self.price_factor == "plus":  # no inner product, so that all scores are held
            with torch.autocast(user.device.type, enabled=False):
                scores = self.logits(user.to(table.dtype), table[1:])
                loss = F.cross_entropy(scores if met is None else met.to(scores), target - 1)
        else:
            loss = linear_cross_entropy(user, table[1:], target - 1, met)[0]
        with torch.autocast(user.device.type, enabled=False):
            contrasts = self._contrasts()
        if not contrasts:
            return {"recommendation": loss}
        return {"recommendation": loss, "contrast": self.config["con_weight"] * sum(contrasts)}

    def _contrasts(self):
        """What is seen finds what the other modality says of the same item, among all items: a list of [] losses."""
        config, found = self.config, []
        for kind, other in zip(MODALITIES, MODALITIES[::-1]):
            if f"pseudo_{kind}" in self.features:
                pseudo = self.features[f"pseudo_{kind}"].weight
            elif kind in self.pseudo_maps:
                pseudo = self.pseudo_maps[kind](self.features[other].weight)
            else:
                continue
            real = self.features[kind].weight
            if config["con_reduction"] == "sum":
                found.append(hardest_contrast(real, pseudo, N_HARDEST))
            else:
                found.append(alignment_loss(real, pseudo, config["con_temperature"], config["con_anchors"]))
        return found
