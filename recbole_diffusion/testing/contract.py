"""The contract of a model, as a pytest mixin.

A new model is tested by::

    class TestMyModel(ModelContract):
        model = "MyModel"
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.quick_start import run
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing.data import (
    cycle_sequences,
    group_sequences,
    make_config,
    write_features,
    write_sequences,
)
from recbole_diffusion.testing.settings import small_settings
from recbole_diffusion.training.networks import build_model


class ModelContract:
    """Subclass with ``model``; everything else is optional and says what is special about the model.

    Attributes:
        model (str): registered name.
        settings (dict): what a small network needs beside :func:`~recbole_diffusion.testing.small_settings`.
        learning_settings (dict): what it takes to learn the data.
        knows_order (bool): whether it can learn a cycle; if not, it is given unordered groups, see
            :func:`~recbole_diffusion.testing.group_sequences`.
        item_features (bool): whether its data come with vectors of the items.
        trains (bool): False for a model without gradients.
        without_gradient (tuple): prefixes of parameters that rightly get no gradient.

    The tests of this package take all models from the registry and read more of a contract:

    Attributes:
        settings_with_state (dict): what makes training keep a state that a resumption must bring back.
        settings_without_chance (dict): settings under which nothing is random, so that several processes give the
            metrics of one; None where there are none.
        switch_needs (dict): setting -> other settings without which its values do nothing or are refused.
        switches_together (list[dict]): switches that only show together.
    """

    model: str | None = None
    settings: dict[str, Any] = {}
    learning_settings: dict[str, Any] = {"epochs": 30, "learning_rate": 0.01}
    knows_order = True
    item_features = False
    trains = True
    without_gradient: tuple[str, ...] = ()
    settings_with_state: dict[str, Any] = {}
    settings_without_chance: dict[str, Any] | None = None
    switch_needs: dict[str, dict[str, Any]] = {}
    switches_together: Sequence[dict[str, Any]] = ()

    @classmethod
    def small(cls, **more: Any) -> dict[str, Any]:
        """Settings of a small network of this model, ``more`` on top."""
        return {**small_settings(cls.model), **cls.settings, **more}

    @classmethod
    def write_data(cls, folder: Any, sequences: list[list[int]] | None = None) -> str:
        """Write sequences, by default those of a cycle, and features where the model wants them; returns ``folder``."""
        sequences = sequences or cycle_sequences()
        write_sequences(sequences, folder, "cycle")
        if cls.item_features:
            width = cls.small().get("hidden_size", 16)
            write_features(folder, n_items=max(map(max, sequences)), width=width)
        return str(folder)

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return self.write_data(tmp_path_factory.mktemp("contract"))

    @pytest.fixture(scope="class")
    def learning_folder(self, folder, tmp_path_factory):
        """Data whose next items can be known; a model that can learn neither kind brings its own."""
        return folder if self.knows_order else self.write_data(tmp_path_factory.mktemp("learning"), group_sequences())

    @pytest.fixture(scope="class")
    def prepared(self, folder):
        config = make_config(self.model, folder, **self.small())
        data = create_dataset(config)
        loaders = build_loaders(config, data)
        return config, build_model(config, loaders[0]), loaders

    @pytest.fixture
    def network(self, prepared):
        return copy.deepcopy(prepared[1]).eval()

    @pytest.fixture
    def batch(self, prepared):
        return next(iter(prepared[2][0]))

    def interaction(self, network: Any, sequences: Sequence[Sequence[int]], width: int | None = None) -> Interaction:
        """A batch of given histories; the target is the last item, which does not matter for scores."""
        lengths = torch.tensor([len(s) for s in sequences])
        rows = torch.zeros(len(sequences), width or int(lengths.max()), dtype=torch.long)
        for row, sequence in zip(rows, sequences):
            row[: len(sequence)] = torch.tensor(sequence)
        columns = {network.ITEM_SEQ: rows, network.ITEM_SEQ_LEN: lengths}
        columns[network.ITEM_ID] = torch.tensor([s[-1] for s in sequences])
        columns[network.USER_ID] = torch.ones(len(sequences), dtype=torch.long)
        return Interaction(columns)

    def scores(self, network: Any, sequences: Sequence[Sequence[int]], width: int | None = None) -> torch.Tensor:
        with torch.no_grad():
            return network.full_sort_predict(self.interaction(network, sequences, width)).view(len(sequences), -1)

    def total_loss(self, network: Any, batch: Interaction) -> Any:
        losses = network.calculate_loss(batch)
        return sum(losses) if isinstance(losses, tuple) else losses

    def test_loss_is_a_finite_scalar(self, network, batch):
        loss = self.total_loss(network.train(), batch)
        assert loss.shape == () and torch.isfinite(loss)

    def test_every_parameter_gets_a_gradient(self, network, batch):
        self.total_loss(network.train(), batch).backward()
        idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert [name for name in idle if not name.startswith(self.without_gradient or ("\0",))] == []

    def test_no_part_of_the_loss_moves_the_other_side(self, network, batch):
        """A critic's parameters follow its own part of the loss alone, and that part moves nothing else."""
        critics = getattr(network, "critics", dict)()
        losses = network.train().calculate_loss(batch)
        named = dict(network.named_parameters())
        for part, loss in zip(network.loss_names, losses) if critics else ():
            gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
            moved = {name for name, g in zip(named, gradients) if g is not None and g.abs().sum() > 0}
            sides = {next((p for p, (start, _) in critics.items() if name.startswith(start)), "") for name in moved}
            assert sides == {part if part in critics else ""}, part

    def test_predict_is_a_column_of_full_sort_predict(self, network):
        batch = self.interaction(network, [[1, 2, 3], [4], [5, 6, 7, 8]])
        with torch.no_grad():
            one, everything = network.predict(batch), network.full_sort_predict(batch).view(3, -1)
        torch.testing.assert_close(one, everything[torch.arange(3), batch[network.ITEM_ID]])

    def test_scores_do_not_depend_on_padding(self, network):
        sequences = [[1, 2, 3], [4, 5]]
        narrow, wide = self.scores(network, sequences), self.scores(network, sequences, network.max_seq_length)
        torch.testing.assert_close(narrow, wide)

    def test_scores_do_not_depend_on_the_batch(self, network):
        sequences = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2]]
        together = self.scores(network, sequences)
        alone = torch.cat([self.scores(network, [sequence]) for sequence in sequences])
        backwards = self.scores(network, sequences[::-1]).flip(0)
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(together, backwards)

    def test_unusual_histories_are_scored(self, network):
        longest = [(i % 12) + 1 for i in range(network.max_seq_length)]
        scores = self.scores(network, [[1], longest, [3] * network.max_seq_length])
        assert torch.isfinite(scores[:, 1:]).all()

    def test_losses_of_unusual_histories(self, network):
        for sequences in ([[1]], [[3, 3, 3]], [[1], [2]]):
            loss = self.total_loss(network.train(), self.interaction(network, sequences))
            assert torch.isfinite(loss)

    def test_evaluation_repeats_and_leaves_the_random_state(self, network):
        state = torch.get_rng_state()
        first, second = self.scores(network, [[1, 2]]), self.scores(network, [[1, 2]])
        assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())

    def test_padding_is_never_recommended(self, prepared, network):
        config, _, loaders = prepared
        data = loaders[0]._dataset
        tokens = [str(token) for token in data.field2id_token[data.iid_field]]
        ranking = Recommender(config, network, tokens).recommend([[tokens[1], tokens[2]]], k=len(tokens) - 1)[0]
        assert {token for token, _ in ranking} == set(tokens[1:])

    def test_loss_and_scores_leave_the_mode_as_it_was(self, network, batch):
        self.total_loss(network.train(), batch)
        assert all(module.training for module in network.modules())
        self.scores(network.eval(), [[1, 2]])
        assert not any(module.training for module in network.modules())

    def test_state_dict_round_trip(self, prepared, network):
        config, _, loaders = prepared
        other = build_model(config, loaders[0]).eval()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        other.load_state_dict(network.state_dict())
        assert torch.equal(self.scores(network, [[1, 2]]), self.scores(other, [[1, 2]]))

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_loss_in_half_precision_is_finite(self, network, batch, half):
        with torch.autocast("cpu", dtype=half):
            loss = self.total_loss(network.train(), batch)
        loss.backward()
        assert torch.isfinite(loss)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_cpu_and_gpu_agree(self, network):
        batch = self.interaction(network, [[1, 2, 3], [4]])
        with torch.no_grad():
            on_cpu = network.full_sort_predict(batch)
            network.cuda().device = torch.device("cuda")
            on_gpu = network.full_sort_predict(batch.to("cuda")).cpu()
        torch.testing.assert_close(on_cpu, on_gpu, atol=1e-4, rtol=1e-4)

    def test_learns_what_can_be_known(self, learning_folder):
        config = make_config(self.model, learning_folder, **self.small(**self.learning_settings)).external_config_dict
        result = run(self.model, "cycle", config_dict=config)
        assert result["test_result"]["hit@1"] > 0.95  # popularity reaches one in ten

    def test_same_seed_same_numbers(self, folder):
        config = make_config(self.model, folder, **self.small(epochs=2)).external_config_dict
        first, second = (run(self.model, "cycle", config_dict=config) for _ in range(2))
        assert first["test_result"] == second["test_result"]
        assert first["best_valid_result"] == second["best_valid_result"]
