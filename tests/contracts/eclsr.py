"""What is special about ECL-SR in tests."""

from recbole_diffusion.testing import ModelContract


class ECLSR(ModelContract):
    model = "ECLSR"
    # Everything but the first item is masked, whatever is drawn.
    settings_without_chance = {"mask_ratio": 0.999}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"loss_type": "BCE", "mask_history": True},
        {"strategy": "prob", "mask_ratio": 0.6, "condition": "add"},
        {"k_last": 1, "condition": "add", "ce_positions": "last", "train_view": "prefix"},
        {"official_compat": True, "ce_positions": "last", "train_view": "prefix"},
        {"encoder": "ligr", "contrast_weight": 0.0},
        {"encoder": "hstu", "official_compat": True},
        {"discriminator_weight": 0.0, "generator_weight": 0.0},
        {"contrast_weight": 0.0, "discriminator_weight": 0.0, "generator_weight": 0.0},
    ]
