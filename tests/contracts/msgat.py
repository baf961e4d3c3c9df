"""What is special about MSGAT in tests."""

from recbole_diffusion.testing import ModelContract


class MSGAT(ModelContract):
    model = "MSGAT"
    settings_without_chance = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "neighbor_dropout": 0.0}
    # Where all items of a session pass the readout's ReLU, its target moves all logits alike: gradients of rounding, which
    # Adam would make as large as any.
    settings_without_chance.update(weight_decay=0.001)
    switches_together = [
        {"inter_attention": False, "k_neighbors": 0},
        {"position": "id_rank", "attention_mask": False, "gnn_steps": 0},
    ]
