"""What is special about SKNN in tests."""

from recbole_diffusion.testing import ModelContract


class SKNN(ModelContract):
    model = "SKNN"
    learning_settings = {"mask_history": True, "n_neighbors": 100}
    knows_order = False
    trains = False
    without_gradient = ("nothing",)
    settings_without_chance = {}
