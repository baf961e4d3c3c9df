"""MFGAN: known values, what each side learns from and when, factors, a leak that is off, explanations."""

import json

import pytest
import torch
import torch.nn.functional as F
from item_files import write_categories
from plain_simdiffrec import positioned
from plain_towers import one_by_one
from test_simdiffrec import N_ITEMS, FakeData, batch

from recbole_diffusion import run
from recbole_diffusion.cli import main
from recbole_diffusion.layers.packed import PackedLayout
from recbole_diffusion.layers.top_items import top_items
from recbole_diffusion.model.mfgan import MFGAN, policy_gradient, reward_bce
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.testing import cycle_sequences, make_config, small_settings, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

SMALL = {"hidden_size": 16, "inner_size": 24, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
SMALL.update(critic_dropout_prob=0.0, n_candidates=4, pretrain_epochs=0)


class Data(FakeData):
    def item_counts(self):
        return torch.arange(N_ITEMS + 1)

    def item_attributes(self, choice):
        items = torch.arange(1, N_ITEMS + 1)
        return {} if choice == "none" else {"category": (items, items % 3)}

    def item_features(self, *_):
        return None


def build(**settings):
    torch.manual_seed(3)
    settings = {**SMALL, "initializer_range": 0.5, **settings}
    return MFGAN(make_config("MFGAN", "unused", MAX_ITEM_LIST_LENGTH=12, **settings), Data()).double()


# Known values


def test_golden_values_of_the_released_loss():
    positive, negative = torch.tensor([0.3, -0.2, 1.1]), torch.tensor([-0.5, 0.4, 0.1])
    for reward, loss in {1.0: 1.257106, 0.5: 0.983801, 1 / 11: 0.760188}.items():
        assert float(reward_bce(positive, negative, reward)) == pytest.approx(loss, abs=1e-6)


def test_golden_values_of_the_policy_gradient():
    """With all items as candidates the surrogate has the gradient of the expected reward."""
    logits, rewards = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True), torch.tensor([[0.2, 0.5, 0.9]])
    assert float((logits.detach().softmax(1) * rewards).sum()) == pytest.approx(0.739087, abs=1e-6)
    (gradient,) = torch.autograd.grad(-policy_gradient(logits, rewards), logits)
    torch.testing.assert_close(gradient[0], torch.tensor([-0.048534, -0.058511, 0.107046]), atol=1e-6, rtol=0)
    twice = torch.autograd.grad(policy_gradient(logits, 2 * rewards, normalise=True), logits)[0]
    once = torch.autograd.grad(policy_gradient(logits, rewards, normalise=True), logits)[0]
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=0)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_constant_reward_teaches_nothing(normalise):
    logits = torch.randn(4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(policy_gradient(logits, torch.full((4, 5), 0.25), normalise), logits)
    assert gradient.abs().max() < 1e-3


# Losses against plain forms


@pytest.mark.parametrize("settings", [{}, {"balance": False, "encoder": "sasrec", "pos_align": "start", "factors": "id"}])
def test_packed_equals_padded_in_values_and_gradients(settings):
    model, (items, lengths, target) = build(normalise_advantage=False, **settings), batch(rows=7)
    fast = model.loss_parts(items, lengths, target)
    sum(fast.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    rows, table = torch.arange(len(items)), model.item_embedding.weight
    states = positioned(model.recommender, table[items], items > 0, causal=True)
    following = torch.cat([items[:, 1:], torch.zeros_like(items[:, :1])], 1)
    following[rows, lengths - 1] = target
    logits = states @ table.t()
    log_p = logits[..., 1:].log_softmax(-1).gather(2, (following - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
    slow = {"recommendation": -log_p[items > 0].mean()}
    last = logits[rows, lengths - 1]
    best = last.detach().clone()
    best[:, 0] = best[rows, target] = -torch.inf
    candidates = torch.cat([target[:, None], best.topk(4).indices], 1)
    realness = [one_by_one(tower, items, lengths, candidates) for tower in model.towers]
    p, q = last.gather(1, candidates).softmax(1), torch.stack(realness).sigmoid().mean(0).detach()
    advantage = q - (p * q).sum(1, keepdim=True)
    slow["generator"] = -0.1 * ((p * advantage).detach() * last.gather(1, candidates)).sum(1).mean()
    for name, tower, judged in zip(model.factors, model.towers, realness):
        label = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64).expand_as(judged)
        losses = F.binary_cross_entropy_with_logits(judged, label, reduction="none")
        share = torch.tensor([0.5, *[0.125] * 4]) if model.config["balance"] else torch.full((5,), 0.2)
        decay = 0.5e-4 * sum(p.square().sum() for p in tower.out.parameters())
        slow[f"critic {name}"] = (losses * share.double()).sum(1).mean() + decay
    assert list(fast) == list(slow)
    sum(slow.values()).backward()
    for name in slow:  # probabilities and critics are compared in single precision
        torch.testing.assert_close(fast[name].double(), slow[name], msg=name, atol=1e-6, rtol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name, atol=1e-6, rtol=1e-5)


def test_the_released_objective_weights_users_by_the_reward_of_their_best_item():
    model, (items, lengths, target) = build(objective="reward_bce", gen_weight=1.0), batch(rows=7)
    torch.manual_seed(1)
    found = model.loss_parts(items, lengths, target)["generator"]
    with torch.no_grad():
        layout = PackedLayout(lengths)
        packed = layout.pack(items)
        hidden, table = model.hidden(packed, layout), model.item_embedding.weight
        best = top_items(hidden[layout.last], table, 1)
        reward = torch.stack([one_by_one(tower, items, lengths, best) for tower in model.towers]).sigmoid().mean(0)
        assert len(set(reward.flatten().tolist())) == len(items)
        next_item = packed.roll(-1)
        next_item[layout.last] = target
        positive = F.softplus(-(hidden * table[next_item]).sum(1)) * reward[layout.row, 0]
        negative = found - positive.mean()  # of items that are drawn: at least 0, and what a binary loss can be
        assert 0 < negative < 10
    model.config["gen_weight"] = 0.0
    assert float(model.loss_parts(items, lengths, target)["generator"]) == 0


# Phases


def test_phases_of_the_released_schedule_and_of_the_default():
    model = build(pretrain_epochs=3, alternate="epoch", generator_epochs=2)
    sides = []
    for epoch in range(10):
        model.begin_epoch(epoch)
        sides.append(model.sides())
        assert model.changes_scores(epoch) == (sides[-1] != (False, True))
    alone, critics, recommender = (False, False), (False, True), (True, False)
    assert sides == [alone] * 3 + [critics, recommender, recommender] * 2 + [critics]
    model = build(pretrain_epochs=1)
    for epoch, expected in enumerate([alone, (True, True), (True, True)]):
        model.begin_epoch(epoch)
        assert model.sides() == expected
    assert build(twin=True).sides() == alone and not len(build(twin=True).towers)


def test_each_phase_moves_its_own_side_and_an_epoch_of_critics_is_not_validated(tmp_path):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    more = {"alternate": "epoch", "generator_epochs": 1, "pretrain_epochs": 1, "n_candidates": 3, "checkpoint_dir": str(tmp_path)}
    states, histories = [], []
    for epochs in (1, 2, 3):
        config = make_config("MFGAN", folder, **{**small_settings("MFGAN"), **more, "epochs": epochs}).external_config_dict
        result = run("MFGAN", "cycle", config_dict=config)
        last = result["checkpoint"].replace("-best.pth", "-last.pth")
        states.append(load_checkpoint(last)["state_dict"])
        histories.append(result["history"])
    for before, after, moved in ((states[0], states[1], "towers."), (states[1], states[2], "other")):
        for name in before:
            is_moved = name.startswith("towers.") == (moved == "towers.")
            assert torch.equal(before[name], after[name]) != is_moved or "embedding" in name and is_moved, name
    assert histories[2]["valid_epoch"] == [0, 2]  # the second epoch changes no score
    assert histories[2]["loss"]["recommendation"][1] == 0 < histories[2]["loss"]["critic id"][1]


@pytest.mark.parametrize("stop", [2, 3])
def test_a_training_that_stops_between_phases_goes_on_exactly(tmp_path, stop):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    more = {"alternate": "epoch", "generator_epochs": 1, "pretrain_epochs": 1, "n_candidates": 3, "stopping_step": 9}

    def train(place, epochs, **how):
        settings = {**small_settings("MFGAN"), **more, "epochs": epochs, "checkpoint_dir": str(tmp_path / place), **how}
        return run("MFGAN", "cycle", config_dict=make_config("MFGAN", folder, **settings).external_config_dict)

    whole = train("whole", 5)  # recommender alone, discriminators, recommender, discriminators, recommender
    train("parts", stop)
    resumed = train("parts", 5, resume=True)
    assert resumed["history"]["loss"] == whole["history"]["loss"]  # the last epoch of a part is validated besides
    ends = [load_checkpoint(result["checkpoint"].replace("-best.pth", "-last.pth"))["state_dict"] for result in (whole, resumed)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


# What the discriminators learn from


def trained(folder, out, **more):
    settings = {**small_settings("MFGAN"), "pretrain_epochs": 1, "n_candidates": 3, "epochs": 2, "checkpoint_dir": str(out), **more}
    config = make_config("MFGAN", folder, **settings).external_config_dict
    return run("MFGAN", "cycle", config_dict=config)


@pytest.mark.parametrize("official_leak", [False, True])
def test_validation_and_test_items_train_nothing_unless_they_leak(tmp_path, official_leak):
    sequences, weights = [[*range(1, 13), 1, 2], *cycle_sequences()], []  # the first user fixes the numbers of the items
    for number, change in enumerate((0, 1)):
        changed = [[*s[:-2], s[-2] % 12 + 1, s[-1] % 12 + 1] if change and n else s for n, s in enumerate(sequences)]
        folder = write_sequences(changed, tmp_path / str(number), "cycle")
        result = trained(folder, tmp_path / f"out{number}", official_leak=official_leak, eval_step=0)
        assert result["leaks_test_labels"] == official_leak
        weights.append(load_checkpoint(result["checkpoint"])["state_dict"])
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert same != official_leak


def test_whole_users_as_the_released_discriminators_see_them():
    model = build()
    items = torch.tensor([[3, 4, 0], [5, 6, 7], [8, 0, 0]])
    lengths, target, later = torch.tensor([2, 3, 1]), torch.tensor([9, 10, 11]), torch.tensor([[20, 21], [22, 0], [0, 0]])
    rows, length, last = model._real(items, lengths, target, later)
    assert last.tolist() == [21, 22, 11] and length.tolist() == [4, 4, 1]
    assert [row[:n] for row, n in zip(rows.tolist(), length.tolist())] == [[3, 4, 9, 20], [5, 6, 7, 10], [8]]
    model.max_seq_length = 2
    rows, length, last = model._real(items, lengths, target, later)
    assert rows.tolist() == [[9, 20], [7, 10], [8, 0]] and length.tolist() == [2, 2, 1] and last.tolist() == [21, 22, 11]


def test_trained_discriminators_know_real_from_recommended_items(tmp_path):
    """On held-out targets: the share of pairs that the tower of items orders rightly is above chance."""
    folder = write_sequences(cycle_sequences(60), tmp_path, "cycle")
    result = trained(folder, tmp_path, pretrain_epochs=2, epochs=25, learning_rate=0.01, critic_learning_rate=0.01, gen_weight=0.0)
    recommender = Recommender.load(result["checkpoint"].replace("-best.pth", "-last.pth"))
    network, tokens = recommender.network, recommender.tokens
    number = {token: n for n, token in enumerate(tokens)}
    histories = [[number[f"i{n}"] for n in s[:-1]] for s in cycle_sequences(60)]
    batched = recommender._batch(histories)
    items, lengths = batched[network.ITEM_SEQ], batched[network.ITEM_SEQ_LEN]
    real = torch.tensor([number[f"i{s[-1]}"] for s in cycle_sequences(60)])
    fake = torch.where(real > 1, real - 1, real + 1)
    judged = network.factor_rewards(items, lengths, torch.stack([real, fake], 1))
    right = (judged["id"][:, 0] > judged["id"][:, 1]).double().mean()
    assert right > 0.8 and judged.keys() == {"id", "popularity"}


# Factors


def test_factors_of_a_data_set(tmp_path, caplog):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    without = trained(folder, tmp_path)
    assert "no attributes of items" in caplog.text
    write_categories(folder)
    found = {}
    for choice in ("auto", "popularity,category", "id"):
        result = trained(folder, tmp_path, factors=choice)
        found[choice] = [name for name in result["history"]["loss"] if name.startswith("critic ")]
    assert [n for n in without["history"]["loss"] if n.startswith("critic ")] == ["critic id", "critic popularity"]
    assert found["auto"] == ["critic id", "critic popularity", "critic category"]
    assert found["popularity,category"] == ["critic popularity", "critic category"] and found["id"] == ["critic id"]


def test_popularity_is_that_of_the_training_part():
    model = build(factors="popularity")
    buckets = model.towers[0].factor.values
    assert buckets.tolist() == [(n + 1).bit_length() - 1 for n in range(N_ITEMS + 1)]


def test_explanations_of_recommendations(tmp_path, capsys):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    write_categories(folder)
    checkpoint = trained(folder, tmp_path)["checkpoint"]
    capsys.readouterr()
    words = ["recommend", checkpoint, "--user=u1", f"--data_path={folder}", "--k=2"]
    assert main([*words, "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 2 * 4
    for first in (0, 4):
        names = [line.split(":")[0].strip() for line in lines[first + 1 : first + 4]]
        assert names == ["id", "popularity", "category"]
        assert all(0 < float(line.split()[-1]) < 1 for line in lines[first + 1 : first + 4])
    assert main(words) == 0 and len(capsys.readouterr().out.splitlines()) == 3
    (tmp_path / "in.jsonl").write_text(json.dumps({"user": "u", "items": ["i1"]}) + "\n")
    assert main(["recommend", checkpoint, "--explain", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.csv'}"]) == 2
    assert "--explain prints a line per factor: it needs --user" in capsys.readouterr().err
    twin = trained(folder, tmp_path, twin=True)["checkpoint"]
    capsys.readouterr()
    assert main(["recommend", twin, "--user=u1", f"--data_path={folder}", "--explain"]) == 2
    assert "MFGAN has no factors to explain by" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--factors=id,id"], "name one twice"),
        (["--factors=id,,popularity"], "leave a name out between commas"),
        (["--factors=none"], "factors 'none' leave MFGAN without discriminators: name one, or set twin: True"),
        (["--factors=id,colour"], "colour"),
        (["--factors=text"], "recbole-diffusion features makes them"),
        (["--gen_weight=-1"], "gen_weight"),
        (["--rec_weight=0", "--gen_weight=0"], "nothing would train the recommender"),
        (["--n_candidates=12"], "n_candidates 12 of 12 items are too many"),
        (["--objective=bce"], "objective"),
        (["--critic_weight_decay=-0.1"], "critic_weight_decay"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, capsys, words, message):
    folder = write_sequences(cycle_sequences(), tmp_path, "cycle")
    assert main(["--model=MFGAN", "--dataset=cycle", f"--data_path={folder}", "--topk=[5]", "--valid_metric=MRR@5", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1, error
