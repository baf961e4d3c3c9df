"""What is special about SimDiffRec in tests."""

from recbole_diffusion.testing import ModelContract


class SimDiffRec(ModelContract):
    model = "SimDiffRec"
    settings = {"diffusion_steps": 50}
    settings_with_state = {"noise_refresh": 5, "epochs": 4, "train_batch_size": 16}
    # A single time step: the noise is that of the nearest items.
    settings_without_chance = {"k_sample": 2, "diffusion_steps": 1}
    switch_needs = {
        "ce_positions": {"train_view": "prefix"},
        "official_compat": {"share_denoiser": True, "train_view": "prefix"},
    }
    switches_together = [
        {"loss_type": "BCE", "mask_history": True},
        {"confidence_t": "T", "reverse_steps": 3},
        {"sim_metric": "cosine", "detach_noise": True, "noise_refresh": 4},
        {"exclude_original": True, "mask_same_target": True},
        {"pos_align": "start", "mse_weight": 0.0},
        {"alpha": 0.0},
        {"encoder": "ligr", "share_denoiser": True},
        {"encoder": "hstu", "share_denoiser": True},
    ]
