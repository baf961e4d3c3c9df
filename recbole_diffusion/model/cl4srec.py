r"""CL4SRec
################################################

Reference:
    Xu Xie, Fei Sun, Zhaoyang Liu, Shiwen Wu, Jinyang Gao, Jiandong Zhang, Bolin Ding, Bin Cui. "Contrastive Learning for
    Sequential Recommendation." ICDE 2022.

SASRec with a second task: two random changes of a history, by crop, mask or reorder, have to be recognised as the same
user's among those of the batch. One encoder serves both tasks, and only it recommends. The authors published no code; what
its relatives do otherwise is a setting in ``properties/model/CL4SRec.yaml``.
"""

from functools import partial

import torch
import torch.nn.functional as F

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.augmentation import crop, draw_pairs, mask, reorder, two_operators
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.transformer_recommender import TransformerRecommender, require_company
from recbole_diffusion.processes import rows_of_all


class CL4SRec(TransformerRecommender):
    """Contrastive learning for sequential recommendation.

    With ``contrast_weight: 0`` what is left is SASRec, with SASRec's random numbers.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/CL4SRec.yaml``.
        dataset (SequenceDataset): the training part.
    """

    reads_places = True
    learns_rows = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weight = config["contrast_weight"]
        self.initialize(with_mask=self.weight > 0)
        self.operators = [
            partial(crop, kept=config["crop_kept"]),
            partial(mask, share=config["mask_share"], token=self.mask_token),
            partial(reorder, share=config["reorder_share"]),
        ]
        self.damaged = dataset.training_examples() if self.weight and config["official_compat"] else None
        if self.damaged is not None:  # the data themselves are never edited
            self.damaged = self.damaged.own_copy()

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        if config["contrast_weight"]:
            require_company(config)
        if config["official_compat"] and config["ce_positions"] != "last":
            raise UsageError(
                "official_compat has its loss at the last item only: set ce_positions: last, train_view: prefix"
            )

    def loss_inputs(self, interaction):
        return *super().loss_inputs(interaction), self.places(interaction)

    def loss_parts(self, item_seq, item_seq_len, target, place):
        if not self.weight:
            return {"recommendation": self.recommend_and_encode(item_seq, item_seq_len, target)[0]}
        if self.damaged is not None:
            loss, one, other = self._recommend_from_damaged(item_seq, item_seq_len, target, place)
        else:
            views = two_operators(item_seq, item_seq_len, self.operators, self.config["aug_pair"])
            loss, (_, one, other) = self.recommend_and_encode(item_seq, item_seq_len, target, *views)
        return {"recommendation": loss, "contrast": self.weight * self.contrast(one, other, target)}

    # What the most used code does instead (official_compat): masks and new orders are written into the stored histories

    def _recommend_from_damaged(self, item_seq, item_seq_len, target, place):
        """Loss [] of histories as damaged so far and now, states of their two views [B, d] each."""
        numbers = self.damaged.find(place.cpu())
        stored, _ = self.damaged.put_into(item_seq, item_seq_len, numbers)
        edited, views = self._edit(stored, item_seq_len)
        self._keep(numbers, edited)
        state, one, other = self.ends((edited, item_seq_len), *views)
        layout = PackedLayout(item_seq_len)
        return self.recommendation_loss(state, layout.pack(item_seq), layout, target), one, other

    def _edit(self, rows, lengths):
        """The rows after both operators, and two views, of which all but crops are these very rows.

        A crop is a copy of its row at its turn. Returns (rows [B, L], two pairs of ids and lengths).
        """
        rows, crops = rows.clone(), []
        for chosen in draw_pairs(len(rows), len(self.operators), self.config["aug_pair"], device=rows.device):
            crops.append((chosen == 0, *self.operators[0](rows, lengths)))
            for number, operator in enumerate(self.operators[1:], 1):
                turn = (chosen == number).nonzero().squeeze(1)
                rows[turn] = operator(rows[turn], lengths[turn])[0]
        views = [
            (torch.where(is_crop[:, None], cropped, rows), torch.where(is_crop, kept, lengths))
            for is_crop, cropped, kept in crops
        ]
        return rows, views

    def _keep(self, numbers, rows):
        """Write edited rows, those of other processes too, into the copy that the next epoch reads."""
        padded = F.pad(rows, (0, self.max_seq_length - rows.shape[1]))
        numbers, padded = rows_of_all(numbers.to(rows.device)).cpu(), rows_of_all(padded).cpu()
        self.damaged.write(numbers[numbers >= 0], padded[numbers >= 0])

    def training_state(self):
        return {} if self.damaged is None else {"damaged": self.damaged.flat}

    def load_training_state(self, state):
        if self.damaged is not None:
            self.damaged.flat = state["damaged"].cpu()
