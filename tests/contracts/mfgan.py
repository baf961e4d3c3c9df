"""What is special about MFGAN in tests."""

from recbole_diffusion.testing import ModelContract


class MFGAN(ModelContract):
    model = "MFGAN"
    settings = {"pretrain_epochs": 0, "n_candidates": 3}
    learning_settings = {"epochs": 30, "learning_rate": 0.01, "pretrain_epochs": 15}
    settings_without_chance = {"critic_dropout_prob": 0.0}
    switch_needs = {"ce_positions": {"train_view": "prefix"}}
    switches_together = [
        {"objective": "reward_bce", "balance": False},
        {"loss_type": "BCE", "alternate": "epoch", "generator_epochs": 1},
        {"encoder": "sasrec", "pos_align": "start", "normalise_advantage": False},
        {"factors": "popularity"},
    ]
