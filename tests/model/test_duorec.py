"""DuoRec: fast equals plain, what each contrast compares, SASRec without it."""

import plain_contrastive as plain
import pytest
import torch
from test_cl4srec import LAST, SMALL, trained
from test_simdiffrec import N_ITEMS, FakeData, batch

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.examples import TARGET, TrainingExamples
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.model.duorec import DuoRec
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.training.networks import build_model


class Data(FakeData):
    """Histories of which every third has the same target."""

    def training_examples(self, every_prefix=False):
        assert every_prefix
        generator = torch.Generator().manual_seed(4)
        flat = torch.randint(1, N_ITEMS + 1, (400,), generator=generator)
        lengths = torch.randint(1, 13, (90,), generator=generator)
        places = 13 + torch.arange(90) * 4
        return TrainingExamples(flat, places - lengths, lengths, places, 1 + torch.arange(90) % 30)


def build(**settings):
    torch.manual_seed(3)
    settings = {**SMALL, "contrast_weight": 0.2, "semantic_weight": 0.3, "initializer_range": 0.5, **settings}
    return DuoRec(make_config("DuoRec", "unused", MAX_ITEM_LIST_LENGTH=12, **settings), Data()).double()


def inputs(rows=11):
    """A batch whose targets, but for one, are met in training."""
    items, lengths, target = batch(rows=rows)
    target = 1 + torch.arange(rows) % 9
    target[-1] = 31
    return items, lengths, target, torch.full_like(target, -1)


# contrast -> names of the parts -> weight and two sets of states: the history's, its copy's, the same target's
PAIRS = {
    "un": {"contrast": (0.2, 0, 1)},
    "su": {"semantic": (0.3, 0, 2)},
    "us": {"contrast": (0.2, 0, 1), "semantic": (0.3, 0, 2)},
    "us_x": {"semantic": (0.3, 1, 2)},
}


@pytest.mark.parametrize("contrast", PAIRS)
@pytest.mark.parametrize("more", [{}, LAST, {"similarity": "cosine", "tau": 0.3, "mask_same_target": True}])
def test_packed_equals_padded_in_values_and_gradients(contrast, more):
    model = build(contrast=contrast, **more)
    items, lengths, target, place = inputs()
    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target, place)
    sum(fast.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    torch.manual_seed(5)
    positives = model.positives(items, lengths, target, place) if contrast != "un" else (items, lengths)
    slow = plain.loss_parts(model, items, lengths, target, [(items, lengths), positives], PAIRS[contrast])
    sum(slow.values()).backward()
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_positives_have_the_same_target_and_a_row_without_peer_stays():
    model = build()
    items, lengths, target, place = inputs()
    examples = model.same_target.examples
    ids, new_lengths = model.positives(items, lengths, target, place)
    for row in range(len(items) - 1):
        same = (examples.targets == target[row]).nonzero().squeeze(1)
        histories = [examples.histories(number[None]) for number in same]
        assert any(n == new_lengths[row] and torch.equal(found[0], ids[row, :n]) for found, n in histories)
    assert new_lengths[-1] == lengths[-1] and torch.equal(ids[-1, : items.shape[1]], items[-1])


@pytest.mark.parametrize("view", ["sequence", "prefix"])
def test_positives_of_batches_are_other_examples_of_the_training_part(tmp_path, view):
    folder = write_sequences(cycle_sequences(max_length=9), tmp_path, "cycle")
    config = make_config("DuoRec", folder, **small_settings("DuoRec"), train_view=view, train_batch_size=8)
    loader = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, loader)
    examples = model.same_target.examples
    assert len(examples) > len(loader._dataset) if view == "sequence" else len(examples) == len(loader._dataset)
    for interaction in loader:
        place, target = interaction[TARGET], interaction["item_id"]
        numbers = model.same_target.draw(place, target)
        assert (numbers >= 0).all()  # on a cycle every item is a target again and again
        assert torch.equal(examples.targets[numbers], target) and (examples.places[numbers] != place).all()


def test_us_x_without_dropout_is_su_and_reuse_pass_always():
    losses = {}
    for name, settings in {
        "su": {"contrast": "su"},
        "us_x": {"contrast": "us_x"},
        "reused": {"contrast": "us_x", "reuse_pass": True},
        "su with dropout": {"contrast": "su", "hidden_dropout_prob": 0.4},
        "reused with dropout": {"contrast": "us_x", "reuse_pass": True, "hidden_dropout_prob": 0.4},
        "us_x with dropout": {"contrast": "us_x", "hidden_dropout_prob": 0.4},
    }.items():
        model = build(**settings)
        torch.manual_seed(1)
        losses[name] = sum(model.loss_parts(*inputs()).values())
    torch.testing.assert_close(losses["us_x"], losses["su"])
    assert torch.equal(losses["reused"], losses["su"])
    assert torch.equal(losses["reused with dropout"], losses["su with dropout"])
    assert not torch.isclose(losses["us_x with dropout"], losses["su with dropout"])


def distance_beyond_chance(one, other):
    """Share of random splits of all draws [n, d] into two halves whose means are at least as far apart as given."""
    draws, n = torch.cat([one, other]), len(one)
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randperm(2 * n, generator=generator)[:n] for _ in range(500)]
    total, found = draws.sum(0), (one.mean(0) - other.mean(0)).norm()
    return sum((2 * draws[half].sum(0) - total).norm() / n >= found for half in halves) / len(halves)


def test_reuse_pass_has_the_gradient_of_us_x_on_average():
    """Of the contrast with respect to the item table, over draws of dropout; twice as much would be seen."""
    draws = []
    for reuse in (False, True):
        model = build(hidden_dropout_prob=0.02, reuse_pass=reuse, similarity="cosine", tau=0.3)
        items, lengths, target, place = inputs()
        torch.manual_seed(6)
        positives = model.positives(items, lengths, target, place)
        model.positives = lambda *_: positives
        torch.manual_seed(0)
        parts = (model.loss_parts(items, lengths, target, place)["semantic"] for _ in range(80))
        table = model.item_embedding.weight
        draws.append(torch.stack([torch.autograd.grad(part, table)[0].flatten() for part in parts]))
    assert distance_beyond_chance(*draws) > 0.05
    assert distance_beyond_chance(draws[0], 2 * draws[1]) < 0.01


@pytest.mark.parametrize("contrast", PAIRS)
def test_without_contrast_it_is_sasrec_bit_by_bit(tmp_path, contrast):
    folder = write_sequences(cycle_sequences(max_length=9), tmp_path, "cycle")
    nothing = {"contrast_weight": 0, "semantic_weight": 0}
    ours = trained("DuoRec", folder, contrast=contrast, **nothing)
    sasrec = trained("SimDiffRec", folder, alpha=0, beta=0)
    assert ours["training"]["train_loss_dict"] == sasrec["training"]["train_loss_dict"]
    assert ours["state_dict"].keys() == sasrec["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][name], tensor) for name, tensor in sasrec["state_dict"].items())


@pytest.mark.parametrize("contrast, parts", {"un": ["contrast"], "us": ["contrast", "semantic"]}.items())
def test_weights_that_a_contrast_does_not_read_do_nothing(contrast, parts):
    model = build(contrast=contrast)
    assert list(model.loss_parts(*inputs()))[1:] == parts
    other = "semantic_weight" if contrast == "un" else "contrast_weight"
    model = build(contrast=contrast, **{other: 0})
    assert list(model.loss_parts(*inputs()))[1:] == [part for part in parts if not other.startswith(part)]


def test_validation_and_test_items_change_no_training_loss(tmp_path):
    losses = []
    for name, ends in (("one", [1, 2]), ("other", [7, 4])):
        numbering = [*range(1, 13), 1, 2]
        sequences = [numbering, *([*sequence, *ends] for sequence in cycle_sequences(max_length=9))]
        folder = write_sequences(sequences, tmp_path / name, "cycle")
        config = make_config("DuoRec", folder, **small_settings("DuoRec"), train_batch_size=8)
        loader = build_loaders(config, create_dataset(config))[0]
        model = build_model(config, loader).train()
        losses.append([sum(model.calculate_loss(interaction)).item() for interaction in loader])
    assert losses[0] == losses[1]
