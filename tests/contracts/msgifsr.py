"""What is special about MSGIFSR in tests."""

from recbole_diffusion.testing import ModelContract


class MSGIFSR(ModelContract):
    model = "MSGIFSR"
    settings_without_chance = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    # on a cycle every item comes from one item only: attention has no choice
    without_gradient = tuple(
        f"graph.{way}.{relation}.{end}"
        for way in ("along", "against")
        for relation in range(3)
        for end in ("source", "target")
    )
    switches_together = [
        {"relation_residual": "if_present", "short_sessions": "min_id", "expander_input": "raw", "fusion": False},
        {"n_granularities": 1, "repeat_split": False},
        {"n_granularities": 4, "reducer": "concat"},
    ]
