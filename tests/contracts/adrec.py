"""What is special about ADRec in tests."""

from recbole_diffusion.testing import ModelContract


class ADRec(ModelContract):
    model = "ADRec"
    settings_without_chance = {"twin": True}
    switches_together = [
        {"noised_weight": 1.0, "sampling_steps": 4},
        {"noised_weight": 1.0, "sampling_steps": 4, "sampler": "naive", "reverse": "ddim"},
        {"noised_weight": 1.0, "sampling_steps": 4, "sampling_noise": False, "mse_weight": 0.0},
        {"noised_weight": 0.0, "schedule": "cosine"},
    ]
