"""What is special about Popularity, Successors and CoOccurrence in tests."""

import pytest

from recbole_diffusion.testing import ModelContract


class Popularity(ModelContract):
    model = "Popularity"
    learning_settings = {}
    trains = False
    without_gradient = ("nothing",)
    settings_without_chance = {}

    @pytest.fixture(scope="class")
    def learning_folder(self, tmp_path_factory):
        """All want the one item that is met often."""
        sequences = [[first, *[12] * 6] for first in range(1, 12) for _ in range(3)]
        return self.write_data(tmp_path_factory.mktemp("learning"), sequences)


class Successors(ModelContract):
    model = "Successors"
    learning_settings = {}
    trains = False
    without_gradient = ("nothing",)
    settings_without_chance = {}


class CoOccurrence(ModelContract):
    model = "CoOccurrence"
    learning_settings = {"mask_history": True}
    knows_order = False
    trains = False
    without_gradient = ("nothing",)
    settings_without_chance = {}
