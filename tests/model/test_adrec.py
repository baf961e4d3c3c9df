"""ADRec: packed against padded, kept against naive sampling, who sees what, known answers, switches, bad input."""

import plain_adrec as plain
import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion import run
from recbole_diffusion.diffusion.schedules import alpha_bars, named_betas
from recbole_diffusion.errors import UsageError
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.serving.catalogue import Catalogue
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences

N_ITEMS = 30
SMALL = {"hidden_size": 8, "inner_size": 12, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 12, "use_gpu": False}
SMALL["sampling_steps"] = 32
STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "embedding_dropout_prob": 0.0}
WITHOUT_MSE = {"mse_weight": 0.0}


def build(**settings):
    """A network with float64 weights of which none is at a special value."""
    config = DiffusionConfig("ADRec", "synthetic", config_dict={**SMALL, **STILL, **settings})
    torch.manual_seed(3)
    network = config.model_class(config, Catalogue(config, {"item_tokens": range(N_ITEMS)})).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def batch():
    """Histories of many lengths, a single item among them."""
    random = torch.Generator().manual_seed(1)
    lengths = torch.tensor([3, 1, 12, 2, 7, 5, 1, 4, 12])
    items = torch.randint(1, N_ITEMS, (len(lengths), 12), generator=random)
    items[torch.arange(12) >= lengths[:, None]] = 0
    return items, lengths, torch.randint(1, N_ITEMS, (len(lengths),), generator=random)


def replayed(network, lengths, width, seed):
    """What the packed loss draws after this seed, on padded rows."""
    torch.manual_seed(seed)
    layout, d = PackedLayout(lengths), network.config["hidden_size"]
    t = torch.zeros(len(lengths), width, dtype=torch.long)
    noise = torch.zeros(len(lengths), width, d, dtype=torch.float64)
    t[layout.row, layout.position] = torch.randint(network.config["diffusion_steps"], (layout.n_tokens,))
    noise[layout.row, layout.position] = torch.randn(layout.n_tokens, d, dtype=torch.float64)
    return t, noise


# Training


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noised_weight": 1.0},
        {"noised_weight": 0.5, "mse_weight": 0.3, "schedule": "cosine", "n_layers": 1},
        {"mse_weight": 0.0, "denoiser_layers": 3, "hidden_act": "relu"},
        {"twin": True},
    ],
    ids=str,
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    network = build(**settings)
    items, lengths, target = batch()
    drawn = None if network.config["twin"] else replayed(network, lengths, items.shape[1], seed=5)
    torch.manual_seed(5)
    fast, slow = network.loss_parts(items, lengths, target), plain.loss_parts(network, items, lengths, target, drawn)
    assert (
        list(fast)
        == list(slow)
        == (["ce"] if settings.get("twin") or settings.get("mse_weight") == 0 else ["ce", "mse"])
    )
    parameters = dict(network.named_parameters())
    for name in slow:  # the squared error is taken in float32
        torch.testing.assert_close(fast[name].double(), slow[name], atol=1e-6, rtol=1e-6)
        pair = [
            torch.autograd.grad(parts[name], list(parameters.values()), retain_graph=True, allow_unused=True)
            for parts in (fast, slow)
        ]
        for parameter, one, two in zip(parameters, *pair):
            one, two = (torch.zeros(1) if g is None or not g.any() else g for g in (one, two))
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5, msg=f"{name}: {parameter}")


def test_every_token_has_a_time_step_of_its_own(monkeypatch):
    network, seen = build(), []
    add_noise = network.process.add_noise
    monkeypatch.setattr(network.process, "add_noise", lambda *given: seen.append(given[2]) or add_noise(*given))
    network.loss_parts(*batch())
    (t,) = seen
    assert len(t) == int(batch()[1].sum()) and len(t.unique()) > 10 and int(t.min()) >= 0 and int(t.max()) < 32


@pytest.mark.parametrize("weight", [0.001, 1.0, 0.0])
def test_a_next_item_reaches_what_is_restored_at_its_token_and_later_ones_of_its_history(weight):
    network = build(noised_weight=weight)
    items, lengths, _ = batch()
    layout = PackedLayout(lengths)
    clean = torch.randn(layout.n_tokens, 8, dtype=torch.float64, requires_grad=True)
    states = network._states(network.item_embedding(layout.pack(items)), layout)

    def restored(vectors):
        torch.manual_seed(1)
        return network._restore(states, vectors, layout)

    jacobian = torch.autograd.functional.jacobian(restored, clean).abs().amax((1, 3))  # [restored, next item]
    later = (layout.row[:, None] == layout.row) & (layout.position[:, None] >= layout.position)
    assert torch.equal(jacobian > 0, later & (weight > 0))


def test_the_time_step_of_a_token_enters_with_the_noised_item():
    network = build(noised_weight=0.25)
    layout = PackedLayout(torch.tensor([1]))
    states, clean = (torch.randn(1, 8, dtype=torch.float64) for _ in range(2))
    torch.manual_seed(2)
    found = network._restore(states, clean, layout)
    torch.manual_seed(2)
    t, noise = torch.randint(32, (1,)), torch.randn(1, 8, dtype=torch.float64)
    bar = alpha_bars(named_betas("trunc_lin", 32))[t]
    u = states + 0.25 * (bar.sqrt() * clean + (1 - bar).sqrt() * noise + network.step_embedding()[t])
    expected = network.denoiser(u.unsqueeze(1), layout, causal=True)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


# Known answers


def test_schedule_of_the_released_code():
    network, betas = build(), named_betas("trunc_lin", 32)
    assert betas[[0, 1, 16, 31]].tolist() == pytest.approx([0.013125, 0.033185, 0.334093, 0.635], abs=1e-6)
    bars = network.process.signal.double() ** 2
    assert bars[[0, 16, 31]].tolist() == pytest.approx([0.986875, 0.034616, 9.9013e-7], rel=2e-5)
    chain = network.chain
    assert chain.timesteps == list(range(31, -1, -1)) and (chain.clean[-1], chain.state[-1], chain.noise[-1]) == (
        1,
        0,
        0,
    )
    assert (chain.clean[-2], chain.state[-2], chain.noise[-2]) == pytest.approx(
        (0.718628, 0.281317, 0.097440), abs=1e-6
    )


def four_blocks(network):
    """PyTorch's own Transformer of post-norm blocks with the weights of both networks."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
    reference = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).double().eval()
    attentions = [*network.encoder.attention, *network.denoiser.attention]
    feeds = [*network.encoder.feed_forward, *network.denoiser.feed_forward]
    for own, attention, feed in zip(reference.layers, attentions, feeds):
        own.self_attn.in_proj_weight.data, own.self_attn.in_proj_bias.data = (
            attention.qkv.weight.data,
            attention.qkv.bias.data,
        )
        own.self_attn.out_proj.load_state_dict(attention.dense.state_dict())
        for one, other in ((own.norm1, attention.LayerNorm), (own.linear1, feed.dense_1), (own.linear2, feed.dense_2),
                           (own.norm2, feed.LayerNorm)):  # fmt: skip
            one.load_state_dict(other.state_dict())
    return reference


@pytest.mark.parametrize("settings", [{"twin": True}, {"noised_weight": 0.0, **WITHOUT_MSE}], ids=str)
@torch.no_grad()
def test_without_diffusion_it_is_a_causal_transformer_of_four_blocks_with_cross_entropy(settings):
    network = build(**settings)
    items, lengths, target = batch()
    table, place = network.item_embedding.weight, torch.arange(12)
    future = torch.nn.Transformer.generate_square_subsequent_mask(12, dtype=torch.float64)
    padding = torch.where(place >= lengths[:, None], float("-inf"), 0.0).double()
    states = four_blocks(network)(network.embedding_norm(table[items]), mask=future, src_key_padding_mask=padding)
    real, next_item = items > 0, plain.following(items, lengths, target)
    expected = F.cross_entropy(states[real] @ table[1:].t(), next_item[real] - 1)
    parts = network.loss_parts(items, lengths, target)
    assert list(parts) == ["ce"]
    torch.testing.assert_close(parts["ce"], expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        network.encode(items, lengths), states[torch.arange(9), lengths - 1], atol=1e-9, rtol=1e-9
    )


def test_the_twin_starts_with_the_same_weights_and_has_nothing_of_the_diffusion():
    def start(**settings):
        config = DiffusionConfig("ADRec", "synthetic", config_dict={**SMALL, **settings})
        torch.manual_seed(3)
        return config.model_class(config, Catalogue(config, {"item_tokens": range(N_ITEMS)})).state_dict()

    whole, twin = start(), start(twin=True)
    assert set(whole) - set(twin) == {name for name in whole if name.startswith("step_embedding.")} != set()
    assert all(torch.equal(twin[name], whole[name]) for name in twin)
    # settings of the diffusion are not looked at
    assert start(twin=True, hidden_size=9, n_heads=3, sampling_steps=40)["item_embedding.weight"].shape == (N_ITEMS, 9)


# Generation


SAMPLERS = [
    {},
    {"noised_weight": 1.0},
    {"noised_weight": 1.0, "sampling_steps": 1},
    {"noised_weight": 1.0, "sampling_steps": 7, "reverse": "ddim", "schedule": "cosine"},
    {"noised_weight": 1.0, "sampling_noise": False, "denoiser_layers": 3},
    {"noised_weight": 1.0, "denoiser_layers": 1, "diffusion_steps": 50, "sampling_steps": 50},
]


@pytest.mark.parametrize("settings", SAMPLERS, ids=str)
@torch.no_grad()
def test_cached_sampling_equals_naive_sampling(settings):
    cached, naive = (build(**settings, sampler=sampler) for sampler in ("cached", "naive"))
    items, lengths, _ = batch()
    passes, whole = [], type(naive.denoiser).forward
    for network in (cached, naive):
        network.denoiser.forward = lambda *given, own=network.denoiser, **more: (
            passes.append(1) or whole(own, *given, **more)
        )
    found = cached.encode(items, lengths)
    assert not passes
    torch.testing.assert_close(found, naive.encode(items, lengths), atol=1e-12, rtol=1e-12)
    assert len(passes) == len(naive.chain.timesteps)  # it read the whole history in every step


@pytest.mark.parametrize("weight", [0.001, 1.0])
@torch.no_grad()
def test_sampling_equals_the_plain_equations(weight):
    network = build(noised_weight=weight)
    items, lengths, _ = batch()
    drawn, noise = [], type(network.noise).forward
    network.noise.forward = lambda *key: drawn.append(noise(network.noise, *key)) or drawn[-1]
    found = network.encode(items, lengths)
    assert len(drawn) == 32  # the start and all steps but the last
    bars = alpha_bars(named_betas("trunc_lin", 32))
    expected = plain.sample(network, items, lengths, bars, drawn[0], [*drawn[1:], torch.zeros_like(drawn[0])])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7)


@torch.no_grad()
def test_noise_is_used_and_another_seed_is_other_noise():
    items, lengths, _ = batch()
    alive = {"noised_weight": 1.0}
    found = build(**alive).encode(items, lengths)
    for other in (build(**alive, sampling_noise=False), build(**alive, seed=7), build(**alive, sampling_steps=1)):
        assert not torch.allclose(other.encode(items, lengths), found, atol=1e-3)
    torch.testing.assert_close(build(**alive).encode(items[3:6].flip(0), lengths[3:6].flip(0)), found[3:6].flip(0))


# Reports


def test_a_collapse_is_measured_against_the_start_of_the_training():
    network, resumed = build(), build()
    torch.nn.init.normal_(network.item_embedding.weight, std=0.5)
    network.begin_epoch(0)
    report = network.epoch_report()
    assert report["item std"] == network.deviation_at_start > 0.4 and network.epoch_warning(report) is None
    resumed.load_training_state(network.training_state())
    network.item_embedding.weight.data *= 0.3
    network.begin_epoch(1)
    start = f"standard deviation {0.3 * report['item std']:.2g} from {report['item std']:.2g} at the start"
    for one in (network, resumed):
        assert start in one.epoch_warning(network.epoch_report())
        assert "lower mse_weight" in one.epoch_warning({"item std": 0.5, "item cosine": 0.6})


# Switches and bad input


def test_repetition_is_learned():
    network = build(repetition="learned")
    network.loss_parts(torch.tensor([[1, 2, 1, 2]]), torch.tensor([4]), torch.tensor([1]))["ce"].backward()
    assert network.repetition.amount.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sampling_steps": 0}, "sampling_steps must lie in"),
        ({"diffusion_steps": 0}, "diffusion_steps must lie in"),
        ({"sampling_steps": 33}, "sampling_steps 33 is larger than diffusion_steps 32"),
        ({"mse_weight": -1}, "mse_weight must lie in"),
        ({"noised_weight": -0.001}, "noised_weight must lie in"),
        ({"frozen_epochs": -1}, "frozen_epochs must lie in"),
        ({"denoiser_layers": 0}, "denoiser_layers must lie in"),
        ({"hidden_size": 9, "n_heads": 3}, "hidden_size 9 must be even"),
        ({"hidden_size": 10, "n_heads": 4}, "hidden_size 10 is not a multiple of n_heads 4"),
        ({"sampler": "exact"}, "sampler must be one of cached, naive"),
        ({"schedule": "exp"}, "schedule must be one of"),
        ({"beta_end": 1.0}, "beta_end must lie in"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(UsageError, match=words) as refusal:
        DiffusionConfig("ADRec", "synthetic", config_dict={**SMALL, **settings})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("switches", [{"twin": True}, {"noised_weight": 1.0}], ids=str)
def test_switches_learn(switches, tmp_path):
    folder = write_sequences(cycle_sequences(max_length=11), tmp_path, "cycle")
    small = {"hidden_size": 16, "inner_size": 32, "epochs": 30, "learning_rate": 0.01, "eval_step": 5}
    config = make_config("ADRec", folder, **{**small, **switches})
    assert run("ADRec", "cycle", config_dict=config.external_config_dict)["test_result"]["hit@1"] > 0.9
