"""ECL-SR: fast equals plain, what has a gradient and what has none, what masks, padding, and SASRec without its parts."""

import plain_eclsr as plain
import pytest
import torch
from test_simdiffrec import SMALL, FakeData, batch
from test_simdiffrec import build as build_any
from test_transformer_recommender import WithMask

from recbole_diffusion import run
from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.contrastive import info_nce
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.eclsr import ECLSR
from recbole_diffusion.model.simdiffrec import SimDiffRec
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.training.networks import build_model

NOTHING = {"contrast_weight": 0.0, "discriminator_weight": 0.0, "generator_weight": 0.0}
PREFIX = {"ce_positions": "last", "train_view": "prefix"}
TINY = {key: value for key, value in SMALL.items() if key not in ("k_noise", "k_sample", "diffusion_steps")}
TINY.update(contrast_weight=0.3, discriminator_weight=0.7, generator_weight=0.4, k_last=4)


def build(model=ECLSR, **settings):
    return build_any(model, **{**TINY, **settings})


def choices(model, lengths, width=12):
    """The tokens that the model masks, and the same as [B, L] for the plain version."""
    layout = PackedLayout(lengths)
    chosen = model._choose(layout)
    cells = torch.zeros(len(lengths), width, dtype=torch.bool)
    cells[layout.row[chosen], layout.position[chosen]] = True
    return chosen, cells


def gradients(model, loss):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, retain_graph=True)
    return {name: gradient for (name, _), gradient in zip(model.named_parameters(), found)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pos_align": "start", "strategy": "prob"},
        {"condition": "add", "k_last": 50},
        {"k_last": 1, "condition": "add", **PREFIX},
        {"k_last": 1, **PREFIX},
        PREFIX,
        {"encoder": "ligr", "generator_layers": 1},
        {"encoder": "hstu"},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings, monkeypatch):
    model = build(**settings).double()
    items, lengths, target = batch(rows=13)
    assert (lengths == 1).any()
    chosen, cells = choices(model, lengths)
    monkeypatch.setattr(model, "_choose", lambda layout: chosen)
    fast, slow = model.loss_parts(items, lengths, target), plain.loss_parts(model, items, lengths, target, cells)
    assert list(fast) == list(slow)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-8, rtol=1e-6)
        pairs = zip(gradients(model, fast[name]).items(), gradients(model, slow[name]).values())
        for (parameter, one), other in pairs:
            one, other = (torch.zeros(1) if g is None else g for g in (one, other))
            torch.testing.assert_close(one, other + torch.zeros_like(one), atol=1e-8, rtol=1e-5, msg=f"{name} {parameter}")


def test_what_each_part_of_the_loss_teaches():
    model = build()
    teaches = {}
    for name, part in model.loss_parts(*batch(rows=13)).items():
        moved = {key for key, g in gradients(model, part).items() if g is not None and g.abs().sum() > 0}
        teaches[name] = {key.partition(".")[0] for key in moved}
    assert teaches == {
        "recommendation": {"item_embedding", "recommender"},
        "contrast": {"item_embedding", "recommender"},
        "discriminator": {"item_embedding", "recommender", "judge"},  # nothing passes through the best items
        "generator": {"item_embedding", "generator", "mask_vector"},
    }


def test_the_discriminator_teaches_the_encoder_as_its_condition_too():
    model = build()
    items, lengths, _ = batch()
    layout = PackedLayout(lengths)
    condition = torch.randn(layout.n_tokens, 16, requires_grad=True)
    model._discriminate(layout.pack(items), condition, layout).square().sum().backward()
    assert condition.grad.abs().sum() > 0 and model.recommender.LayerNorm.weight.grad.abs().sum() > 0


# Which items are masked, and by what


@pytest.mark.parametrize("strategy", ["sample", "prob"])
@pytest.mark.parametrize("ratio", [0.2, 0.6, 0.999])
def test_at_least_one_item_is_masked_and_never_the_first(strategy, ratio):
    model = build(strategy=strategy, mask_ratio=ratio)
    lengths = torch.arange(1, 13).repeat(40)
    _, cells = choices(model, lengths)
    counts, place = cells.sum(1), torch.arange(12)
    assert not cells[:, 0].any() and not (cells & (place >= lengths[:, None])).any()
    assert (counts[lengths > 1] > 0).all() and (counts[lengths == 1] == 0).all()
    expected = torch.tensor([min(int(ratio * n) + 1, n - 1) for n in lengths.tolist()])
    if strategy == "sample":
        assert torch.equal(counts, expected)
    else:
        assert not torch.equal(counts, expected) and (counts <= int(ratio * 12) + 1).all()


def test_places_are_uniform():
    for strategy, share in (("sample", 1 / 3), ("prob", 0.2)):
        _, cells = choices(build(strategy=strategy), torch.full((20000,), 4))
        shares = cells.float().mean(0)
        assert (shares[1:3] - share).abs().max() < 0.02
        last = share if strategy == "sample" else 0.2 + 0.8**3  # which stands in where nothing was drawn
        assert abs(shares[3] - last) < 0.02


def test_histories_of_one_item_have_no_task():
    model = build()
    parts = model.loss_parts(torch.tensor([[1], [2]]), torch.tensor([1, 1]), torch.tensor([3, 4]))
    assert parts["generator"] == 0 and all(part.isfinite() for part in parts.values())
    sum(parts.values()).backward()


def test_masked_places_get_the_best_item_and_others_keep_theirs():
    model = build(mask_ratio=0.5)
    items, lengths, _ = batch(seed=4)
    layout = PackedLayout(lengths)
    packed, chosen = layout.pack(items), model._choose(layout)
    before = packed.clone()
    _, replaced = model._generate(packed, chosen, layout)
    masked = packed.index_fill(0, chosen, model.n_items)
    states = model.generator(model.embed(masked).unsqueeze(1), layout, causal=False)[:, 0]
    best = (states @ model.item_embedding.weight[1:].t()).argmax(-1) + 1
    kept = torch.ones_like(packed, dtype=torch.bool).index_fill(0, chosen, False)
    assert torch.equal(packed, before) and torch.equal(replaced[kept], packed[kept])
    assert torch.equal(replaced[chosen], best[chosen]) and (replaced > 0).all()


# Contrast


def test_golden_values_of_the_contrast():
    unit = torch.eye(256)
    assert info_nce(unit.double(), unit.double(), 0.05).item() == pytest.approx(5.256e-7, rel=1e-4)
    model = build(k_last=3)
    states = torch.arange(24.0).view(6, 2, 2)
    means = model._means(states, PackedLayout(torch.tensor([2, 4])))
    assert torch.equal(means, torch.stack([states[:2].mean(0), states[3:].mean(0)]))


def test_copies_differ_by_dropout_only():
    items, lengths, target = batch()
    for dropout in (0.0, 0.4):
        model = build(hidden_dropout_prob=dropout)
        means = model._encode(PackedLayout(lengths).pack(items), PackedLayout(lengths), target)[3]
        assert torch.allclose(means[:, 0], means[:, 1]) == (dropout == 0)


def test_mask_same_target_leaves_out_those_with_the_same_next_item():
    means, target = torch.randn(4, 2, 16), torch.tensor([7, 7, 8, 7])
    cosine = torch.nn.functional.cosine_similarity
    total = 0.0
    for u in range(4):
        scores = {v: cosine(means[u, 0], means[v, 1], dim=0) / 0.05 for v in range(4) if v == u or target[v] != target[u]}
        total -= scores[u] - torch.stack(list(scores.values())).logsumexp(0)
    torch.testing.assert_close(build(mask_same_target=True)._contrast(means, target), total / 4)


# Padding


def test_losses_do_not_depend_on_padding():
    items, lengths, target = batch(width=9)
    losses = []
    for width in (0, 3):
        model = build()
        torch.manual_seed(1)
        losses.append(model.loss_parts(torch.nn.functional.pad(items, (0, width)), lengths, target))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("k_last", [4, 50])
def test_official_compat_equals_left_padded_rows_written_plainly(k_last):
    model = build(official_compat=True, k_last=k_last).double()
    items, lengths, target = batch()
    layout = PackedLayout(lengths)
    loss, states, ends, means = model._encode_with_padding(layout.pack(items), layout, target)
    slow_loss, slow_means = plain.with_padding(model, items, lengths, target)
    torch.testing.assert_close(loss, slow_loss)
    torch.testing.assert_close(means, slow_means)
    for fast, slow in zip(gradients(model, loss + means.sum()).values(), gradients(model, slow_loss + slow_means.sum()).values()):
        if slow is not None:
            torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-6)
    # real items do not see the padding before them: their states are those that recommend
    torch.testing.assert_close(states[:, 0], model.hidden(layout.pack(items), layout))
    torch.testing.assert_close(ends[:, 0], model.encode(items, lengths))


def test_official_compat_counts_padding_as_an_item_at_the_end_too():
    items, lengths, target = batch()
    model = build(official_compat=True, **PREFIX)
    loss = model.loss_parts(items, lengths, target)["recommendation"]
    scores = model.encode(items, lengths) @ model.item_embedding.weight.t()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, target))
    weights = model.loss_weights({model.ITEM_SEQ_LEN: lengths})
    assert weights["recommendation"] == 1  # rows of a batch of one entry


# SASRec


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_without_weights_it_is_sasrec_to_the_bit(dropout):
    steps = {"hidden_dropout_prob": dropout, "attn_dropout_prob": dropout}
    for other, where in ((SimDiffRec, {"alpha": 0, "beta": 0}), (WithMask, PREFIX)):
        common = PREFIX if where is PREFIX else {}
        losses = []
        for model in (build(**NOTHING, **common, **steps), sasrec(other, **common, **steps)):
            torch.manual_seed(5)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            for seed in range(3):
                optimizer.zero_grad()
                parts = model.loss_parts(*batch(seed=seed))
                assert list(parts) == ["recommendation"]
                parts["recommendation"].backward()
                optimizer.step()
                losses.append(parts["recommendation"].item())
        assert losses[:3] == losses[3:]


def sasrec(model, **settings):
    torch.manual_seed(3)
    found = make_config("SimDiffRec", "unused", MAX_ITEM_LIST_LENGTH=12, **{**SMALL, "alpha": 0, "beta": 0, **settings})
    return model(found, FakeData())


@pytest.mark.parametrize("part", NOTHING)
def test_a_part_without_weight_does_not_exist(part):
    model = build(**{part: 0.0})
    parts = model.loss_parts(*batch(rows=13))
    assert set(parts) == {"recommendation", "contrast", "discriminator", "generator"} - {part.removesuffix("_weight")}
    sum(parts.values()).backward()
    assert hasattr(model, "judge") == (part != "discriminator_weight")
    only = build(**{**NOTHING, part: 0.5})
    assert list(only.loss_parts(*batch(rows=13))) == ["recommendation", part.removesuffix("_weight")]
    assert (only.mask_vector is None) == (part == "contrast_weight")


# Training


@pytest.mark.parametrize("condition", ["addall", "add"])
def test_the_discriminator_finds_more_than_the_share_of_originals(condition, tmp_path):
    folder = write_sequences(cycle_sequences(n_users=60, min_length=9, max_length=11), tmp_path, "cycle")
    settings = {**small_settings("ECLSR"), "condition": condition, "mask_ratio": 0.4, "strategy": "prob"}
    settings.update(discriminator_weight=2.0, generator_weight=0.0)  # a generator that stays bad: its items are wrong
    config = make_config("ECLSR", folder, **settings)
    batches = build_loaders(config, create_dataset(config))[0]
    model = build_model(config, batches).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        for rows in batches:
            optimizer.zero_grad()
            sum(model.calculate_loss(rows)).backward()
            optimizer.step()
    model.eval()
    items, lengths, target = model.loss_inputs(next(iter(batches)))
    layout = PackedLayout(lengths)
    packed = layout.pack(items)
    replaced = model._generate(packed, model._choose(layout), layout)[1]
    states, ends = model._encode(packed, layout, target)[1:3]
    given = states[:, 0] if condition == "addall" else ends[layout.row, 0]
    found, true = model._discriminate(replaced, given, layout) > 0, replaced != packed
    accuracy, originals = (found == true).float().mean(), 1 - true.float().mean()
    assert accuracy > originals + 0.1, (accuracy, originals)


# Refused


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"mask_ratio": 0.0}, "mask_ratio must lie in"),
        ({"mask_ratio": 1.0}, "mask_ratio must lie in"),
        ({"tau": 0}, "tau must lie in"),
        ({"k_last": 0}, "k_last must lie in"),
        ({"strategy": "all"}, "strategy must be one of sample, prob"),
        ({"condition": "cat"}, "condition must be one of addall, add"),
        ({"trim_padding": True}, "trim_padding batches by length"),
        ({"train_batch_size": 1}, "train_batch_size 1 leaves ECLSR no other row"),
        ({"ce_positions": "last"}, "set train_view: prefix"),
        ({"official_compat": True, "loss_type": "BCE"}, "set loss_type: CE"),
        ({"official_compat": True, "pos_align": "start"}, "set pos_align: end"),
        ({"official_compat": True, "repetition": "learned"}, "set repetition: none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, words):
    with pytest.raises(UsageError, match=words) as refused:
        run("ECLSR", "toy", config_dict=settings)
    assert "\n" not in str(refused.value)


def test_without_contrast_a_batch_needs_no_company():
    ECLSR.check_config(DiffusionConfig("ECLSR", "toy", config_dict={"contrast_weight": 0, "train_batch_size": 1}))
