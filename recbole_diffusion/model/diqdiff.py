r"""DiQDiff
################################################

Reference:
    Mao, Liu, Liu, Liu, Li, Hu. "Distinguished Quantized Guidance for
    Diffusion-based Sequence Recommendation." WWW 2025.

DiffuRec whose history is joined by a code, the mean of the histories that a quantiser takes for similar (SVQ), and whose
restored vectors keep away from those of other users (CDM). What the paper leaves open, and what the released code does
otherwise, is a setting in ``properties/model/DiQDiff.yaml``.
"""

import math

import torch

from recbole_diffusion.diffusion.keyed_noise import KeyedNoise, history_keys
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.codebook import SequenceCodebook, entropy, gumbel_like, gumbel_of_normal, straight_through
from recbole_diffusion.layers.contrastive import info_nce
from recbole_diffusion.model.restoring_recommender import RestoringRecommender
from recbole_diffusion.model.transformer_recommender import require_company
from recbole_diffusion.processes import rows_of_all, sum_of_all

CODE = 3  # kind of noise drawn for a history at evaluation, beside those of the base
WARMEST = 1.0  # temperature of the codes at the start of training
FEW = 1.5  # codes in use with which the quantiser counts as collapsed


class DiQDiff(RestoringRecommender):
    """Distinguished quantized guidance.

    With ``twin: True`` the noised item is left out: the Transformer restores the next item from history and code alone.
    With ``svq: none``, ``lambda_history: 1``, ``lambda_contrast: 0`` and ``lambda_std: 0.001`` what is left is DiffuRec, with
    DiffuRec's random numbers.

    Args:
        config (DiffusionConfig): settings, see ``properties/model/DiQDiff.yaml``.
        dataset (SequenceDataset): for the number of items and users.

    Raises UsageError when there are more codes than users.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.steps_taken, self.codebook, self._met = 0, None, None
        if config["svq"] == "none" or not config["lambda_code"]:
            return
        n_codes, n_users = config["num_codes"], dataset.user_num - 1  # 0 where a checkpoint is all that there is
        if 0 < n_users < n_codes:
            raise UsageError(f"num_codes {n_codes} is larger than the number of users, {n_users}: lower it")
        random, restart = config["official_codes"], config["code_restart_steps"]
        self.codebook = SequenceCodebook(
            n_codes, self.max_seq_length, config["hidden_size"], config["code_decay"], restart, not random, config["seed"]
        )
        self.label_noise = KeyedNoise(config["seed"], n_codes) if random else None

    def _init_diffusion(self, config):
        if not config["twin"]:
            super()._init_diffusion(config)

    @staticmethod
    def check_config(config):
        """Relations between settings, checked before data are read. Raises UsageError."""
        RestoringRecommender.check_config(config)
        batch, n_codes = config["train_batch_size"], config["num_codes"]
        if config["lambda_contrast"]:
            require_company(config)
        if config["official_codes"] and config["svq"] == "none":
            raise UsageError("official_codes needs svq: ema")
        if config["official_codes"] and batch < n_codes:
            raise UsageError(f"official_codes makes num_codes {n_codes} of a batch: train_batch_size {batch} is too small")

    # Codes (SVQ)

    def _with_codes(self, embedded, layout):
        """In training: what is told to the approximator [N, d], and how uneven the choice of codes is, [] or None."""
        known = self.config["lambda_history"] * embedded
        if self.codebook is None:
            return known, None
        logits = self.codebook.logits(embedded, layout).float()
        noisy = logits + self.config["code_noise"] * gumbel_like(logits)
        label = noisy.argmax(-1)
        totals = self.codebook.totals_of(embedded, label, layout)
        self._met = totals.detach()
        if self.config["official_codes"]:
            everyones = rows_of_all(totals.unsqueeze(0)).sum(0)
            code, uneven = self.codebook.look_up(self.codebook.codes(everyones), label, layout), None
        else:
            choice = straight_through(noisy, self._temperature())
            code = self.codebook.mix(self.codebook.codes(), choice, layout)
            uneven = math.log(logits.shape[1]) - entropy(rows_of_all(logits.softmax(-1)).mean(0))
        return known + self.config["lambda_code"] * code, uneven

    def _known(self, items, layout):
        embedded = self._embed(items, layout)
        known = self.config["lambda_history"] * embedded
        if self.codebook is None:
            return known
        logits = self.codebook.logits(embedded, layout)
        if self.label_noise is not None:
            distance = layout.length - 1 - layout.position
            keys = history_keys(items, distance, layout.row, len(logits))
            logits = logits + self.config["code_noise"] * gumbel_of_normal(self.label_noise(keys, CODE))
        code = self.codebook.look_up(self.codebook.codes(), logits.argmax(-1), layout)
        return known + self.config["lambda_code"] * code

    def _temperature(self):
        """Of the gradient of the choice: it falls from :data:`WARMEST`, then stays."""
        coldest, steps = self.config["code_temperature"], self.config["code_anneal_steps"]
        part = min(1, self.steps_taken / steps) if steps else 1
        return WARMEST + part * (coldest - WARMEST)

    def after_step(self):
        self.steps_taken += 1
        if self.codebook is None:
            return
        everyones = sum_of_all(torch.zeros_like(self.codebook.totals) if self._met is None else self._met)
        (self.codebook.replace if self.config["official_codes"] else self.codebook.learn)(everyones)
        self._met = None

    def training_state(self):
        return {"steps_taken": self.steps_taken}

    def load_training_state(self, state):
        self.steps_taken = state["steps_taken"]

    # Training

    def loss_parts(self, item_seq, item_seq_len, target):
        layout, items = self._history(item_seq, item_seq_len)
        noised = None if self.config["twin"] else self._noised(target)
        embedded = self._embed(items, layout)
        known, uneven = self._with_codes(embedded, layout)
        guide = 0 if noised is None else self._random_guide(embedded, *noised, layout)
        restored = self._restore(known, guide, layout)[:, 0]
        parts = {"recommendation": self._recommendation_loss(restored, item_seq, item_seq_len, target)}
        if self.config["lambda_contrast"]:
            parts["contrast"] = self.config["lambda_contrast"] * self._repulsion(restored, target)
        if uneven is not None and self.config["svq_balance"]:
            parts["balance"] = self.config["svq_balance"] * uneven
        return parts

    def _repulsion(self, restored, target):
        """Restored vectors [B, d] and those of all other users of the batch: each is to find itself (CDM), []."""
        hidden_pairs = None
        if self.config["mask_same_target"]:
            hidden_pairs = (target[:, None] == rows_of_all(target)).fill_diagonal_(False)
        return info_nce(restored, rows_of_all(restored), self.config["tau"], hidden_pairs)

    # Inference

    def sample(self, item_seq, item_seq_len, n_samples=1):
        if not self.config["twin"]:
            return super().sample(item_seq, item_seq_len, n_samples)
        layout, items = self._history(item_seq, item_seq_len)
        return self._restore(self._known(items, layout), 0, layout).expand(-1, n_samples, -1)

    # Reports

    def epoch_report(self):
        if self.codebook is None or self.config["official_codes"]:
            return {}
        return {"codes in use": math.exp(entropy(self.codebook.shares()))}

    def epoch_warning(self, report):
        n_codes, used = self.config["num_codes"], report["codes in use"]
        if n_codes == 1 or used > FEW:
            return None
        return f"nearly all histories have one code of {n_codes}: raise svq_balance, or set svq: none"
