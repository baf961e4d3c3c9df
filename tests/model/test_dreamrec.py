"""DreamRec and PreferDiff: losses against plain equations, the closed form against the loop, switches, bad input."""

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion import run
from recbole_diffusion.errors import UsageError
from recbole_diffusion.serving.catalogue import Catalogue
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences

N_ITEMS = 13
SMALL = {"hidden_size": 8, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 6, "use_gpu": False, "diffusion_steps": 40}
STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
ITEMS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 9]])
LENGTHS, TARGET = torch.tensor([3, 2, 4]), torch.tensor([10, 3, 1])
NEXT = [[2, 3, 10], [5, 3], [7, 8, 9, 1]]
MODELS = ["DreamRec", "PreferDiff"]


def build(model="DreamRec", **settings):
    """A network with float64 weights of which none is at a special value."""
    config = DiffusionConfig(model, "synthetic", config_dict={**SMALL, **STILL, **settings})
    torch.manual_seed(3)
    network = config.model_class(config, Catalogue(config, {"item_tokens": range(N_ITEMS)})).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def losses_of(network):
    torch.manual_seed(5)
    return network.loss_parts(ITEMS, LENGTHS, TARGET)


def plain_examples(network):
    """Guide and next item of every position, history by history, at the cost of one encoding each."""
    for row, targets in zip(ITEMS, NEXT):
        for length, target in enumerate(targets, 1):
            yield network.ends((row[None, :length], torch.tensor([length])))[0][0], target


def plain_losses(network):
    """Losses of one example after the other, from the equations; noise in the order of the packed examples."""
    config, table = network.config, network.item_embedding.weight
    examples = list(plain_examples(network))
    examples = [*examples[3:5], *examples[:3], *examples[5:]]  # packed by length: 4 5 | 1 2 3 | 6 7 8 9
    n, d = len(examples), config["hidden_size"]
    torch.manual_seed(5)
    dropped = (torch.rand(n, 1) < config["drop_guide_prob"])[:, 0]
    t = torch.randint(config["diffusion_steps"], (n,))
    clean = [table[target] for _, target in examples]
    negative = [(sum(clean) - own) / (n - 1) for own in clean]
    kinds = [clean, negative] if type(network).__name__ == "PreferDiff" else [clean]
    restored = []
    weight, bias = network.denoiser.linear.weight, network.denoiser.linear.bias
    bars = (1 - torch.linspace(1e-4, 0.02, config["diffusion_steps"], dtype=torch.float64)).cumprod(0)
    for vectors in kinds:
        noise = torch.randn(n, d, dtype=torch.float64)
        restored.append([])
        for i, (guide, _) in enumerate(examples):
            signal, scale = bars[t[i]].sqrt().float(), (1 - bars[t[i]]).sqrt().float()
            x_t = signal * vectors[i] + scale * noise[i]
            h = network.null_guide if dropped[i] else guide
            restored[-1].append(weight @ torch.cat([x_t, h, network.denoiser.time(t[i])]) + bias)
    ce = sum(-(table[1:] @ x).log_softmax(0)[target - 1] for x, (_, target) in zip(restored[0], examples)) / n
    parts = {"ce": config["ce_weight"] * ce}
    if type(network).__name__ == "DreamRec":
        return {"mse": sum((x - y).square().sum() for x, y in zip(restored[0], clean)) / (n * d), **parts}

    def distance(x, y):
        return (1 - x @ y / (x.norm() * y.norm())) ** 2 if config["distance"] == "cosine" else (x - y).square().mean()

    near, far = (torch.stack([distance(x, y) for x, y in zip(*pair)]) for pair in zip(restored, kinds))
    if config["official_batch_preference"]:
        near, far = near.mean(), far.mean()
    share = config["positive_share"]
    preference = (1 + (config["preference_scale"] * (near - far)).exp()).log().mean()
    return {"positive": share * near.mean(), "preference": (1 - share) * preference, **parts}


@pytest.mark.parametrize(
    "model, settings",
    [
        ("DreamRec", {}),
        ("DreamRec", {"ce_weight": 0.3, "drop_guide_prob": 0.5}),
        ("PreferDiff", {}),
        ("PreferDiff", {"distance": "l2", "positive_share": 0.7}),
        ("PreferDiff", {"official_batch_preference": True, "drop_guide_prob": 0.5}),
    ],
)
def test_losses_and_gradients_equal_the_plain_equations(model, settings):
    network = build(model, pos_align="start", **settings)  # where the beginning of a history is a history
    found, expected = losses_of(network), plain_losses(network)
    assert list(found) == list(expected)
    for name in found:
        torch.testing.assert_close(found[name].double(), expected[name], atol=1e-6, rtol=1e-6)
    parameters = list(network.parameters())
    gradients = [torch.autograd.grad(sum(parts.values()), parameters, allow_unused=True) for parts in (found, expected)]
    for (name, _), ours, plain in zip(network.named_parameters(), *gradients):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5, msg=name)


def test_the_last_position_alone_is_one_example_per_row():
    network = build(ce_positions="last", train_view="prefix", drop_guide_prob=0.0, guidance_strength=0, ce_weight=0)
    torch.manual_seed(5)
    t = torch.randint(40, (3,))
    noised = network.process.add_noise(network.item_embedding(TARGET), torch.randn(3, 8, dtype=torch.float64), t)
    restored = network.denoiser(noised, network.ends((ITEMS, LENGTHS))[0], t)
    expected = F.mse_loss(restored, network.item_embedding(TARGET))
    torch.testing.assert_close(losses_of(network)["mse"].double(), expected, atol=1e-6, rtol=1e-6)


# Generation


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_strength": 0, "schedule": "exp"},
        {"drop_guide_prob": 0.0, "guidance_strength": 0},
        {"reverse": "ddim", "sampling_steps": 7, "schedule": "cosine"},
        {"reverse": "ddpm", "sampling_steps": 7, "schedule": "sqrt"},
        {"diffusion_steps": 500, "sampling_steps": 500, "guidance_strength": 8.0},
        {"sampling_steps": 1},
    ],
)
@torch.no_grad()
def test_the_closed_form_equals_the_loop(model, settings):
    exact, loop = (build(model, **settings, sampler=sampler) for sampler in ("exact", "loop"))
    torch.testing.assert_close(exact.encode(ITEMS, LENGTHS), loop.encode(ITEMS, LENGTHS), atol=1e-6, rtol=1e-6)
    again = loop.encode(ITEMS, LENGTHS)
    loop.config["sampler"] = "exact"
    assert not torch.equal(again, loop.encode(ITEMS, LENGTHS))  # it was the loop


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_guidance_moves_scores_away_from_those_of_no_history(model):
    plain, guided = build(model, guidance_strength=0), build(model, guidance_strength=3.0)
    nobody = plain.generate(plain.null_guide.expand(len(ITEMS), -1))
    torch.testing.assert_close(guided.encode(ITEMS, LENGTHS), 4 * plain.encode(ITEMS, LENGTHS) - 3 * nobody)


@torch.no_grad()
def test_noise_belongs_to_a_history_and_has_the_covariance_of_the_chain():
    network, mean = build(sampling_noise=True), build()
    noisy, plain = network.encode(ITEMS, LENGTHS), mean.encode(ITEMS, LENGTHS)
    torch.testing.assert_close(network.encode(ITEMS[1:2], LENGTHS[1:2]), noisy[1:2])
    assert not torch.allclose(noisy, plain, atol=1e-4)
    histories = torch.cartesian_prod(*[torch.arange(1, N_ITEMS)] * 4)
    lengths = torch.full((len(histories),), 4)
    noise = network.encode(histories, lengths) - mean.encode(histories, lengths)
    covariance = network.denoiser.sampler(network.chain)[2]
    assert (noise.t().cov() - covariance).norm() < 0.1 * covariance.norm()
    other = build(sampling_noise=True, seed=7)
    assert not torch.allclose(other.encode(ITEMS, LENGTHS), noisy, atol=1e-4)


@torch.no_grad()
def test_the_sampler_is_made_once_per_evaluation_and_again_for_other_weights(monkeypatch):
    network, made = build(), []
    original = network.denoiser.sampler
    monkeypatch.setattr(network.denoiser, "sampler", lambda chain: made.append(1) or original(chain))
    first = network.encode(ITEMS, LENGTHS)
    for _ in range(3):
        assert torch.equal(network.encode(ITEMS, LENGTHS), first)
    assert len(made) == 1
    other = {name: 1.1 * value for name, value in network.state_dict().items()}
    network.load_state_dict(other)
    loaded = network.encode(ITEMS, LENGTHS)
    assert len(made) == 2 and not torch.allclose(loaded, first)
    network.train()
    network.denoiser.linear.weight *= 1.1
    network.eval()
    assert not torch.allclose(network.encode(ITEMS, LENGTHS), loaded)


@torch.no_grad()
def test_official_dropout_at_evaluation_belongs_to_a_history_and_leaves_everything_as_it_was():
    usual, released = (build(hidden_dropout_prob=0.5, official_train_mode=switch) for switch in (False, True))
    state = torch.get_rng_state()
    vectors = released.encode(ITEMS, LENGTHS)
    assert not torch.allclose(vectors, usual.encode(ITEMS, LENGTHS)) and torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in released.modules())
    assert torch.equal(released.encode(ITEMS, LENGTHS), vectors)
    torch.testing.assert_close(released.encode(ITEMS[1:].flip(0), LENGTHS[1:].flip(0)), vectors[1:].flip(0))
    assert not torch.allclose(build(hidden_dropout_prob=0.5, official_train_mode=True, seed=4).encode(ITEMS, LENGTHS), vectors)


# Switches


@pytest.mark.parametrize("model", MODELS)
def test_in_the_twin_nothing_of_the_diffusion_is_left(model):
    network = build(model, twin=True, ce_weight=0)
    assert not any("denoiser" in name or "null" in name for name, _ in network.named_parameters())
    torch.manual_seed(1)
    first = network.loss_parts(ITEMS, LENGTHS, TARGET)
    torch.manual_seed(2)
    second = network.loss_parts(ITEMS, LENGTHS, TARGET)
    assert all(torch.equal(first[name], second[name]) for name in first)
    users = network.ends((ITEMS, LENGTHS))[0] @ network.restore_guide.weight.t() + network.restore_guide.bias
    torch.testing.assert_close(network.encode(ITEMS, LENGTHS), users)
    for other in (
        build(model, twin=True, guidance_strength=6.0, diffusion_steps=7),
        build(model, twin=True, drop_guide_prob=0.0),
        build(model, twin=True, sampler="loop"),
    ):
        torch.testing.assert_close(other.encode(ITEMS, LENGTHS), users)


def test_item_target_says_which_vectors_the_squared_error_moves():
    def gradient(item_target):
        network = build(item_target=item_target, ce_weight=0)
        losses_of(network)["mse"].backward()
        return network.item_embedding.weight.grad

    assert gradient("trainable")[10].abs().sum() > 0  # item 10 is a target and in no history
    assert gradient("detach")[10].abs().sum() == 0 and gradient("detach")[1].abs().sum() > 0
    assert gradient("frozen") is None


@pytest.mark.parametrize("near, far, expected", [(0.2, 0.9, 0.097850), (1.0, 1.0, 0.815888), (0.0, 1.0, 0.004029)])
@pytest.mark.parametrize("switch", [False, True])
def test_preferdiff_golden_values(near, far, expected, switch, monkeypatch):
    network = build("PreferDiff", ce_weight=0, official_batch_preference=switch)
    distances = iter([torch.full((9,), near), torch.full((9,), far)])
    monkeypatch.setattr(network, "_distance", lambda *_: next(distances))
    assert float(sum(losses_of(network).values())) == pytest.approx(expected, abs=1e-6)


def test_a_batch_of_one_row_has_no_negative_and_a_loss():
    network = build("PreferDiff", ce_positions="last", train_view="prefix")
    parts = network.loss_parts(ITEMS[:1], LENGTHS[:1], TARGET[:1])
    assert all(math.isfinite(float(loss.detach())) for loss in parts.values())
    network.zero_grad()
    parts["preference"].backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_repetition_is_learned_in_both_views(model):
    for settings in ({}, {"ce_positions": "last", "train_view": "prefix"}):
        network = build(model, repetition="learned", **settings)
        rows = torch.tensor([[1, 2, 1, 2]])
        network.loss_parts(rows, torch.tensor([4]), torch.tensor([1]))["ce"].backward()
        assert network.repetition.amount.grad.abs().sum() > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "settings, words",
    [
        ({"guidance_strength": -1}, "guidance_strength"),
        ({"diffusion_steps": 0}, "diffusion_steps"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"drop_guide_prob": 0.0}, "guidance_strength needs a trained null guide: set drop_guide_prob"),
        ({"repetition": "learned", "ce_weight": 0}, "repetition: learned is trained by the softmax alone"),
        ({"ce_positions": "last"}, "set train_view: prefix"),
        ({"hidden_size": 9, "n_heads": 1}, "hidden_size 9 must be even"),
        ({"schedule": "trunc_lin"}, "schedule"),
        ({"item_target": "frosen"}, "item_target"),
    ],
)
def test_bad_settings_are_refused_in_one_line(model, settings, words):
    with pytest.raises(UsageError, match=words) as refusal:
        DiffusionConfig(model, "synthetic", config_dict={**SMALL, **settings})
    assert "\n" not in str(refusal.value)


SWITCHES = [{"twin": True}, {"ce_positions": "last", "train_view": "prefix"}, {"item_target": "detach"}, {"encoder": "ligr"},
            {"guidance_strength": 0, "drop_guide_prob": 0.0}, {"sampling_noise": True}, {"schedule": "exp"}]  # fmt: skip


LEARNING = [*((model, switches) for model in MODELS for switches in SWITCHES), ("DreamRec", {"encoder": "hstu"})]


@pytest.mark.parametrize("model, switches", LEARNING, ids=str)
def test_switches_learn(model, switches, tmp_path):
    folder = write_sequences(cycle_sequences(max_length=11), tmp_path, "cycle")
    # With few steps of these schedules the noised item is hardly noisy, and the history has little to add.
    small = {"hidden_size": 16, "inner_size": 32, "diffusion_steps": 500, "epochs": 30, "learning_rate": 0.01, "eval_step": 5}
    config = make_config(model, folder, **{**small, **switches})
    assert run(model, "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
