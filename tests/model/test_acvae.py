"""ACVAE: fast equals plain, one backward pass equals the alternation, what critics say of known cases, its scores."""

import copy
import math

import plain_acvae as plain
import pytest
import torch
from test_simdiffrec import FakeData, batch

from recbole_diffusion.cli import main
from recbole_diffusion.diffusion.keyed_noise import history_keys
from recbole_diffusion.layers.implicit_posterior import windows
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.acvae import ACVAE
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences
from recbole_diffusion.training.trainer import DiffusionTrainer, sides_of

SMALL = {"hidden_size": 12, "gru_size": 10, "latent_size": 8, "critic_size": 9}
STILL = {"embedding_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "critic_dropout_prob": 0.0}
CRITIC = "prior_critic."


def build(**settings):
    torch.manual_seed(3)
    settings = {**SMALL, **STILL, "contrast_weight": 0.7, "kl_weight": 0.4, **settings}
    return ACVAE(make_config("ACVAE", "unused", MAX_ITEM_LIST_LENGTH=12, **settings), FakeData()).double()


def spread(packed, layout, shape):
    """[N, d] -> [B, L, d], zeros at padding."""
    rows = packed.new_zeros(*shape, packed.shape[-1])
    rows[layout.row, layout.position] = packed
    return rows


@pytest.mark.parametrize("settings", [{}, {"critic_context": "state", "kernel_size": 3}, {"encoder_noise": False}])
def test_packed_equals_padded_in_values_and_gradients(settings):
    model, (items, lengths, target) = build(**settings), batch(rows=11)
    layout = PackedLayout(lengths)
    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target)
    sum(fast.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    def draw(width):
        return spread(torch.randn(layout.n_tokens, width, dtype=torch.float64), layout, items.shape)

    torch.manual_seed(5)
    noise = [draw(10) for _ in range(2)] if model.noise else [None, None]
    uniform = spread(torch.rand(layout.n_tokens)[:, None], layout, items.shape)[..., 0]
    prior = draw(8)

    def other(z):
        rows = []
        for row in range(len(items)):
            n, whose = int(lengths[row - 1]), row - 1
            places = [p if p < n else min(int(uniform[row, p] * n), n - 1) for p in range(items.shape[1])]
            rows.append(z[whose, places])
        return torch.stack(rows)

    slow = plain.loss_parts(model, items, lengths, target, noise, other, prior)
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], msg=name)
    # As published: the divergence does not move its critic, the critic's own loss moves nothing else.
    encoder = {name: p for name, p in model.named_parameters() if not name.startswith(CRITIC)}
    critic = {name: p for name, p in model.named_parameters() if name.startswith(CRITIC)}
    of_encoder = slow["recommendation"] + slow["kl"] + slow["contrast"]
    expected = dict(zip(encoder, torch.autograd.grad(of_encoder, encoder.values(), retain_graph=True)))
    expected.update(zip(critic, torch.autograd.grad(slow["prior_critic"], critic.values())))
    assert expected.keys() == gradients.keys()
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], msg=name)


def test_one_backward_pass_is_the_published_alternation():
    """Encoder and contrast first, then the prior's critic on what the old encoder gave, each by an Adam of its own."""
    together, apart = build(), build()
    inputs = batch(rows=11)
    one = torch.optim.Adam(together.parameters(), lr=0.01)
    mine = [p for name, p in apart.named_parameters() if not name.startswith(CRITIC)]
    first, second = torch.optim.Adam(mine, lr=0.01), torch.optim.Adam(apart.prior_critic.parameters(), lr=0.01)
    for step in range(5):
        torch.manual_seed(step)
        one.zero_grad()
        sum(together.loss_parts(*inputs).values()).backward()
        one.step()

        torch.manual_seed(step)
        parts = apart.loss_parts(*inputs)
        first.zero_grad()
        (parts["recommendation"] + parts["kl"] + parts["contrast"]).backward(retain_graph=True)
        second.zero_grad()
        gradients = torch.autograd.grad(parts["prior_critic"], list(apart.prior_critic.parameters()))
        first.step()
        for parameter, gradient in zip(apart.prior_critic.parameters(), gradients):
            parameter.grad = gradient
        second.step()
    for (name, a), b in zip(together.named_parameters(), apart.parameters()):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0, msg=name)


def test_losses_of_critics_that_know_nothing():
    model, inputs = build(), batch(rows=11)
    for critic in (model.prior_critic, model.contrast_critic):
        for parameter in critic.parameters():
            parameter.data.zero_()
    model.prior_critic.forward = lambda context, z: torch.zeros_like(z)
    with torch.no_grad():
        parts = model.loss_parts(*inputs)
    assert float(parts["prior_critic"]) == pytest.approx(1.386294, abs=1e-6)
    assert float(parts["contrast"]) / 0.7 == pytest.approx(1.386294, abs=1e-6)


def test_the_start_of_the_prior_critic_and_the_divergence_of_two_normals():
    """Half of z squared is minus the log density of N(0, 1); with the density of N(1, .5 ** 2) its mean is their KL."""
    critic = build().prior_critic
    for parameter in critic.parameters():
        parameter.data.zero_()
    z = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, -2.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(critic(torch.zeros(1, 12, dtype=torch.float64), z), z**2 / 2)
    grid = torch.linspace(-5, 7, 20_001, dtype=torch.float64)
    density = torch.exp(-2 * (grid - 1) ** 2) * math.sqrt(2 / math.pi)
    ratio = math.log(2) - 2 * (grid - 1) ** 2 + grid**2 / 2
    assert float(torch.trapezoid(density * ratio, grid)) == pytest.approx(0.818147, abs=1e-6)


def test_windows_are_what_stands_before():
    x, position = torch.arange(1.0, 8.0)[:, None], torch.tensor([0, 1, 2, 0, 0, 1, 2])
    found = windows(x, position, 3).squeeze(2).tolist()
    assert found == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 4], [0, 0, 5], [0, 5, 6], [5, 6, 7]]


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_scores_are_the_mean_over_keyed_draws(draws):
    """Only the latest states are looked at, which gives what all would."""
    model, (items, lengths, _) = build(eval_draws=draws).eval(), batch(rows=9)
    layout = PackedLayout(lengths)
    packed, rows = layout.pack(items), torch.arange(len(items))
    from_end = layout.length - 1 - layout.position
    keys = history_keys(packed, from_end, layout.row, len(items))[layout.row]
    total = 0
    for number in range(max(draws, 1)):
        noise = [torch.zeros(layout.n_tokens, 10, dtype=torch.float64)] * 2
        if draws:
            noise = [model.noise(keys, from_end, number, place).double() for place in range(2)]
        total = total + plain.latents(model, items, [spread(n, layout, items.shape) for n in noise])[2]
    expected = plain.logits(model, total[rows, lengths - 1] / max(draws, 1))
    torch.testing.assert_close(model.encode(items, lengths) @ model.item_vectors().t(), expected)


def test_the_released_negatives_are_latents_of_padding():
    """Where the user of the row before has fewer items, the released pairing meets what the encoder makes of padding."""
    model = build(contrast_negatives="roll", encoder_noise=False)
    items, lengths = torch.tensor([[3, 0, 0, 0], [5, 6, 7, 8]]), torch.tensor([1, 4])
    layout = PackedLayout(lengths)
    padded = plain.latents(model, items, [None, None])[2]
    z = padded[layout.row, layout.position]
    found = spread(model._latents_of_others(z, items, layout), layout, items.shape)
    torch.testing.assert_close(found[1], padded[0])  # one item and three of padding
    torch.testing.assert_close(found[0, 0], padded[1, 0])
    model.config["contrast_negatives"] = "other"
    found = spread(model._latents_of_others(z, items, layout), layout, items.shape)
    torch.testing.assert_close(found[1], padded[0, :1].expand(4, -1))  # the only item there is


def test_without_its_variational_part_it_is_its_twin():
    bare, twin = build(kl_weight=0.0, contrast_weight=0.0, encoder_noise=False), build(twin=True)
    assert bare.state_dict().keys() == twin.state_dict().keys()
    bare.load_state_dict(twin.state_dict())
    inputs = batch()
    assert torch.equal(*(model.loss_parts(*inputs)["recommendation"] for model in (bare, twin)))
    assert list(twin.loss_parts(*inputs)) == ["recommendation"] and twin.critics() == {}


def test_critics_learn_at_a_rate_of_their_own_and_are_clipped_apart(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    config = make_config("ACVAE", folder, **SMALL, critic_learning_rate=0.5, clip_grad_norm={"max_norm": 1e-3})
    model = ACVAE(config, FakeData())
    trainer = DiffusionTrainer(config, model)
    sides = sides_of(model)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [config["learning_rate"], 0.5]
    assert {id(p) for p in sides[1][0]} == {id(p) for p in model.prior_critic.parameters()}
    assert sum(len(side) for side, _ in sides) == len(list(model.parameters()))
    sum(model.loss_parts(*batch())[name] for name in ("recommendation", "prior_critic")).backward()
    trainer._update()
    for side, _ in sides:
        norm = torch.stack([p.grad.norm() for p in side if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_learned_repetition_adds_to_the_items_of_the_history():
    model = build(repetition="learned")
    with torch.no_grad():
        model.repetition.amount.fill_(2.0)
    plainly = copy.deepcopy(model)
    plainly.repetition = None
    items, lengths, _ = batch()
    inputs = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths}
    with torch.no_grad():
        added = model.eval().full_sort_predict(inputs) - plainly.eval().full_sort_predict(inputs)
    for row, n in zip(range(len(items)), lengths.tolist()):
        assert set(added[row].abs().gt(1e-9).nonzero().flatten().tolist()) == set(items[row, :n].tolist())


@pytest.mark.parametrize(
    "words, message",
    [
        (["--train_batch_size=1"], "no other user"),
        (["--kl_weight=-0.1"], "kl_weight"),
        (["--contrast_weight=-1"], "contrast_weight"),
        (["--critic_learning_rate=0"], "critic_learning_rate"),
        (["--contrast_negatives=rol"], "must be one of other, roll"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, capsys, words, message):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    assert main(["--model=ACVAE", "--dataset=cycle", f"--data_path={folder}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_user_alone_in_a_batch_is_contrasted_with_nobody():
    model, (items, lengths, target) = build(), batch(rows=1)
    contrast = model.loss_parts(items, lengths, target)["contrast"]
    contrast.backward()
    assert contrast == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())
