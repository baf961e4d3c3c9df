"""DiffuRec and DiffuRecSys: packed equals padded, noise by example, the papers' details."""

import plain_diffurecsys as plain
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.diffusion.schedules import named_betas
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.transformer import Dropout
from recbole_diffusion.model.restoring_recommender import LAMBDA, REVERSE, START
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.networks import build_model

SMALL = {"hidden_size": 16, "inner_size": 32, "n_blocks": 2, "n_heads": 2, "diffusion_steps": 8, "sampling_steps": 8}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = write_sequences(cycle_sequences(), tmp_path_factory.mktemp("data"), "cycle")

    def make(model="DiffuRecSys", **settings):
        config = make_config(model, folder, **{**SMALL, **settings})
        return build_model(config, build_loaders(config, create_dataset(config))[0]).eval()

    return make


LENGTHS = torch.tensor([3, 1, 10, 5, 4])
TARGET = torch.tensor([7, 2, 12, 1, 5])


def histories(width=10):
    torch.manual_seed(1)
    return torch.randint(1, 13, (5, width)) * (torch.arange(width) < LENGTHS[:, None])


KINDS = [
    ("DiffuRec", {}),
    ("DiffuRecSys", {}),
    ("DiffuRecSys", {"cross_attention": "linear"}),
    ("DiffuRecSys", {"cross_attention": "linear", "key_softmax": "heads"}),
]


@pytest.mark.parametrize("name, settings", KINDS, ids=str)
def test_packed_equals_padded_in_value_and_gradient(build, name, settings, monkeypatch):
    model, items = build(name, **settings), histories()
    t, noise, lambda_noise = torch.tensor([0, 7, 3, 1, 5]), torch.randn(5, 16), torch.randn(5, 10, 16)
    slow = plain.loss(model, items, TARGET, t, noise, lambda_noise)
    wanted = torch.autograd.grad(slow, list(model.parameters()))

    monkeypatch.setattr(model, "_training_noise", lambda clean: noise)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: t)
    monkeypatch.setattr(torch, "randn_like", lambda x: PackedLayout(LENGTHS).pack(lambda_noise))
    fast = model.loss_parts(items, LENGTHS, TARGET)["recommendation"]
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for found, expected in zip(torch.autograd.grad(fast, list(model.parameters())), wanted):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, settings", KINDS, ids=str)
def test_the_packed_chain_equals_the_padded_one_with_the_same_noise(build, name, settings, monkeypatch):
    model, items = build(name, **settings), histories()
    layout = PackedLayout(LENGTHS)
    start, noises, lambda_noises = torch.randn(5, 16), torch.randn(8, 5, 16), torch.randn(8, 5, 10, 16)

    class Given(torch.nn.Module):
        def forward(self, keys, kind, step=0):
            found = {START: start, REVERSE: noises[step], LAMBDA: layout.pack(lambda_noises[step])}[kind]
            return found.unsqueeze(1)

    monkeypatch.setattr(model, "noise", Given())
    with torch.no_grad():
        fast = model.encode(items, LENGTHS)
        slow = plain.sample(model, items, named_betas("trunc_lin", 8), start, noises, lambda_noises)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


SEEN = {"cross_attention": "linear", "key_softmax": "heads", "attention_mask": "queries"}
RELEASED = [
    SEEN,
    {**SEEN, "fill_padding_rows": True},
    {"shared_norm": True},
    {**SEEN, "drop_cross_output": True},
    {"drop_block_output": False},
    {**SEEN, "fill_padding_rows": True, "shared_norm": True, "drop_cross_output": True, "drop_block_output": False,
     "block_stack": "last", "padding_in_softmax": True, "hidden_act": "gelu"},
]  # fmt: skip


@pytest.mark.parametrize("settings", RELEASED, ids=str)
def test_the_released_switches_equal_their_padded_form_in_value_and_gradient(build, settings, monkeypatch):
    model, items = build(**settings), histories()
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x * (1 + self.p))  # shows where it stands
    for block in model.approximator.blocks:
        block.attention.attn_dropout.p = 0.0
        if hasattr(block.cross_attention, "attn_dropout"):
            block.cross_attention.attn_dropout.p = 0.0
    t, noise, lambda_noise = torch.tensor([0, 7, 3, 1, 5]), torch.randn(5, 16), torch.randn(5, 10, 16)
    if settings.get("attention_mask") == "queries":
        padded = torch.stack([row.roll(10 - n) for row, n in zip(items, LENGTHS.tolist())])
        packed_noise = lambda_noise.flatten(0, 1)
    else:
        padded, packed_noise = items, PackedLayout(LENGTHS).pack(lambda_noise)
    slow = plain.loss(model, padded, TARGET, t, noise, lambda_noise)
    parameters = dict(model.named_parameters())
    wanted = torch.autograd.grad(slow, list(parameters.values()), allow_unused=True)
    monkeypatch.setattr(model, "_training_noise", lambda clean: noise)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: t)
    monkeypatch.setattr(torch, "randn_like", lambda x: packed_noise)
    fast = model.loss_parts(items, LENGTHS, TARGET)["recommendation"]
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for found, expected in zip(torch.autograd.grad(fast, list(parameters.values()), allow_unused=True), wanted):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_filled_rows_fit_into_half_precision(build, half):
    model = build(**RELEASED[-1]).train()
    with torch.autocast("cpu", dtype=half):
        loss = model.loss_parts(histories(), LENGTHS, TARGET)["recommendation"]
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_each_released_switch_changes_the_loss(build, monkeypatch):
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x * (1 + self.p))
    items, found = histories(), {}
    for name in ("none", "fill_padding_rows", "shared_norm", "drop_cross_output", "drop_block_output"):
        model = build(**SEEN, **({} if name == "none" else {name: name != "drop_block_output"}))
        torch.manual_seed(3)
        for block in model.approximator.blocks:
            torch.nn.init.normal_(block.attention_norm.weight)
            if name != "shared_norm":
                torch.nn.init.ones_(block.cross_norm.weight)
        torch.manual_seed(4)
        found[name] = model.loss_parts(items, LENGTHS, TARGET)["recommendation"].item()
    assert len({round(loss, 5) for loss in found.values()}) == len(found), found


@pytest.mark.parametrize("cross_attention", ["softmax", "linear"])
def test_every_output_layer_of_attention_starts_with_xavier(build, cross_attention):
    """Uniform weights of PyTorch's own start end at 1 / sqrt(d); normal ones do not."""
    for block in build(cross_attention=cross_attention, hidden_size=64).approximator.blocks:
        for layer in (block.attention.dense, block.cross_attention.dense):
            assert layer.weight.std().item() == pytest.approx((2 / (64 + 64)) ** 0.5, rel=0.1)
            assert layer.weight.abs().max() > 2.5 / 64**0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"drop_cross_output": True}, "drop_cross_output needs cross_attention: linear"),
        ({"fill_padding_rows": True, "cross_attention": "linear"}, "fill_padding_rows needs .*attention_mask: queries"),
        ({"fill_padding_rows": True, "attention_mask": "queries"}, "fill_padding_rows needs cross_attention: linear"),
    ],
)
def test_switches_of_linear_cross_attention_are_refused_without_it(build, settings, message):
    with pytest.raises(UsageError, match=message):
        build(**settings)


def scores(model, items, lengths):
    rows = Interaction({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, model.ITEM_ID: items[:, 0]})
    with torch.no_grad():
        return model.full_sort_predict(rows)


@pytest.mark.parametrize("name", ["DiffuRec", "DiffuRecSys"])
def test_scores_do_not_depend_on_the_embedding_of_padding(build, name):
    model, items = build(name), histories()
    before = scores(model, items, LENGTHS)
    with torch.no_grad():
        model.item_embedding.weight[0] = 100.0
    torch.testing.assert_close(scores(model, items, LENGTHS)[:, 1:], before[:, 1:])


def test_the_released_mask_makes_scores_depend_on_padding(build):
    model, items = build("DiffuRec", attention_mask="queries"), histories()
    before = scores(model, items, LENGTHS)
    with torch.no_grad():
        model.item_embedding.weight[0].normal_()
    difference = (scores(model, items, LENGTHS) - before)[:, 1:].abs().amax(1)
    assert (difference[LENGTHS < 10] > 1e-3).all()
    assert difference[LENGTHS == 10].item() < 1e-5  # a full history has no padding


def test_the_released_mask_is_the_plain_one(build):
    """Queries of padding attend to all slots alike; real queries see padding too."""
    from recbole_diffusion.layers.transformer import SelfAttention

    layer, items = SelfAttention(2, 8, 0.0).eval(), histories()
    layout, flat = PackedLayout.left_padded(items, LENGTHS, 10)
    assert flat.view(5, 10)[:, -1].tolist() == items[torch.arange(5), LENGTHS - 1].tolist()
    x = torch.randn(50, 1, 8)
    found = layer(x, layout, causal=False).view(5, 10, 8)
    q, k, v = (plain.heads_of(part, 2) for part in layer.qkv(x.view(5, 10, 8)).chunk(3, -1))
    logits = (q @ k.transpose(-1, -2) / 2).masked_fill((flat.view(5, 10) == 0)[:, None, :, None], -1e9)
    wanted = layer.dense((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["DiffuRec", "DiffuRecSys"])
def test_item_vectors_start_as_wide_as_asked(build, name):
    usual, narrow = (build(name, initializer_range=width).state_dict() for width in (1.0, 0.02))
    items = usual.pop("item_embedding.weight")
    assert 0.8 < items[1:].std() < 1.2
    torch.testing.assert_close(narrow.pop("item_embedding.weight"), 0.02 * items)
    assert all(torch.equal(usual[key], value) for key, value in narrow.items())  # nothing else changes


@pytest.mark.parametrize("offset, mean, std", [("none", 0, 1), ("const", 0.5, 1), ("per_dim", 0, 1.25**0.5)])
def test_offset_noise_has_the_stated_mean_and_spread(build, offset, mean, std):
    model = build(offset_noise=offset, offset_strength=0.5)
    torch.manual_seed(0)
    noise = model._training_noise(torch.zeros(20000, 16))
    assert noise.mean().item() == pytest.approx(mean, abs=0.01)
    assert noise.std().item() == pytest.approx(std, abs=0.01)


def test_offset_per_example_is_shared_by_the_dimensions(build):
    model = build(offset_noise="per_example", offset_strength=3.0)
    torch.manual_seed(0)
    noise = model._training_noise(torch.zeros(5000, 16))
    assert noise.mean(1).std().item() == pytest.approx((9 + 1 / 16) ** 0.5, rel=0.05)
    assert (noise - noise.mean(1, keepdim=True)).std().item() == pytest.approx(1, abs=0.05)


def test_an_ensemble_of_one_is_a_single_run(build):
    model, items = build(), histories()
    single = scores(model, items, LENGTHS)[:, 1:].log_softmax(-1)
    model.config["ensemble_seeds"] = 1
    torch.testing.assert_close(model.ensemble_scores(items, LENGTHS)[:, 1:], single, atol=1e-5, rtol=1e-5)


def test_an_ensemble_averages_the_probabilities_of_its_samples(build):
    model, items = build(ensemble_seeds=3), histories()
    with torch.no_grad():
        samples = model.sample(items, LENGTHS, 3)
        logits = samples @ model.item_embedding.weight[1:].t()
    assert (samples[:, 0] - samples[:, 1]).abs().max() > 0  # the seeds are independent
    found = scores(model, items, LENGTHS)
    torch.testing.assert_close(found[:, 1:].exp(), logits.softmax(-1).mean(1))
    assert (found[:, 0] == float("-inf")).all()


def test_an_ensemble_orders_items_that_are_out_of_the_question(build):
    model, items = build(ensemble_seeds=2), histories()
    model.item_embedding.weight.data.mul_(100)  # probabilities far below the smallest float32
    assert scores(model, items, LENGTHS)[:, 1:].isfinite().all()


def test_another_seed_draws_other_noise_for_the_same_network(build):
    first, second = build(seed=1), build(seed=2)
    second.load_state_dict(first.state_dict())
    assert not torch.equal(scores(first, histories(), LENGTHS), scores(second, histories(), LENGTHS))


def test_the_released_stack_uses_its_last_block_only(build):
    model, items = build(block_stack="last"), histories()
    before = scores(model, items, LENGTHS)
    for parameter in model.approximator.blocks[0].parameters():
        parameter.data.fill_(float("nan"))
    assert torch.equal(scores(model, items, LENGTHS), before)


def test_padding_is_a_class_of_the_softmax_only_when_asked(build):
    items = histories()
    for settings, used in (({}, False), ({"padding_in_softmax": True}, True)):
        model = build("DiffuRec", **settings)
        model.loss_parts(items, LENGTHS, TARGET)["recommendation"].backward()
        assert bool(model.item_embedding.weight.grad[0].abs().sum()) == used


def test_step_embeddings_are_the_sinusoids_of_scaled_time(build):
    waves = build().step_embedding.waves
    assert waves.shape == (8, 16)
    t, j = 3, 2
    angle = t * 1000 / 8 * 10000 ** (-j / 8)
    expected = torch.tensor([angle]).cos(), torch.tensor([angle]).sin()
    torch.testing.assert_close(torch.stack([waves[t, j], waves[t, 8 + j]]), torch.cat(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"model": "DiffuRec"}, {}, {"cross_attention": "linear"}])
def test_without_lambda_nothing_of_the_diffusion_is_left(build, settings):
    """The natural switch of the twin: noise, steps and the noised target change nothing."""
    items, model = histories(), build(**{**settings, "lambda_mean": 0.0, "lambda_std": 0.0})
    vectors = model.encode(items, LENGTHS)
    samples = model.sample(items, LENGTHS, n_samples=2)
    assert torch.equal(samples[:, 0], samples[:, 1]) and torch.allclose(vectors, samples[:, 0], atol=1e-6)
    losses = []
    for seed in (1, 2):  # of the noise in training; there is no dropout
        torch.manual_seed(seed)
        losses.append(float(model.loss_parts(items, LENGTHS, TARGET)["recommendation"].detach()))
    assert losses[0] == losses[1]
    model.config["lambda_mean"] = 0.5
    samples = model.sample(items, LENGTHS, n_samples=2)
    assert not torch.allclose(samples[:, 0], samples[:, 1], atol=1e-3)
