r"""DiffuRec and DiffuRecSys
################################################

References:
    Zihao Li, Aixin Sun, Chenliang Li. "DiffuRec: A Diffusion Model for Sequential Recommendation." TOIS 2023.

    Sharare Zolghadr, Ole Winther, Paul Jeha. "Generative Diffusion Models for Sequential Recommendations."
    ROEGEN@RecSys 2024.

The embedding of the next item is noised, the noised vector guides a Transformer over the history, and the
Transformer restores the item. DiffuRec adds the guide to the history, DiffuRecSys looks at it by cross-attention
(V1) and shifts the noise of training (V2). Equation and algorithm numbers are those of the DiffuRecSys paper, which
states both models; what the papers leave open is a setting in ``properties/model/*.yaml``.
"""

import torch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.approximator import CrossAttention, LinearCrossAttention
from recbole_diffusion.model.restoring_recommender import RestoringRecommender


class DiffuRec(RestoringRecommender):
    """The baseline: the noised item is added to the history (Eq. 15).

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffuRec.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_rows = True


class DiffuRecSys(RestoringRecommender):
    """DiffuRec that looks at the guide by cross-attention (V1, Eq. 16) and shifts the noise of training (V2, Eq. 17).

    V1 is ``cross_attention: softmax, offset_noise: none``, V2 is ``offset_noise: const``.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiffuRecSys.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    learns_rows = True

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        RestoringRecommender.check_config(config)
        is_linear, sees_padding = config["cross_attention"] == "linear", config["attention_mask"] == "queries"
        if config["drop_cross_output"] and not is_linear:
            raise UsageError("drop_cross_output needs cross_attention: linear")
        if config["fill_padding_rows"] and not (is_linear and sees_padding):
            raise UsageError("fill_padding_rows needs cross_attention: linear and attention_mask: queries")

    def _approximator_settings(self):
        return {
            "make_cross_attention": self._make_cross_attention,
            "chained": self.config["block_stack"] == "chained",
            "shared_norm": self.config["shared_norm"],
            "drop_block_output": self.config["drop_block_output"],
        }

    def _make_cross_attention(self):
        heads, hidden = self.config["n_heads"], self.config["hidden_size"]
        if self.config["cross_attention"] == "linear":
            dropout = self.config["hidden_dropout_prob"] if self.config["drop_cross_output"] else 0.0
            fill = self.config["fill_padding_rows"]
            return LinearCrossAttention(heads, hidden, self.config["key_softmax"], dropout, fill)
        return CrossAttention(heads, hidden, self.config["hidden_dropout_prob"])

    def _restore(self, embedded, guide, layout):
        """f_theta. embedded: [N, d]; guide: lambda_i * (x + d) [N, views, d] -> x_0 [B, views, d]."""
        return self.approximator(embedded.unsqueeze(1).expand_as(guide), guide, layout)

    def _training_noise(self, clean):
        """epsilon of Eq. 20 with an offset of its mean (Eq. 17): [B, d]."""
        noise, offset = torch.randn_like(clean), self.config["offset_noise"]
        if offset == "none":
            return noise
        shift = 1 if offset == "const" else torch.randn_like(noise[:, :1] if offset == "per_example" else noise)
        return noise + self.config["offset_strength"] * shift
