"""What is special about DiffuRec and DiffuRecSys in tests."""

from recbole_diffusion.testing import ModelContract

# Several reverse steps, of which one is the default.
STEPS = {"sampling_steps": 2, "stopping_step": 10}
# Noise that is too weak to change a digit.
FAINT = {"diffusion_steps": 1, "schedule": "linear", "beta_start": 1e-15, "beta_end": 2e-15, "sampling_steps": 1}
FAINT.update(lambda_mean=1.0, lambda_std=0.0, initializer_range=0.02)


class DiffuRec(ModelContract):
    model = "DiffuRec"
    settings = STEPS
    learning_settings = {"epochs": 12, "learning_rate": 0.01, "eval_step": 4}
    settings_with_state = {"eval_step": 2, "epochs": 4, "lr_decay_step": 3}
    settings_without_chance = FAINT


class DiffuRecSys(ModelContract):
    model = "DiffuRecSys"
    settings = STEPS
    learning_settings = {"epochs": 12, "learning_rate": 0.01, "eval_step": 4}
    settings_without_chance = {**FAINT, "offset_noise": "none"}
    switch_needs = {
        "key_softmax": {"cross_attention": "linear"},
        "drop_cross_output": {"cross_attention": "linear"},
        "fill_padding_rows": {"cross_attention": "linear", "attention_mask": "queries"},
    }
    switches_together = [
        {"offset_noise": "per_dim", "offset_strength": 0.5},
        {"schedule": "cosine", "sampler": "ddim"},
        {"schedule": "sqrt", "sampler": "ddim", "ddim_eta": 0.5},
        {"sampling_steps": 1},
        {"sampling_steps": 3, "reverse_variance": "posterior"},
        {"attention_mask": "queries", "padding_in_softmax": True, "block_stack": "last"},
        {**dict.fromkeys(("fill_padding_rows", "shared_norm", "drop_cross_output"), True), "drop_block_output": False,
         "cross_attention": "linear", "key_softmax": "heads", "attention_mask": "queries"},
        {"lr_decay_step": 5, "weight_decay": 0.0},
    ]
