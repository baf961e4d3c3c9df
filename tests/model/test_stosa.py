"""STOSA: fast equals plain in value and gradient, known values, and the meaning of its switches."""

import math

import plain_stosa as plain
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.repetition import Additions
from recbole_diffusion.model import stosa
from recbole_diffusion.model.stosa import STOSA
from recbole_diffusion.testing import make_config, small_settings, write_sequences
from recbole_diffusion.training.networks import build_model

N_ITEMS = 60
SMALL = {"hidden_size": 16, "inner_size": 32, "n_layers": 2, "hidden_dropout_prob": 0.0, "initializer_range": 0.5}


def build(n_items=N_ITEMS, **settings):
    class FakeData:
        """As much of a data set as a model asks for."""

        def num(self, field):
            return n_items + 1

    torch.manual_seed(3)
    return STOSA(make_config("STOSA", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, **settings}), FakeData())


def batch(seed=0, rows=9, width=12):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    items = torch.randint(1, N_ITEMS + 1, (rows, width), generator=random)
    return items * (torch.arange(width) < lengths[:, None]), lengths, torch.randint(1, N_ITEMS + 1, (rows,), generator=random)


VARIANTS = [
    {},
    {"mean_path": "official"},
    {"mean_path": "official", "shared_norm": False},
    {"shared_norm": False, "pos_align": "start", "pvn_weight": 0.0},
    {"loss_type": "CE"},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_packed_equals_pairs_of_padded_gaussians_in_values_and_gradients(settings, monkeypatch):
    model = build(**settings).double()
    items, lengths, target = batch()
    negative = torch.randint(1, N_ITEMS + 1, items.shape)
    monkeypatch.setattr(stosa, "unseen_items", lambda *_: PackedLayout(lengths).pack(negative))
    found = []
    for parts in (model.loss_parts(items, lengths, target), plain.loss_parts(model, items, lengths, target, negative)):
        model.zero_grad()
        sum(parts.values()).backward()
        found.append((parts, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (fast, fast_gradients), (slow, slow_gradients) = found
    assert list(fast) == list(slow)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], msg=name)
    for name, gradient in slow_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize("settings", VARIANTS[:3])
def test_ranking_is_by_the_naive_distance(settings):
    model = build(**settings).eval()
    items, lengths, target = batch(seed=1)
    interaction = Interaction({"item_id_list": items, "item_length": lengths, "item_id": target})
    with torch.no_grad():
        scores, one = model.full_sort_predict(interaction), model.predict(interaction)
        naive = plain.ranking(model, items, lengths)
        constant = (model.encode(items, lengths)[:, :-1] / 2).square().sum(1, keepdim=True)
    torch.testing.assert_close(constant - scores, naive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(constant.squeeze(1) - one, naive.gather(1, target[:, None]).squeeze(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(scores[:, 1:].argmax(1), naive[:, 1:].argmin(1))


class Largest(TorchDispatchMode):
    """Number of cells of the largest tensor that any operation makes."""

    cells = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(one):
                self.cells = max(self.cells, one.numel())
        return result


def test_no_tensor_is_larger_than_the_table_of_keys():
    model = build(n_items=20_000)
    items, lengths, target = batch(rows=40)
    assert lengths.sum() > 2 * 16 + 1  # so that tokens times items would show
    with Largest() as seen:
        sum(model.loss_parts(items, lengths, target).values()).backward()
        with torch.no_grad():
            model.full_sort_predict({model.ITEM_SEQ: items[:30], model.ITEM_SEQ_LEN: lengths[:30]})
    assert seen.cells == 20_001 * (2 * 16 + 1)


# The loss


def test_loss_by_hand(monkeypatch):
    """Distances 1 to the positive item, 3 to the negative one and .5 between them."""
    model = build(pvn_weight=0.005)
    pairs = iter([torch.ones(4), torch.full((4,), 3.0), torch.full((4,), 0.5)])
    monkeypatch.setattr(stosa, "squared_distance", lambda *_: next(pairs))
    parts = model._compare(None, torch.ones(4, dtype=torch.long), torch.ones(4, dtype=torch.long), None)
    assert parts["recommendation"].item() == pytest.approx(0.126928, abs=1e-6)
    assert parts["pvn"].item() == pytest.approx(0.005 * 0.5)


def test_learned_repetition_moves_the_difference_of_scores(monkeypatch):
    model = build(pvn_weight=0.0)
    pairs = iter([torch.ones(2), torch.full((2,), 3.0)])
    monkeypatch.setattr(stosa, "squared_distance", lambda *_: next(pairs))
    met = Additions(torch.tensor([0, 1]), torch.tensor([5, 7]), torch.tensor([-1.0, -2.0]))
    positive, negative = torch.tensor([5, 6]), torch.tensor([8, 7])  # met: the first positive, the second negative
    loss = model._compare(None, positive, negative, met)["recommendation"].item()
    assert loss == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-4))) / 2, abs=1e-6)


def test_negatives_are_items_that_the_row_holds_nowhere(monkeypatch):
    model, drawn = build(n_items=16), {}
    original = stosa.unseen_items

    def watched(owners, *given):
        drawn.update(owners=owners, items=original(owners, *given))
        return drawn["items"]

    monkeypatch.setattr(stosa, "unseen_items", watched)
    items, lengths, target = batch(seed=2)
    items, target = (items - 1) % 16 + 1, (target - 1) % 16 + 1
    items = items * (torch.arange(12) < lengths[:, None])
    model.loss_parts(items, lengths, target)
    assert len(drawn["items"]) == lengths.sum() and drawn["items"].min() >= 1
    for row, (history, next_item) in enumerate(zip(items, target)):
        met = {*history.tolist(), next_item.item()}
        assert not met & set(drawn["items"][drawn["owners"] == row].tolist())


def test_items_of_validation_and_test_change_no_loss_of_training(tmp_path):
    """The released sampler of negatives avoids them, by which they reach the training."""
    numbering = [1 + n % 12 for n in range(14)]  # met first, so that both data sets number items alike
    losses = []
    for kind, end in (("one", [11, 12]), ("other", [10, 9])):
        users = [[1 + (start + step) % 8 for step in range(5)] + end for start in range(8)]
        folder = write_sequences([numbering, *users], tmp_path / kind, "cycle")
        config = make_config("STOSA", folder, **small_settings("STOSA"))
        loaders = build_loaders(config, create_dataset(config))
        network, sums = build_model(config, loaders[0]).train(), []
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for interaction in [*loaders[0], *loaders[0]]:
            optimizer.zero_grad()
            loss = sum(network.calculate_loss(interaction))
            loss.backward()
            optimizer.step()
            sums.append(loss.item())
        losses.append(sums)
    assert losses[0] == losses[1] and len(losses[0]) >= 2


# Switches


def user(model, history):
    """Mean and deviation of a user: [d] each."""
    with torch.no_grad():
        point = model.encode(torch.tensor([history]), torch.tensor([len(history)]))[0, :-1] / 2
    return point.chunk(2)


def test_mean_path_decides_whether_early_items_move_the_mean_of_a_user():
    for path in ("paper", "official"):
        model = build(mean_path=path).eval()
        (mean, deviation), (other_mean, other_deviation) = user(model, [1, 2, 3, 9]), user(model, [7, 5, 4, 9])
        assert not torch.allclose(deviation, other_deviation)
        assert torch.equal(mean, other_mean) == (path == "official")


def test_official_mean_is_that_of_the_last_item_at_its_place():
    model = build(mean_path="official").eval()
    layer, last = model.transformer, model.item_embedding.weight[9] + model.transformer.mean_position.weight[11]
    with torch.no_grad():
        expected = F.elu(layer.norm[0](last))
    torch.testing.assert_close(user(model, [1, 2, 3, 9])[0], expected)


@pytest.mark.parametrize("shared_norm", [True, False])
def test_official_leaves_dead_weights_out(shared_norm):
    paper, official = (build(mean_path=path, shared_norm=shared_norm) for path in ("paper", "official"))
    missing = sum(p.numel() for p in paper.parameters()) - sum(p.numel() for p in official.parameters())
    d, inner, layers = 16, 32, 2
    norms = 2 * d if shared_norm else 4 * d  # of the feed-forward layers, and after attention
    assert missing == layers * (2 * (d * d + d) + d * inner + inner + inner * d + d + norms)
    sum(official.loss_parts(*batch()).values()).backward()
    assert [name for name, p in official.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_initial_weights_are_around_the_mean_of_the_released_code():
    model = build(initializer_range=0.02, initializer_mean=0.01)
    for weights in (model.item_embedding.weight[1:], model.item_spread.weight, model.transformer.blocks[0].dense[0].weight):
        assert weights.mean().item() == pytest.approx(0.01, abs=0.005) and weights.std().item() == pytest.approx(0.02, abs=0.004)
    assert model.item_embedding.weight[0].abs().sum() == 0


def test_half_precision_changes_little():
    model = build(initializer_range=0.1, hidden_size=64)
    items, lengths, _ = batch(seed=4)
    with torch.no_grad():
        exact = model.encode(items, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.encode(items, lengths)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.05)
