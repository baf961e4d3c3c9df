"""What is special about ACVAE in tests."""

from recbole_diffusion.testing import ModelContract


class ACVAE(ModelContract):
    model = "ACVAE"
    settings = {"latent_size": 16, "gru_size": 16, "critic_size": 16}
    learning_settings = {"epochs": 40, "learning_rate": 0.01, "embedding_dropout_prob": 0.1}
    settings_without_chance = {"twin": True}
    switches_together = [
        {"contrast_negatives": "roll", "critic_context": "state"},
        {"kl_weight": 0.0, "eval_draws": 0},
        {"contrast_weight": 0.0, "encoder_noise": False},
    ]
