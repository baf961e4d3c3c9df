"""What is special about MGS in tests."""

from item_files import write_categories

from recbole_diffusion.testing import ModelContract


class MGS(ModelContract):
    model = "MGS"
    settings = {"n_mates": 2}  # fewer than there are, so that they are drawn
    learning_settings = {"epochs": 40, "learning_rate": 0.02}
    settings_without_chance = {"n_mates": 8, "hidden_dropout_prob": 0.0}
    switches_together = [
        {"eval_neighbours": "keyed", "ssl_padding": True, "ssl_reduction": "sum"},
        {"attribute": "none", "mu": 1.2, "n_rounds": 1},
    ]

    @classmethod
    def write_data(cls, folder, sequences=None):
        folder = super().write_data(folder, sequences)
        write_categories(folder, n_items=20)
        return folder
