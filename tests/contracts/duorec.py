"""What is special about DuoRec in tests."""

from recbole_diffusion.testing import ModelContract


class DuoRec(ModelContract):
    model = "DuoRec"
    settings_without_chance = {"contrast": "un", "mask_same_target": True}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"loss_type": "BCE", "mask_history": True},
        {"contrast": "us", "similarity": "cosine", "tau": 0.2, "mask_same_target": True},
        {"contrast": "us_x", "reuse_pass": True, "ce_positions": "last", "train_view": "prefix"},
        {"contrast_weight": 0.0, "semantic_weight": 0.0},
    ]
