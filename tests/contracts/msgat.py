"""What is special about MSGAT in tests."""

from recbole_diffusion.testing import ModelContract


class MSGAT(ModelContract):
    model = "MSGAT"
    settings_without_chance = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "neighbor_dropout": 0.0}
    switches_together = [
        {"inter_attention": False, "k_neighbors": 0},
        {"position": "id_rank", "attention_mask": False, "gnn_steps": 0},
    ]
