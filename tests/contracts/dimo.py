"""What is special about DIMO in tests."""

from recbole_diffusion.testing import ModelContract


class DIMO(ModelContract):
    model = "DIMO"
    item_features = True
    learning_settings = {"epochs": 30, "learning_rate": 0.02}
    settings_without_chance = {"graph_dropout": 0.0, "attn_dropout_prob": 0.0, "co_weight": 0.0}
    switches_together = [
        {"proxy_arguments": "released", "target_lookup": "shifted", "feature_init": "random", "dropout_epochs": "first"},
        {"n_layers": 0, "co_anchors": 0, "graph_folds": 0},
        {"item_features": "none", "n_companions": 3},
    ]
