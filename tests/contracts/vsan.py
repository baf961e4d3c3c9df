"""What is special about VSAN in tests."""

from recbole_diffusion.testing import ModelContract


class VSAN(ModelContract):
    model = "VSAN"
    settings = {"kl_anneal_steps": 4}
    settings_with_state = {"kl_anneal_steps": 100, "kl_weight": 1.0}
    settings_without_chance = {"twin": True}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"separate_variance_stack": True, "encoder": "ligr", "official_eval_shift": True},
        {"next_k": 3, "repetition": "learned"},
        {"loss_type": "BCE", "mask_history": True},
    ]
