"""What is special about DiQDiff in tests."""

from recbole_diffusion.testing import ModelContract

# Noise that is too weak to change a digit, and codes that are not drawn.
FAINT = {"diffusion_steps": 1, "schedule": "linear", "beta_start": 1e-15, "beta_end": 2e-15, "sampling_steps": 1}
FAINT.update(lambda_mean=1.0, initializer_range=0.02, code_noise=0.0)


class DiQDiff(ModelContract):
    model = "DiQDiff"
    settings = {"num_codes": 4, "sampling_steps": 2, "stopping_step": 10}
    learning_settings = {"epochs": 12, "learning_rate": 0.01, "eval_step": 4}
    settings_with_state = {"eval_step": 2, "epochs": 4, "lr_decay_step": 3}
    settings_without_chance = FAINT
    switches_together = [
        {"official_codes": True, "mask_same_target": False, "reverse_variance": "official_exp", "attention_mask": "queries",
         "padding_in_softmax": True},
        {"svq": "none", "twin": True, "lambda_contrast": 0.0},
        {"num_codes": 1, "lambda_std": 0.001, "sampler": "ddim", "ddim_eta": 0.5},
        {"twin": True, "official_codes": True, "ensemble_seeds": 2},
    ]  # fmt: skip
