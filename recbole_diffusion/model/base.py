"""What all models of the package share: how a user is scored and what RecBole is told."""

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_diffusion.data.examples import PSEUDO_LENGTH
from recbole_diffusion.data.folds import FOLD
from recbole_diffusion.diffusion.schedules import named_betas
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.repetition import Repetition
from recbole_diffusion.layers.sampled_softmax import draw_negatives, log_weights, sampled_softmax
from recbole_diffusion.layers.scalable_cross_entropy import bucket_sizes, fill_buckets, scalable_cross_entropy


def configured_betas(config):
    """Variances of the schedule that the settings name: [T] float64. Raises UsageError when they make none."""
    try:
        return named_betas(config["schedule"], config["diffusion_steps"], config["beta_start"], config["beta_end"])
    except ValueError as error:
        raise UsageError(f"schedule {config['schedule']} with {config['diffusion_steps']} steps: {error}") from None


def require_even_width(config):
    """Raise UsageError when ``hidden_size`` cannot be halved."""
    if config["hidden_size"] % 2:
        raise UsageError(f"hidden_size {config['hidden_size']} must be even, for sines and cosines of the time step")


def require_prefixes(config):
    """Raise UsageError when a model that has a loss at the last position only would get one example per user."""
    if config["train_view"] == "sequence" and not config["benchmark_filename"]:
        raise UsageError(f"{config['model']} learns from the end of a history only: leave train_view at prefix")


class DiffusionSequentialRecommender(SequentialRecommender):
    """A sequential recommender that scores items by inner product with an encoded history.

    A model implements :meth:`encode` and :meth:`loss_parts`; prediction and RecBole's interface live here.

    Attributes:
        item_embedding (nn.Embedding): [V, d] table, row 0 is padding.
        learns_repetition (bool): whether the loss uses :meth:`met_at_end`, so that ``repetition: learned`` can be set.
        learns_rows (bool): whether all losses but those over all items look up rows of the item table by
            ``item_embedding``, so that ``sparse_table`` can be set.
        repetition (Repetition | None): amounts of items that the history holds.
    """

    # POINTWISE lets a model name its losses freely: for RecBole only CE and BPR exist.
    input_type = InputType.POINTWISE
    learns_repetition = False
    learns_rows = False
    _pseudo_length = None  # [B] how many items of each history of the batch are pseudo items, or None
    _asked_for_taught = False

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self._one_per_user = config["train_view"] == "sequence"
        learned = config["repetition"] == "learned"
        self.repetition = Repetition(config["repetition_amounts"], self.max_seq_length) if learned else None

    def met_at_end(self, item_seq, item_seq_len):
        """Additions to the scores of the items of each history, or None with ``repetition: none``.

        Args:
            item_seq (torch.LongTensor): [B, L].
            item_seq_len (torch.LongTensor): [B].

        Returns:
            Additions | None
        """
        if self.repetition is None:
            return None
        layout = PackedLayout(item_seq_len)
        return self.repetition.at_end(layout.pack(item_seq), layout)

    def encode(self, item_seq, item_seq_len):
        """User vectors of some histories.

        Args:
            item_seq (torch.LongTensor): [B, L] item ids, zeros on the right.
            item_seq_len (torch.LongTensor): [B] number of items, at least 1.

        Returns:
            torch.Tensor: [B, d].
        """
        raise NotImplementedError

    def item_vectors(self):
        """Vectors of all items that histories are compared with: [V, d]."""
        return self.item_embedding.weight

    def loss_parts(self, item_seq, item_seq_len, target):
        """Named, weighted parts of the training loss.

        Args:
            item_seq (torch.LongTensor): [B, L].
            item_seq_len (torch.LongTensor): [B].
            target (torch.LongTensor): [B] the next item.

        Returns:
            dict[str, torch.Tensor]: name -> [] tensor, always in the same order.
        """
        raise NotImplementedError

    def softmax_loss(self, hidden, target, met=None, first_item=1):
        """Cross-entropy of items by ``loss_type``: CE = of the whole catalogue, SS = drawn items, SCE = items of buckets.

        Args:
            hidden (torch.Tensor): [N, d].
            target (torch.LongTensor): [N].
            met (Additions, optional): what ``repetition: learned`` adds to logits of items.
            first_item (int): 0 where padding is a class of CE.

        Returns:
            torch.Tensor: [] mean.
        """
        config, table, sparse = self.config, self.item_embedding.weight, self.item_embedding.sparse
        if config["loss_type"] == "SS":
            negatives, weights = self.draw_negatives(target)
            return sampled_softmax(hidden, table, target, negatives, met, weights, sparse)
        if config["loss_type"] == "SCE":
            wanted = config["sce_buckets"], config["sce_states"], config["sce_items"]
            sizes = bucket_sizes(len(target), self.n_items - 1, *wanted)
            states, items = fill_buckets(hidden, table[1:], *sizes, config["sce_mix"])
            return scalable_cross_entropy(hidden, table, target, states, items + 1, met, sparse)
        return linear_cross_entropy(hidden, table[first_item:], target - first_item, met and met.from_column(first_item))[0]

    def draw_negatives(self, target):
        """Negatives of SS for the next items [N] of a batch: items [K] or [N, K], and what to add to their logits, or None."""
        config = self.config
        each = config["negatives_of"] == "position"
        negatives = draw_negatives(target, self.n_items, config["n_negatives"], config["in_batch_share"], each)
        return negatives, log_weights(config["negative_weights"], target, negatives, self.n_items, config["in_batch_share"])

    def loss_inputs(self, interaction):
        """What :meth:`loss_parts` gets of a batch; a model that wants more extends it."""
        return interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_ID]

    @staticmethod
    def graph_fold(interaction):
        """Fold that the sessions of a batch are in, whose graph they must see; None without ``graph_folds``."""
        return int(interaction[FOLD][0]) if FOLD in interaction else None

    def taught(self, layout):
        """Tokens whose next item is a target, for losses at every token.

        Args:
            layout (PackedLayout): of the histories of the batch.

        Returns:
            torch.LongTensor | None: [n], ascending. A pseudo item is never a target, nor is the first item after them:
            tokens that are pseudo items (the setting ``augmented``) are left out. None: all of them.
        """
        self._asked_for_taught = True
        if self._pseudo_length is None:
            return None
        return (layout.position >= self._pseudo_length[layout.row]).nonzero().squeeze(1)

    def taught_tokens(self, interaction):
        """How many tokens of a batch :meth:`taught` names (int)."""
        pseudo = interaction[PSEUDO_LENGTH].sum() if PSEUDO_LENGTH in interaction else 0
        return int(interaction[self.ITEM_SEQ_LEN].sum() - pseudo)

    def begin_epoch(self, epoch):
        """What a model does before an epoch of training, numbered from 0; a resumed training begins with the one it left."""

    def changes_scores(self, epoch):
        """Whether an epoch changes what the model recommends; if not, there is no validation after it, and it does not count
        for early stopping."""
        return True

    def training_steps(self):
        """Steps of the optimizer for every batch, where one with the sum of all parts for all parameters is not enough.

        Returns:
            list | None: in their order, pairs of a function that takes and returns what :meth:`loss_parts` does, and the
            parameters that learn from it; all others stand still. With None there is one step, of :meth:`loss_parts`.
        """
        return None

    def critics(self):
        """Parts of the loss that alone move some parameters, and nothing else.

        Their gradients are clipped apart from all others. No other part may move these parameters, and such a part no others
        (:func:`recbole_diffusion.layers.frozen.frozen`), so that one backward pass trains both sides.

        Returns:
            dict[str, tuple[str, float]]: name of a part -> how the names of its parameters begin, their learning rate.
        """
        return {}

    def calculate_loss(self, interaction, loss_parts=None):
        """The parts of the loss as RecBole expects them: a tuple that its trainer sums.

        Args:
            interaction (Interaction): a batch.
            loss_parts (callable, optional): another function in place of :meth:`loss_parts`.

        Raises:
            UsageError: for a model with a loss at every item of the only example of a user, pseudo items among them.
        """
        self._pseudo_length = interaction[PSEUDO_LENGTH] if PSEUDO_LENGTH in interaction else None
        self._asked_for_taught = self._pseudo_length is None
        parts = (loss_parts or self.loss_parts)(*self.loss_inputs(interaction))
        self._pseudo_length = None
        if self._one_per_user and not self._asked_for_taught and loss_parts is None:
            raise UsageError(
                f"{type(self).__name__} would learn to predict pseudo items in the sequence view: set train_view: prefix"
            )
        self.loss_names = tuple(parts)
        return tuple(parts.values())

    def loss_weights(self, interaction):
        """How many terms each part of the loss of a batch is the mean of, by which several processes weight theirs.

        Returns:
            dict[str | None, int]: by name of the part, ``None`` for all parts that are not named.
        """
        return {None: len(interaction)}

    def after_step(self):
        """What follows a step of the optimizer; all processes call it together, those without rows in the batch as well."""

    def training_state(self):
        """What training needs beside the weights, for checkpoints: a dict of tensors and JSON values."""
        return {}

    def load_training_state(self, state):
        """Go on from what :meth:`training_state` returned; its tensors are on the model's device."""

    def epoch_report(self):
        """What the line of an epoch says beside the losses: a dict of name -> number, of the weights as they are."""
        return {}

    def epoch_warning(self, report):
        """What is worth one warning in a training, in one line, or None. report: what :meth:`epoch_report` returned."""
        return None

    def predict(self, interaction):
        """Score of one item per history: [B]."""
        user = self.encode(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        item, met = interaction[self.ITEM_ID], self.met_at_end(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        score = (user * self.item_vectors()[item]).sum(-1)
        return score if met is None else score + met.at(item[:, None]).squeeze(1)

    @property
    def ranks_by_products(self):
        """Whether the scores are inner products of :meth:`encode` with :meth:`item_vectors`, and no more than repetition."""
        return type(self).full_sort_predict is DiffusionSequentialRecommender.full_sort_predict

    def full_sort_predict(self, interaction):
        """Scores of all items per history: [B, V]; column 0 is padding, which RecBole's trainer removes."""
        user = self.encode(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.with_repetition(user @ self.item_vectors().t(), interaction)

    def with_repetition(self, scores, interaction):
        """Scores [B, V] with what ``repetition: learned`` adds to items of the history."""
        met = self.met_at_end(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return scores if met is None else met.to(scores)

    def initialize_normal(self, std, mean=0.0):
        """BERT's initialisation of every layer: N(mean, std), zero biases, and a zero row for padding."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.data.normal_(mean, std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
