"""What is special about MMSBR in tests."""

from item_files import write_sides

from recbole_diffusion.testing import ModelContract


class MMSBR(ModelContract):
    model = "MMSBR"
    item_features = True
    learning_settings = {"epochs": 30, "learning_rate": 0.003}
    settings_without_chance = {"modality_dropout": 0.0, "hidden_dropout_prob": 0.0, "con_anchors": 0}
    switches_together = [
        {"feature_init": "random", "dropout_epochs": "first", "price_factor": "plus", "con_reduction": "sum"},
        {"n_rounds": 2, "item_features": "none", "con_anchors": 0},
        {"image_features": "none", "price_column": "none", "n_tokens": 1},
        {"category_column": "none", "con_weight": 0.0},
    ]

    @classmethod
    def write_data(cls, folder, sequences=None):
        super().write_data(folder, sequences)
        n_items = max(map(max, sequences)) if sequences else 12
        write_sides(folder, n_items=n_items, width=cls.small().get("hidden_size", 16))
        return str(folder)
