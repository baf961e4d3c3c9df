"""What is special about AttenMixer in tests."""

from recbole_diffusion.testing import ModelContract


class AttenMixer(ModelContract):
    model = "AttenMixer"
    settings_without_chance = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "table_dropout": 0.0}
    switches_together = [
        {"level": "sum", "pool_power": 1.0, "n_levels": 1},
        {"attention": "released", "level": "sum", "n_levels": 12},
    ]
