"""What is special about CL4SRec in tests."""

from recbole_diffusion.testing import ModelContract


class CL4SRec(ModelContract):
    model = "CL4SRec"
    # The last item of a cycle says everything, and views without it have to be alike: at full weight that takes long.
    learning_settings = {**ModelContract.learning_settings, "contrast_weight": 0.01}
    settings_with_state = {"official_compat": True, "ce_positions": "last", "train_view": "prefix"}
    settings_without_chance = {"contrast_weight": 0}
    switch_needs = {
        "ce_positions": {"train_view": "prefix"},
        "official_compat": {"ce_positions": "last", "train_view": "prefix"},
    }
    switches_together = [
        {"loss_type": "BCE", "mask_history": True},
        {"similarity": "cosine", "tau": 0.2, "mask_same_target": True},
        {"contrast_weight": 0.0},
    ]
