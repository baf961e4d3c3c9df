"""What is special about CaDiRec in tests."""

from recbole_diffusion.testing import ModelContract


class CaDiRec(ModelContract):
    model = "CaDiRec"
    # BCE never uses a seen item as negative, so only the ranking of unseen items means something.
    learning_settings = {"epochs": 60, "learning_rate": 0.01, "mask_history": True}
    settings_with_state = {"warm_up_steps": 5, "epochs": 4, "train_batch_size": 16}
    settings_without_chance = {"alpha": 0, "beta": 0, "loss_type": "CE"}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"twin": True, "denoiser": "transformer", "min_masked": 1},
        {"generation_steps": 3, "exclude_original": True},
        {"generation_steps": 2, "context_noise": False, "mse_weight": 0.5},
        {"min_masked": 1, "mask_ratio": 1.0},
        {"similarity": "cosine", "tau": 0.2, "mask_same_target": True},
        {"schedule": "cosine", "loss_type": "SS", "pos_align": "start"},
        {"alpha": 0.0},
        {"beta": 0.0, "warm_up_steps": 2},
        {"alpha": 0.0, "beta": 0.0},
        {"padding_in_softmax": True, "exclude_original": True, "official_negatives": True},
    ]
