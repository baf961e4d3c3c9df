"""What is special about MCLRec in tests."""

from recbole_diffusion.testing import ModelContract


class MCLRec(ModelContract):
    model = "MCLRec"
    settings = {"contrast_weight": 0.1}
    # Users of one cycle are alike, which a strong contrast of the encoded views would have apart.
    learning_settings = {"epochs": 30, "learning_rate": 0.01, "contrast_weight": 0.0}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"loss_type": "BCE", "mask_history": True},
        {"meta": "official", "reg": "official", "ce_positions": "last", "train_view": "prefix"},
        {"similarity": "cosine", "tau": 0.2, "mask_same_target": True},
        {"meta": "simultaneous", "mask_as": "token", "encoder": "hstu"},
        {"meta_weight": 0.0},
        {"meta_weight": 0.0, "contrast_weight": 0.0},
    ]
