"""What models keep between two changes of their weights."""

import pytest

from recbole_diffusion.layers.kept import KeepsWhatWeightsGive


class Keeps(KeepsWhatWeightsGive):
    def forget(self):
        self.table = None


@pytest.mark.parametrize("training", [True, False])
def test_dropout_comes_back_after_an_error_and_nothing_is_forgotten(training):
    model = Keeps().train(training)
    model.table = "kept"
    with pytest.raises(MemoryError), model.without_dropout():
        assert not model.training
        raise MemoryError
    assert model.training is training and model.table == "kept"
