r"""DuoRec
################################################

Reference:
    Ruihong Qiu, Zi Huang, Hongzhi Yin, Zijian Wang. "Contrastive Learning for Representation Degeneration Problem in
    Sequential Recommendation." WSDM 2022.

SASRec whose states of histories are contrasted. The views are made by the model and not by editing data: the same history
under another dropout, and a history of the training part with the same next item. There are no further parameters.
"""

from recbole_diffusion.data.examples import SameTarget
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company

# contrast -> the weights that it reads
WEIGHTS = {"un": ("contrast_weight",), "su": ("semantic_weight",), "us_x": ("semantic_weight",)}
WEIGHTS["us"] = (*WEIGHTS["un"], *WEIGHTS["su"])


class DuoRec(TransformerRecommender):
    """Contrast of dropout copies and of histories with the same target.

    With the weights of its contrasts at 0 what is left is SASRec, with SASRec's random numbers.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DuoRec.yaml``.
        dataset (SequenceDataset): the training part.
    """

    reads_places = True
    learns_rows = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.initialize()
        weights = {name: config[name] for name in WEIGHTS[config["contrast"]]}
        self.contrast_weight, self.semantic_weight = (weights.get(name, 0) for name in WEIGHTS["us"])
        self.copies = config["contrast"] == "us_x" and not config["reuse_pass"]
        # With train_view: sequence, too, positives are any prefixes, and not only the one example of a user.
        examples = dataset.training_examples(every_prefix=True) if self.semantic_weight else None
        self.same_target = SameTarget(examples) if examples is not None else None

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if any(config[name] for name in WEIGHTS[config["contrast"]]):
            require_company(config)

    def loss_inputs(self, interaction):
        return *super().loss_inputs(interaction), self.places(interaction)

    def loss_parts(self, item_seq, item_seq_len, target, place):
        views = {}
        if self.contrast_weight or (self.copies and self.semantic_weight):
            views["copy"] = item_seq, item_seq_len
        if self.semantic_weight:
            views["semantic"] = self.positives(item_seq, item_seq_len, target, place)
        loss, (own, *states) = self.recommend_and_encode(item_seq, item_seq_len, target, *views.values())
        states, parts = dict(zip(views, states)), {"recommendation": loss}
        if self.contrast_weight:
            parts["contrast"] = self.contrast_weight * self.contrast(own, states["copy"], target)
        if self.semantic_weight:  # us_x compares with the copy, which is one more draw of the same
            anchor = states["copy"] if self.copies else own
            parts["semantic"] = self.semantic_weight * self.contrast(anchor, states["semantic"], target)
        return parts

    def positives(self, item_seq, item_seq_len, target, place):
        """A training history with the same next item for each row; the row itself where there is no other.

        Args:
            item_seq, item_seq_len, target, place: as ``loss_parts`` gets them.

        Returns:
            tuple: ids [B, L], lengths [B].
        """
        numbers = self.same_target.draw(place.cpu(), target.cpu())
        return self.same_target.examples.put_into(item_seq, item_seq_len, numbers)
