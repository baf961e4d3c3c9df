"""What is special about DiffSBR in tests."""

from recbole_diffusion.testing import ModelContract


class DiffSBR(ModelContract):
    model = "DiffSBR"
    learning_settings = {"epochs": 15, "learning_rate": 0.01, "mask_history": True, "eval_step": 5}
    knows_order = False
    item_features = True
    # Noise that is too weak to change a digit, and no random choice of items.
    settings_without_chance = {"diffusion_steps": 1, "corruption_steps": 1, "schedule": "linear", "alignment_items": 0}
    settings_without_chance.update(beta_start=1e-15, beta_end=2e-15)
    switches_together = [
        {"retrieval": False, "fusion": "none"},
        {"neighbors": "observable", "fusion": "late", "bank_sessions": "input"},
        {"propagation": "mean", "n_layers": 2, "session_gate": "vector"},
        {"graph_edges": "transitions", "corruption_steps": 0, "detach_target": False},
        {"alignment_items": 0, "train_features": False},
        {"alignment_items": 5, "alignment_weight": 0.5},
        {"n_layers": 0, "retrieval": False},
    ]
