"""What models share that recommend by a causal encoder and train it with more than the recommendation loss."""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.data.examples import TARGET
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import nt_xent
from recbole_diffusion.layers.cross_entropy import binary_cross_entropy
from recbole_diffusion.layers.negatives import unseen_items
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.positioned import PositionedTransformer
from recbole_diffusion.model.base import DiffusionSequentialRecommender
from recbole_diffusion.processes import rows_of_all


def require_company(config):
    """Raise UsageError where a loss that compares the rows of a batch would have nothing fair to compare."""
    name = config["model"]
    if config["trim_padding"]:
        raise UsageError(f"trim_padding batches by length, which contrasts of {name} must not, and it has no padding to save: leave it off")
    if config["train_batch_size"] == 1:
        raise UsageError(f"train_batch_size 1 leaves {name} no other row to contrast a row with: set 2 or more")


class TransformerRecommender(DiffusionSequentialRecommender):
    """SASRec, or another encoder in its place, with what contrastive models need.

    A model calls this constructor, makes networks of its own, and ends with :meth:`initialize`; then it implements
    ``loss_parts``. Without networks of its own the random numbers are those of SASRec.

    Attributes:
        recommender (PositionedTransformer): the encoder that ``encoder`` names.
        mask_vector (nn.Parameter | None): [d] what :attr:`mask_token` stands for in a view.
    """

    learns_repetition = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = nn.Embedding(self.n_items, config["hidden_size"], sparse=bool(config["sparse_table"]))
        self.recommender = PositionedTransformer(config, self.max_seq_length, config["encoder"], config["n_layers"])
        self.mask_vector = None

    def initialize(self, with_mask=False):
        """Initial weights, N(0, ``initializer_range``), of all that has been made.

        Args:
            with_mask (bool): make a mask vector, from a random stream of its own: all other weights, and whatever is
                drawn after them, are what they are without it.
        """
        self.initialize_normal(self.config["initializer_range"])
        if with_mask:
            own = torch.Generator().manual_seed(torch.initial_seed() + 1)
            vector = torch.randn(self.config["hidden_size"], generator=own)
            self.mask_vector = nn.Parameter(self.config["initializer_range"] * vector)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        one_per_user = config["train_view"] == "sequence" and not config["benchmark_filename"]
        if config["ce_positions"] == "last" and one_per_user:
            raise UsageError("ce_positions: last would train on one item per user: set train_view: prefix")

    def loss_weights(self, interaction):
        rows, tokens = len(interaction), self.taught_tokens(interaction)
        return {"recommendation": rows if self.config["ce_positions"] == "last" else tokens, None: rows}

    def places(self, interaction):
        """By which :class:`TrainingExamples` knows the rows of a batch; of models with ``reads_places = True``.

        Returns:
            torch.LongTensor: [B], -1 where a row comes from elsewhere.
        """
        return interaction[TARGET] if TARGET in interaction else torch.full_like(interaction[self.ITEM_SEQ_LEN], -1)

    # States

    @property
    def mask_token(self):
        """Item number that stands for the mask vector, one past the items: never scored and never a target."""
        return self.n_items

    def encode(self, item_seq, item_seq_len):
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq).unsqueeze(1)
        return self.recommender.at_last(self.item_embedding(items), layout, causal=True)[1][:, 0]

    def hidden(self, items, layout):
        """States of the causal encoder at every token. items: [N] -> [N, d]."""
        return self.recommender(self.item_embedding(items.unsqueeze(1)), layout, causal=True)[:, 0]

    def embed(self, items):
        """Vectors of items, of which some may be :attr:`mask_token`. items: [...] -> [..., d]."""
        if self.mask_vector is None:
            return self.item_embedding(items)
        masked = items == self.mask_token
        return torch.where(masked.unsqueeze(-1), self.mask_vector, self.item_embedding(items.masked_fill(masked, 0)))

    def ends(self, *views):
        """States of whole histories: one pass for all views, the last block at the last items only.

        Args:
            views (tuple): (item_seq [B, L], item_seq_len [B]) each; B and L may differ. Dropout differs in every row.

        Returns:
            list[torch.Tensor]: [B, d] of each view.
        """
        items, layout = self.stack(views)
        states = self.recommender.at_last(self.embed(items.unsqueeze(1)), layout, causal=True)[1][:, 0]
        return list(states.split([len(lengths) for _, lengths in views]))

    def stack(self, views):
        """The rows of all views under one another. Returns (items [N], PackedLayout)."""
        width = max(rows.shape[1] for rows, _ in views)
        layout = PackedLayout(torch.cat([lengths for _, lengths in views]))
        return layout.pack(torch.cat([F.pad(rows, (0, width - rows.shape[1])) for rows, _ in views])), layout

    # Losses

    def recommend_and_encode(self, item_seq, item_seq_len, target, *views):
        """Recommendation loss of the histories, and the states of histories and views.

        With ``ce_positions: last`` all come from one pass of :meth:`ends`; otherwise the histories are encoded at every
        token and the views at their ends.

        Args:
            item_seq, item_seq_len, target: as ``loss_parts`` gets them.
            views (tuple): as :meth:`ends` gets them, maybe none.

        Returns:
            tuple: loss [], list of states [B, d], the histories' own first.
        """
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        if self.config["ce_positions"] == "last":
            states = self.ends((item_seq, item_seq_len), *views)
            return self.recommendation_loss(states[0], items, layout, target), states
        hidden = self.hidden(items, layout)
        states = [hidden[layout.last], *(self.ends(*views) if views else ())]
        return self.recommendation_loss(hidden, items, layout, target), states

    def recommendation_loss(self, hidden, items, layout, target, also_seen=None):
        """Loss of the next items by ``loss_type``: one negative each (BCE), or :meth:`softmax_loss`.

        Args:
            hidden (torch.Tensor): states where ``ce_positions`` wants a loss: [N, d] at every token (``all``), or [B, d]
                at the ends in the order of the rows (``last``).
            items (torch.LongTensor): [N] packed.
            layout (PackedLayout): of the B histories.
            target (torch.LongTensor): [B] what follows the last items.
            also_seen (torch.LongTensor, optional): [B, n] items that no negative of BCE may be, beside those of the
                history and the next one; zeros where there are fewer.

        Returns:
            torch.Tensor: [] mean.
        """
        rows, next_item, met = layout.row, layout.next_items(items, target), None
        at_last = self.config["ce_positions"] == "last"
        if at_last:
            rows, next_item = rows[layout.last], target
        if self.repetition:
            met = (self.repetition.at_end if at_last else self.repetition.at_every_token)(items, layout)
        taught = None if at_last else self.taught(layout)
        if taught is not None:
            hidden, rows, next_item = hidden[taught], rows[taught], next_item[taught]
            met = met and met.of_rows(taught, layout.n_tokens)
        if self.config["loss_type"] != "BCE":
            return self.softmax_loss(hidden, next_item, met)
        meetings = [layout.row, rows], [items, next_item]
        if also_seen is not None:
            meetings[0].append(torch.arange(len(also_seen), device=items.device).repeat_interleave(also_seen.shape[1]))
            meetings[1].append(also_seen.flatten())
        users, met_items = map(torch.cat, meetings)
        negatives, table = unseen_items(rows, users, met_items, self.n_items), self.item_embedding
        return binary_cross_entropy(hidden, table.weight, next_item, negatives, met, table.sparse)

    def contrast(self, a, b, target):
        """NT-Xent of two views of the batch, of all processes' rows, by ``tau``, ``similarity``, ``mask_same_target``.

        Args:
            a, b (torch.Tensor): [B, d] states of the two views.
            target (torch.LongTensor): [B] the next items.

        Returns:
            torch.Tensor: [] mean over the 2 B views of this process.
        """
        every = rows_of_all(torch.stack([a, b], 1)).unbind(1)
        return nt_xent(a, b, self.config["tau"], self.config["similarity"], every, self.hidden_pairs(target))

    def hidden_pairs(self, target):
        """Users who are no negatives of each other, by ``mask_same_target``: [B, B of all processes] bool, or None."""
        return target[:, None] == rows_of_all(target) if self.config["mask_same_target"] else None

    def random_items(self, shape, device):
        """Items without padding, uniform."""
        return torch.randint(1, self.n_items, shape, device=device)
