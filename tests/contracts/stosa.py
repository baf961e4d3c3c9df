"""What is special about STOSA in tests."""

from recbole_diffusion.testing import ModelContract


class STOSA(ModelContract):
    model = "STOSA"
    # BPR never pushes an item of the history away, so that only the softmax says what comes first among all items.
    learning_settings = {"epochs": 30, "learning_rate": 0.01, "loss_type": "CE"}
    settings_without_chance = {"loss_type": "CE"}
    switches_together = [
        {"mean_path": "official", "shared_norm": False},
        {"loss_type": "CE", "mean_path": "official"},
        {"pvn_weight": 0.0, "pos_align": "start"},
    ]
