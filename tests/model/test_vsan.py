"""VSAN: fast equals plain, the divergence and its rising weight, its twin, what its scores depend on."""

import plain_vsan as plain
import pytest
import torch
from test_cl4srec import SMALL
from test_simdiffrec import FakeData, batch

from recbole_diffusion.cli import main
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.model.vsan import VSAN, kl_from_standard_normal
from recbole_diffusion.testing import cycle_sequences, make_config, write_sequences


def build(**settings):
    torch.manual_seed(3)
    settings = {**SMALL, "initializer_range": 0.5, "kl_weight": 0.5, "kl_anneal_steps": 0, **settings}
    return VSAN(make_config("VSAN", "unused", MAX_ITEM_LIST_LENGTH=12, **settings), FakeData()).double()


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"next_k": 3, "pos_align": "end"},
        {"separate_variance_stack": True, "n_layers": 2, "generation_layers": 2},
        {"encoder": "ligr", "next_k": 20},
        {"twin": True, "next_k": 2},
    ],
)
def test_packed_equals_padded_in_values_and_gradients(settings):
    model, (items, lengths, target) = build(**settings), batch(rows=11)
    layout = PackedLayout(lengths)
    torch.manual_seed(5)
    fast = model.loss_parts(items, lengths, target)
    sum(fast.values()).backward()
    fast_gradients = gradients(model)
    model.zero_grad()

    torch.manual_seed(5)
    noise = torch.zeros(*items.shape, 16, dtype=torch.float64)
    noise[layout.row, layout.position] = torch.randn(layout.n_tokens, 16, dtype=torch.float64)
    surprise, divergence = plain.losses(model, items, lengths, target, noise)
    (surprise if divergence is None else surprise + 0.5 * divergence).backward()
    torch.testing.assert_close(fast["recommendation"], surprise)
    assert ("kl" in fast) == (divergence is not None)
    if divergence is not None:
        torch.testing.assert_close(fast["kl"].double(), 0.5 * divergence, rtol=1e-6, atol=1e-6)  # in float32
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(fast_gradients[name], parameter.grad, msg=name, rtol=1e-5, atol=1e-6)


def test_later_targets_with_learned_repetition_equal_all_scores():
    model, (items, lengths, target) = build(next_k=3, repetition="learned", twin=True), batch(rows=7)
    with torch.no_grad():
        model.repetition.amount.normal_()
    layout = PackedLayout(lengths)
    packed = layout.pack(items)
    with torch.no_grad():
        hidden = model.generation(model.infer(packed, layout)[0].unsqueeze(1), layout, causal=True)[:, 0]
        scores = model.repetition.at_every_token(packed, layout).to(hidden @ model.item_embedding.weight.t())
        log_p, losses = scores[:, 1:].log_softmax(1), []
        for n in range(layout.n_tokens):
            row, place = int(layout.row[n]), int(layout.position[n])
            following = [*items[row, 1 : lengths[row]].tolist(), int(target[row])][place : place + 3]
            losses.append(-log_p[n, torch.tensor(following) - 1].mean())
        torch.testing.assert_close(
            model.loss_parts(items, lengths, target)["recommendation"], torch.stack(losses).mean()
        )


def test_golden_values_of_the_divergence():
    found = kl_from_standard_normal(torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0]))
    assert float(found) == pytest.approx(0.683940, abs=1e-6)
    assert float(kl_from_standard_normal(torch.zeros(3), torch.zeros(3))) == 0


def test_golden_values_of_its_weight():
    model = build(kl_weight=0.2, kl_anneal_steps=10_000)
    for step, weight in {0: 0, 1000: 0.1, 2000: 0.2, 5000: 0.2}.items():
        model.load_training_state({"steps_taken": step})
        assert model.present_kl_weight() == pytest.approx(weight)
    model.after_step()
    assert model.training_state() == {"steps_taken": 5001}


def test_without_noise_and_divergence_it_is_its_twin():
    """What is left is a Transformer of both networks' blocks with a linear layer between them."""
    full, twin = build(kl_weight=0.0), build(twin=True)
    twin.load_state_dict({key: value for key, value in full.state_dict().items() if not key.startswith("log_variance")})
    with torch.no_grad():
        full.log_variance.weight.zero_()
        full.log_variance.bias.fill_(-1000.0)  # no noise
    inputs = batch(rows=11)
    losses = full.loss_parts(*inputs), twin.loss_parts(*inputs)
    assert all(parts.keys() == {"recommendation"} for parts in losses)
    torch.testing.assert_close(losses[0]["recommendation"], losses[1]["recommendation"])
    for model in (full, twin):
        model.eval()
    torch.testing.assert_close(full.encode(*inputs[:2]), twin.encode(*inputs[:2]))


def test_gradients_of_the_variances():
    """The divergence moves them by itself; the recommendation through the noise only."""
    model, inputs = build(), batch(rows=11)
    model.loss_parts(*inputs)["kl"].backward()
    assert model.log_variance.weight.grad.abs().max() > 0
    model.zero_grad()
    model.eval()  # no noise, no dropout
    model.loss_parts(*inputs)["recommendation"].backward()
    assert model.log_variance.weight.grad is None


def test_scores_are_those_of_the_mean_and_the_released_shift_is_not():
    model, (items, lengths, _) = build().eval(), batch(rows=11)
    mean, log_variance = plain.gaussians(model, items)
    rows = torch.arange(len(items))
    for shift, latent in {False: mean, True: mean + (0.5 * log_variance).exp()}.items():
        model.config["official_eval_shift"] = shift
        expected = plain.generate(model, latent, items > 0)[rows, lengths - 1]
        torch.testing.assert_close(model.encode(items, lengths), expected)


def test_a_later_item_reaches_no_earlier_state():
    model, (items, lengths, _) = build().eval(), batch(rows=1)
    lengths[:], items = 12, torch.arange(1, 13)[None]
    changed = items.clone()
    changed[0, 8] = 20
    states = []
    for row in (items, changed):
        layout = PackedLayout(lengths)
        latent = model.infer(layout.pack(row), layout)[0].unsqueeze(1)
        states.append(model.generation(latent, layout, causal=True)[:, 0])
    assert torch.equal(states[0][:8], states[1][:8]) and not torch.allclose(states[0][8:], states[1][8:])


def test_a_collapsed_posterior_is_announced():
    model = build()
    model.loss_parts(*batch())
    report = model.epoch_report()
    assert report.keys() == {"KL", "sigma"} and model.epoch_warning(report) is None
    assert "lower kl_weight" in model.epoch_warning({"KL": 0.29, "sigma": 0.995})
    twin = build(twin=True)
    twin.loss_parts(*batch())
    assert twin.epoch_report() == {}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--next_k=2", "--loss_type=BCE"], "next_k above 1"),
        (["--next_k=0"], "next_k"),
        (["--kl_weight=-1"], "kl_weight"),
        (["--kl_anneal_steps=-1"], "kl_anneal_steps"),
        (["--ce_positions=last"], "train_view: prefix"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, capsys, words, message):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    assert main(["--model=VSAN", "--dataset=cycle", f"--data_path={folder}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
