r"""DreamRec and PreferDiff
################################################

References:
    Zhengyi Yang, Jiancan Wu, Zhicai Wang, Xiang Wang, Yancheng Yuan, Xiangnan He. "Generate What You Prefer:
    Reshaping Sequential Recommendation via Guided Diffusion." NeurIPS 2023.

    Shuo Liu, An Zhang, Guoqing Hu, Hong Qian, Tat-Seng Chua. "Preference Diffusion for Recommendation." ICLR 2025.

The vector of the next item is noised and restored under the guidance of the encoded history; items nearest to what is
generated from noise are recommended. DreamRec learns by the squared error of the restored vector, PreferDiff by its
cosine and by keeping away from a restored negative. The denoiser is one linear layer, so that generation has a closed
form (:mod:`recbole_diffusion.diffusion.affine`). What the papers leave open is a setting in ``properties/model/*.yaml``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from recbole_diffusion.diffusion.affine import AffineDenoiser, root_of
from recbole_diffusion.diffusion.gaussian import GaussianProcess, reverse_chain
from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys
from recbole_diffusion.diffusion.schedules import dreamrec_betas
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.cross_entropy import linear_cross_entropy
from recbole_diffusion.layers.kept import KeepsWhatWeightsGive
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.spread import collapse_of, spread_of
from recbole_diffusion.model.base import require_even_width
from recbole_diffusion.model.transformer_recommender import TransformerRecommender
from recbole_diffusion.processes import rows_of_all

START, REVERSE = range(2)  # kinds of noise drawn for a history at evaluation


def dreamrec_schedule(config):
    """Variances of the schedule that the settings name: [T] float64. Raises UsageError when they make none."""
    steps = config["diffusion_steps"]
    try:
        return dreamrec_betas(config["schedule"], steps, config["beta_start"], config["beta_end"])
    except ValueError as error:
        raise UsageError(f"schedule {config['schedule']} with {steps} steps: {error}") from None


class DreamRec(KeepsWhatWeightsGive, TransformerRecommender):
    """Generates the vector of the next item.

    With ``twin: True`` nothing of the diffusion is left: the restored vector is a linear map of the encoded history.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DreamRec.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden, self.null_guide = config["hidden_size"], None
        if config["twin"]:
            self.restore_guide = nn.Linear(hidden, hidden)
        else:
            betas = dreamrec_schedule(config)
            self.process = GaussianProcess(betas)
            variance = "posterior" if config["sampling_noise"] else "none"
            taken = min(config["sampling_steps"], len(betas))
            self.chain = reverse_chain(betas, taken, config["reverse"], variance)
            self.noise = KeyedNoise(config["seed"], hidden) if config["sampling_noise"] else None
            self.denoiser = AffineDenoiser(len(betas), hidden)
            if config["drop_guide_prob"]:
                self.null_guide = nn.Parameter(torch.randn(hidden))
        with torch.no_grad():
            for table in (self.item_embedding, self.recommender.position_embedding):
                table.weight *= config["initializer_range"]
            self.item_embedding.weight[0] = 0
        self.item_embedding.weight.requires_grad_(config["item_target"] != "frozen")

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        TransformerRecommender.check_config(config)
        require_even_width(config)
        dreamrec_schedule(config)
        if config["guidance_strength"] and not config["drop_guide_prob"] and not config["twin"]:
            raise UsageError("guidance_strength needs a trained null guide: set drop_guide_prob, or guidance_strength: 0")
        if config["repetition"] == "learned" and not config["ce_weight"]:
            raise UsageError("repetition: learned is trained by the softmax alone: set ce_weight above 0")

    def forget(self):
        """Drop the closed form of the sampler."""
        self._sampler = None

    def loss_weights(self, interaction):
        at_last = self.config["ce_positions"] == "last"
        return {None: len(interaction) if at_last else self.taught_tokens(interaction)}

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        guide, target, met = self._examples(item_seq, item_seq_len, target)
        clean = self.item_embedding(target)
        clean = clean if self.config["item_target"] == "trainable" else clean.detach()
        restored, parts = self._restoration_losses(clean, guide)
        if self.config["ce_weight"]:
            table = self.item_embedding.weight[1:]
            parts["ce"] = self.config["ce_weight"] * linear_cross_entropy(restored, table, target - 1, met)[0]
        return parts

    def _examples(self, item_seq, item_seq_len, target):
        """Where ``ce_positions`` wants a loss: guides [M, d], next items [M] and additions to their scores, or None."""
        layout = PackedLayout(item_seq_len)
        items = layout.pack(item_seq)
        if self.config["ce_positions"] == "last":
            met = self.repetition and self.repetition.at_end(items, layout).from_column(1)
            return self.ends((item_seq, item_seq_len))[0], target, met
        met = self.repetition and self.repetition.at_every_token(items, layout).from_column(1)
        next_item = layout.next_items(items, target)
        hidden, taught = self.hidden(items, layout), self.taught(layout)
        if taught is not None:
            hidden, next_item = hidden[taught], next_item[taught]
            met = met and met.of_rows(taught, layout.n_tokens)
        return hidden, next_item, met

    def _restoration_losses(self, clean, guide):
        """Restored vectors [M, d] and the losses that they have for their distance to the clean ones: a dict."""
        restored = self._restore(guide, clean)[0]
        return restored, {"mse": F.mse_loss(restored.float(), clean)}

    def _restore(self, guide, *clean):
        """Noise vectors and restore them, all with the same guides and time steps. Each [M, d] -> list of [M, d]."""
        if self.config["twin"]:
            return [self.restore_guide(guide)] * len(clean)
        if self.null_guide is not None:
            dropped = torch.rand(len(guide), 1, device=guide.device) < self.config["drop_guide_prob"]
            guide = torch.where(dropped, self.null_guide, guide)
        t = torch.randint(self.process.steps, guide.shape[:1], device=guide.device)
        noised = [self.process.add_noise(vectors, torch.randn_like(vectors), t) for vectors in clean]
        return [self.denoiser(vectors, guide, t) for vectors in noised]

    # Generation

    def encode(self, item_seq, item_seq_len):
        guide = self._guide(item_seq, item_seq_len)
        if self.config["sampler"] == "loop" and not self.config["twin"]:
            return self._step_by_step(guide, self._noise_of(item_seq, item_seq_len))
        vector = self.generate(guide)
        if self.config["twin"] or self.noise is None:
            return vector
        return vector + F.linear(self._noise_of(item_seq, item_seq_len)(START), self._closed_form(vector)[2])

    def generate(self, guide):
        """Mean of what is generated from noise. guide: [B, d] encoded histories -> [B, d]."""
        if self.config["twin"]:
            return self.restore_guide(guide)
        if self.null_guide is not None:  # guiding the predictions is guiding the guide, for they are affine in it
            strength = self.config["guidance_strength"]
            guide = (1 + strength) * guide - strength * self.null_guide
        gain, shift, _ = self._closed_form(guide)
        return F.linear(guide, gain, shift)

    def _closed_form(self, like):
        """The sampler of the present weights: gain [d, d], shift [d] and the root of the covariance, or None."""
        if self._sampler is None:
            gain, shift, covariance = self.denoiser.sampler(self.chain)
            self._sampler = gain, shift, None if self.noise is None else root_of(covariance)
        return [part if part is None else part.to(like) for part in self._sampler]

    def _step_by_step(self, guide, draw):
        """The reverse chain as it is written, for comparison. guide: [B, d] -> [B, d]."""
        strength = self.config["guidance_strength"]

        def denoise(x, t, step):
            times = torch.full(x.shape[:1], t, device=x.device)
            restored = self.denoiser(x, guide, times)
            if self.null_guide is None:
                return restored
            return (1 + strength) * restored - strength * self.denoiser(x, self.null_guide.expand_as(guide), times)

        start = torch.zeros_like(guide) if draw is None else draw(START)
        return self.chain.run(start, denoise, lambda step: draw(REVERSE, step))

    def _noise_of(self, item_seq, item_seq_len):
        """A function that looks up normals [B, d] of the histories, or None where their mean is taken."""
        if self.noise is None:
            return None
        keys = self._keys(item_seq, item_seq_len)
        return lambda *kind: self.noise(keys, *kind)

    def _keys(self, item_seq, item_seq_len):
        """A number for every history: [B]."""
        layout = PackedLayout(item_seq_len)
        distance = layout.length - 1 - layout.position  # to the latest item
        return history_keys(layout.pack(item_seq), distance, layout.row, len(item_seq))

    def _guide(self, item_seq, item_seq_len):
        """Encoded histories [B, d]; with ``official_train_mode`` with dropout, one by one, from a stream of each."""
        if self.training or not self.config["official_train_mode"]:
            return super().encode(item_seq, item_seq_len)
        guides, device = [], item_seq.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self.recommender.train()
            try:
                for row, key in enumerate(self._keys(item_seq, item_seq_len).tolist()):
                    torch.manual_seed(self.config["seed"] + key)
                    guides.append(super().encode(item_seq[row : row + 1], item_seq_len[row : row + 1]))
            finally:
                self.recommender.eval()
        return torch.cat(guides)

    # Reports

    def epoch_report(self):
        deviation, cosine = spread_of(self.item_embedding.weight[1:])
        return {"item std": deviation, "item cosine": cosine}

    def epoch_warning(self, report):
        collapse = collapse_of(report["item std"], report["item cosine"], self.config["initializer_range"])
        return collapse and f"{collapse}: raise ce_weight or hidden_size, or set item_target: detach"


class PreferDiff(DreamRec):
    """DreamRec with a loss that also keeps away from negatives: the mean of the other rows' next items.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/PreferDiff.yaml``.
        dataset (SequenceDataset): for the number of items.
    """

    def _restoration_losses(self, clean, guide):
        everyone = rows_of_all(clean)
        negative = (everyone.sum(0) - clean) / max(len(everyone) - 1, 1)
        restored, restored_negative = self._restore(guide, clean, negative)
        near, far = self._distance(restored, clean), self._distance(restored_negative, negative)
        if self.config["official_batch_preference"]:
            near, far = rows_of_all(near).mean(), rows_of_all(far).mean()
        share = self.config["positive_share"]
        if len(everyone) == 1:  # the last batch may be a row alone, which has no negative
            far = near
        preference = -F.logsigmoid(self.config["preference_scale"] * (far - near)).mean()
        return restored, {"positive": share * near.mean(), "preference": (1 - share) * preference}

    def _distance(self, restored, clean):
        """Of each restored vector to what it should be: [M, d] twice -> [M]."""
        if self.config["distance"] == "l2":
            return (restored.float() - clean).square().mean(-1)
        return (F.cosine_similarity(restored.float(), clean, dim=-1) - 1).square()
