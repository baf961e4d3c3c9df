"""MCLRec: fast equals plain, its stages do not touch each other, SASRec without weights, and the meaning of its switches."""

import plain_mclrec as plain
import pytest
import torch
from recbole.utils import init_seed
from test_simdiffrec import FakeData, batch

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.model.mclrec import MCLRec
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model
from recbole_diffusion.training.trainer import DiffusionTrainer

SMALL = {"hidden_size": 16, "inner_size": 32, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
SMALL.update(contrast_weight=0.3, meta_weight=0.4, initializer_range=0.3)
STAGES = [{"meta": "alternating"}, {"meta": "official", "reg": "official"}, {"meta": "simultaneous", "reg": "none"}]


def build(**settings):
    torch.manual_seed(3)
    config = make_config("MCLRec", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, **settings})
    return MCLRec(config, FakeData()).double()


def drawn(function, *inputs):
    """With the views that every other call of this draws."""
    torch.manual_seed(5)
    return function(*inputs)


def gradients(model, parts, of=""):
    """By name, of a sum of parts; None where there is none."""
    chosen = {name: p for name, p in model.named_parameters() if name.startswith(of)}
    found = torch.autograd.grad(sum(parts), list(chosen.values()), allow_unused=True, retain_graph=True)
    return dict(zip(chosen, found))


def assert_equal_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-6, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        *STAGES,
        {"mask_as": "token"},
        {"pos_align": "end"}, {"ce_positions": "last", "train_view": "prefix"},
        {"meta": "joint", "reg": "official"},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    model, inputs = build(**settings), batch()
    fast = drawn(model.encoder_parts, *inputs)
    views = drawn(model.draw_views, *inputs[:2])
    slow = plain.encoder_parts(model, *inputs, views, last=model.config["ce_positions"] == "last")
    assert list(fast) == list(slow)
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, atol=1e-8, rtol=1e-8)
    of = "" if model.config["meta"] == "joint" else ("item_embedding", "recommender", "mask_vector")
    assert_equal_gradients(gradients(model, fast.values(), of), gradients(model, slow.values(), of))
    if model.config["meta"] != "joint":
        fast, slow = drawn(model.augmenter_parts, *inputs), plain.augmenter_parts(model, views)
        torch.testing.assert_close(fast["augmenter"], slow["augmenter"])
        fast, slow = (gradients(model, parts.values(), "augmenters") for parts in (fast, slow))
        assert_equal_gradients(fast, slow)


@pytest.mark.parametrize("settings", STAGES)
def test_one_pass_has_the_gradients_of_both_stages_and_none_between_them(settings):
    model, inputs = build(**settings), batch()
    both = drawn(model.loss_parts, *inputs)
    assert list(both) == ["recommendation", "contrast", "meta", "augmenter"]
    encoder, augmenters = drawn(model.encoder_parts, *inputs), drawn(model.augmenter_parts, *inputs)
    for names, parts in ((("item_embedding", "recommender"), encoder), ("augmenters", augmenters)):
        found, expected = gradients(model, both.values(), names), gradients(model, parts.values(), names)
        assert found.keys() == expected.keys() and len(found) > 5
        for name in found:
            assert found[name].abs().sum() > 0 and torch.equal(found[name], expected[name]), name
    across = gradients(model, [both["augmenter"]], ("item_embedding", "recommender"))
    across.update(gradients(model, [both["recommendation"] + both["contrast"] + both["meta"]], "augmenters"))
    assert set(across.values()) == {None}


def test_one_loss_for_both_networks():
    model = build(meta="joint")
    parts = drawn(model.loss_parts, *batch())
    assert list(parts) == ["recommendation", "contrast", "meta"] and model.training_steps() is None
    assert all(gradient is not None for gradient in gradients(model, [parts["meta"]], "augmenters").values())


def test_steps_are_those_of_paper_and_code():
    encoder, augmenters = build(meta="alternating").training_steps()
    assert [step[0].__name__ for step in build(meta="official").training_steps()] == [
        "encoder_parts", "augmenter_parts", "encoder_parts"
    ]  # fmt: skip
    assert build(meta="simultaneous").training_steps() is None and build(meta_weight=0.0).training_steps() is None
    model = build()
    encoder, augmenters = ([id(p) for p in parameters] for _, parameters in model.training_steps())
    assert encoder + augmenters == [id(p) for p in model.parameters()]


def test_the_paper_weakens_the_regulariser_of_the_augmenters_and_the_code_does_not():
    inputs = batch()
    for reg, share in (("paper", 0.4), ("official", 1.0)):
        model, without = build(reg=reg, reg_weight=0.5), build(reg="none")
        one, other = (drawn(m.augmenter_parts, *inputs)["augmenter"] for m in (model, without))
        states = [plain.ends(model, *view) for view in drawn(model.draw_views, *inputs[:2])]
        doubled = plain.contrast_of_four(model, *states, 1.0) - plain.contrast_of_four(without, *states, 1.0)
        torch.testing.assert_close(one - other, 0.5 * share * doubled)


def test_augmented_views_have_unit_norm_and_networks_of_their_own():
    model, state = build(), torch.randn(5, 16, dtype=torch.double)
    one, other = (model.augment(number, state, False) for number in (0, 1))
    torch.testing.assert_close(one.norm(dim=1), torch.ones(5, dtype=torch.double))
    assert not torch.allclose(one, other)
    assert [tuple(p.shape) for p in model.augmenters[0].parameters() if p.dim() == 2] == [(32, 16), (16, 32), (16, 16)]


# Holes


def test_a_hole_is_its_place_only():
    model = build(hidden_dropout_prob=0.0)
    assert model.mask_vector is None and (model.item_embedding.weight[0] == 0).all()
    ids, lengths = torch.tensor([[3, 0, 5, 0], [3, 9, 5, 0]]), torch.tensor([4, 4])
    plain_states = plain.ends(model, ids, lengths)
    torch.testing.assert_close(model.ends((ids, lengths))[0], plain_states)
    assert not torch.allclose(plain_states[0], plain_states[1])
    model.ends((ids, lengths))[0].sum().backward()
    assert (model.item_embedding.weight.grad[0] == 0).all()


def test_a_token_in_place_of_items_is_learned_and_never_scored():
    model = build(mask_as="token")
    assert len(model.item_vectors()) == model.n_items
    views = drawn(model.draw_views, *batch()[:2])
    assert any((ids == model.mask_token).any() for ids, _ in views)
    parts = drawn(model.encoder_parts, *batch())
    assert gradients(model, [parts["meta"]], "mask_vector")["mask_vector"].abs().sum() > 0


def test_views_leave_the_histories_alone():
    items, lengths, target = batch()
    before = items.clone(), lengths.clone()
    build().loss_parts(items, lengths, target)
    assert torch.equal(items, before[0]) and torch.equal(lengths, before[1])


# Without weights, and what is refused


def trained(folder, model, **settings):
    shared = {"hidden_size": 16, "inner_size": 32, "epochs": 2, "train_batch_size": 8, "pos_align": "start"}
    shared.update(hidden_dropout_prob=0.3, attn_dropout_prob=0.2)
    config = make_config(model, folder, **{**shared, **settings})
    init_seed(config["seed"], True)
    loaders = build_loaders(config, create_dataset(config))
    trainer = DiffusionTrainer(config, build_model(config, loaders[0]))
    initial = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    stored = [column.clone() for column in loaders[0]._dataset.flat.values()]
    trainer.fit(*loaders[:2], saved=False, verbose=False)
    assert all(map(torch.equal, stored, loaders[0]._dataset.flat.values()))  # views are drawn beside the histories
    return initial, trainer


def test_without_weights_it_is_sasrec_bit_by_bit(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    ours = trained(folder, "MCLRec", contrast_weight=0, meta_weight=0)[1]
    sasrec = trained(folder, "SimDiffRec", alpha=0, beta=0)[1]
    assert ours.train_loss_dict == sasrec.train_loss_dict
    weights = sasrec.model.state_dict()
    assert ours.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.model.state_dict().items())


@pytest.mark.parametrize("mask_as", ["hole", "token"])
def test_the_encoder_starts_as_sasrecs_does(tmp_path, mask_as):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    ours = trained(folder, "MCLRec", mask_as=mask_as, epochs=1)[0]
    sasrec = trained(folder, "SimDiffRec", alpha=0, beta=0, epochs=1)[0]
    assert all(torch.equal(ours[name], tensor) for name, tensor in sasrec.items())


@pytest.mark.parametrize(
    "wrong, word", [({"trim_padding": True}, "trim_padding"), ({"train_batch_size": 1}, "batch_size")]
)
def test_batches_without_fair_negatives_are_refused(wrong, word):
    with pytest.raises(UsageError, match=word):
        MCLRec.check_config(make_config("MCLRec", "unused", **wrong))
    MCLRec.check_config(make_config("MCLRec", "unused", meta_weight=0.0, **wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"crop_kept": 1.0}, {"mask_share": 0.0}, {"reorder_share": 1.5}, {"tau": 0.0}, {"meta": "both"}, {"reg": "code"}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        make_config("MCLRec", "unused", **wrong)
