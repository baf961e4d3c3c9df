"""MSGAT: fast equals plain in value and gradient, what may not move its scores, and what its released form does."""

import numpy as np
import plain_msgat as plain
import pytest
import torch
from recbole.data.interaction import Interaction
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion import Recommender, run
from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.testing import make_config, write_sequences
from recbole_diffusion.training.checkpoint import load_checkpoint

SMALL = {"hidden_size": 12, "n_heads": 3, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "neighbor_dropout": 0.0}
BANK = [
    {},
    {"position": "id_rank", "n_heads": 1, "gnn_steps": 2, "bank_sessions": "full"},
    {"attention_mask": False, "gnn_steps": 0, "n_candidates": 3, "neighbor_temperature": 0.7},
    {"inter_attention": False, "k_neighbors": 7},
    {"k_neighbors": 0, "n_candidates": 1},
]
RELEASED = {"neighbor_pool": "batch", "position": "id_rank", "attention_mask": False, "inter_attention": False}
SWITCHES = [*BANK, RELEASED, {"neighbor_pool": "batch", "k_neighbors": 1}]


def msgat(folder, name="cycle", **settings):
    torch.manual_seed(3)
    return build(folder, "MSGAT", name, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    random = np.random.default_rng(4)
    walk = list(range(1, 13))  # all items occur, whatever the others are
    sequences = [walk[:9], walk[5:], *(random.integers(1, 13, n).tolist() for n in random.integers(4, 8, 12))]
    return write_sequences(sequences, tmp_path_factory.mktemp("msgat"), "cycle")


def inputs(model, batch):
    return batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], batch[model.ITEM_ID], batch[model.USER_ID]


def random_sessions(rows=30, width=9):
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    return torch.randint(1, 13, (rows, width), generator=random) * (torch.arange(width) < lengths[:, None]), lengths


def scores(model, items, lengths):
    with torch.no_grad():
        return model.full_sort_predict(Interaction({"item_id_list": items, "item_length": lengths}))[:, 1:]


@pytest.mark.parametrize("settings", SWITCHES)
def test_fast_equals_plain_in_values_and_gradients(settings, folder):
    model, (train, *_) = msgat(folder, **settings)
    model, batch, found = model.double(), next(iter(train)), []
    for loss in (model.loss_parts(*inputs(model, batch))["recommendation"], plain.loss(model, *inputs(model, batch))):
        model.zero_grad()
        loss.backward()
        found.append((loss, {name: p.grad for name, p in model.named_parameters()}))
    (fast, fast_gradients), (slow, slow_gradients) = found
    torch.testing.assert_close(fast, slow)
    for name, gradient in slow_gradients.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-8, rtol=1e-5, msg=name)


@pytest.mark.parametrize("settings", SWITCHES)
def test_scores_equal_plain_ones(settings, folder):
    model, (_, _, test) = msgat(folder, **settings)
    model, batch = model.double().eval(), next(iter(test))[0]
    with torch.no_grad():
        wanted = plain.scores(model, batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        torch.testing.assert_close(model.full_sort_predict(batch)[:, 1:], wanted, atol=1e-7, rtol=1e-7)


# What may not move scores, and what moves those of the released form


@pytest.mark.parametrize("settings", BANK)
def test_scores_depend_on_nothing_but_the_session(settings, folder):
    model, (items, lengths) = msgat(folder, **settings)[0].double().eval(), random_sessions()
    together = scores(model, items, lengths)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(model, items[order], lengths[order]), together[order])
    alone = torch.cat([scores(model, items[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(alone, together)
    assert torch.equal(scores(model, items, lengths), scores(model, items, lengths))


def test_scores_do_not_know_what_stands_in_the_row_of_padding(folder):
    model, (items, lengths) = msgat(folder)[0].double().eval(), random_sessions()
    before = scores(model, items, lengths)
    with torch.no_grad():
        model.train().item_embedding.weight[0] = 7.0
        model.position_embedding.weight[0] = 7.0
    torch.testing.assert_close(scores(model.eval(), items, lengths), before)


def relative_change(model, items, lengths, others):
    """How much the scores of one session change with the others of its batch, as a part of their length."""
    n, width = max(items.shape[1], others[0].shape[1]), torch.nn.functional.pad
    batches = [torch.cat([width(items, (0, n - items.shape[1])), width(more, (0, n - more.shape[1]))]) for more in others]
    found = [scores(model, rows, (rows > 0).sum(1))[0] for rows in batches]
    return ((found[0] - found[1]).norm() / found[0].norm()).item()


def test_only_the_released_pool_depends_on_the_batch(folder):
    items, lengths = random_sessions()
    others = items[1:12], items[12:30]
    assert relative_change(msgat(folder)[0].eval(), items[:1], lengths[:1], others) < 1e-5
    for settings in ({}, {"inter_attention": False}, RELEASED):
        model = msgat(folder, **{**settings, "neighbor_pool": "batch"})[0].eval()
        assert relative_change(model, items[:1], lengths[:1], others) > 0.01


def test_the_released_pool_sees_the_target_in_a_longer_prefix_beside_it(folder):
    """The target of a session is in the next row, as in test files that list all prefixes: its score rises."""
    def rise(**settings):
        model, rows = msgat(folder, **settings)[0].eval(), torch.tensor([[1, 2, 3, 0], [1, 2, 3, 9]])
        with torch.no_grad():
            model.train().item_embedding.weight.copy_(torch.nn.functional.pad(torch.eye(12), (0, 0, 1, 0)))
        model.eval()
        alone, beside = scores(model, rows[:1], torch.tensor([3])), scores(model, rows, torch.tensor([3, 4]))
        return (beside[0] - alone[0])[8].item() - (beside[0] - alone[0])[9].item()

    assert rise(neighbor_pool="batch") > 0.1 and abs(rise()) < 1e-4


def test_only_ranks_of_numbers_depend_on_how_items_are_numbered(folder):
    items, lengths = random_sessions()
    number = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(12, generator=torch.Generator().manual_seed(5)) + 1])
    for position in ("time", "id_rank"):
        model = msgat(folder, position=position)[0].double().eval()
        before = scores(model, items, lengths)
        other = msgat(folder, position=position)[0].double().eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.item_embedding.weight[number] = model.item_embedding.weight
        kept = other.training_sessions
        other.bank = other._bank_of(number[kept[0]], *kept[1:])
        other.training_sessions = (number[kept[0]], *kept[1:])
        after = scores(other.eval(), number[items], lengths)[:, number[1:] - 1]
        assert torch.allclose(after, before, atol=1e-6) == (position == "time")


def test_only_attention_without_a_mask_depends_on_the_longest_session_there_may_be(folder):
    items, lengths = random_sessions()
    for mask in (True, False):
        short, long = (msgat(folder, attention_mask=mask, MAX_ITEM_LIST_LENGTH=n)[0].eval() for n in (9, 30))
        state = long.state_dict()
        state.update({name: value for name, value in short.state_dict().items() if "position" not in name})
        state["position_embedding.weight"][:11] = short.position_embedding.weight.detach()
        long.load_state_dict(state)
        assert torch.allclose(scores(short, items, lengths), scores(long, items, lengths), atol=1e-4) == mask


# Neighbours are those of training


def test_no_score_depends_on_a_test_target_and_a_bank_holds_training_sessions_only(tmp_path):
    found = []
    for label in (1, 4):
        folder = write_split(tmp_path / str(label), TRAIN, [[1, 4, 6]], [[2, 5, label]])
        model, (_, _, test) = msgat(folder, "shop")
        assert len(model.bank) == len(TRAIN) == len(model.eval().encoded_bank().vectors)
        with torch.no_grad():
            found.append(model.full_sort_predict(next(iter(test))[0]))
    assert torch.equal(*found)


@pytest.mark.parametrize("shown", ["full", "input"])
def test_a_training_session_does_not_meet_its_own_target(shown, tmp_path):
    """The target of a training session changes what new sessions see, and nothing that the session itself sees."""
    found = []
    for label in (3, 4):  # 6 6 label
        folder = write_split(tmp_path / str(label), [*TRAIN[:5], [6, 6, label]], [[1, 4, 6]], [[2, 5, 1]])
        model, (train, *_) = msgat(folder, "shop", bank_sessions=shown, k_neighbors=5)  # all others
        user = torch.tensor([train._dataset.token2id("session_id", "6")])
        rows = torch.full((1, 2), train._dataset.token2id("item_id", "6"))
        with torch.no_grad():
            found.append([model.encode(rows, torch.tensor([2]), own) for own in (user, None)])
    (own, new), (own_after, new_after) = found
    torch.testing.assert_close(own, own_after)
    assert not torch.allclose(new, new_after, atol=1e-3)


def test_a_bank_is_encoded_once_an_evaluation_and_every_few_steps(folder, monkeypatch):
    model, (train, _, test) = msgat(folder, bank_refresh=2)
    calls, original = [], type(model.bank).intents
    monkeypatch.setattr(type(model.bank), "intents", lambda *words: calls.append(1) or original(*words))
    batch = next(iter(train))
    for steps, wanted in ((1, 1), (1, 1), (1, 2), (1, 2), (1, 3)):
        sum(model.calculate_loss(batch)).backward()
        assert len(calls) == wanted
    model.config["bank_refresh"] = 0
    for _ in range(4):
        model.calculate_loss(batch)
    assert len(calls) == 3
    model.eval()
    for _ in range(3):
        with torch.no_grad():
            model.full_sort_predict(next(iter(test))[0])
    assert len(calls) == 4
    assert all(not vectors.requires_grad for vectors in (model.encoded_bank().vectors, model.encoded_bank().index))


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attn_dropout_prob", "neighbor_dropout"])
def test_each_dropout_moves_the_loss(name, folder):
    model, (train, *_) = msgat(folder, **{name: 0.5})
    batch = next(iter(train))
    assert len({sum(model.calculate_loss(batch)).item() for _ in range(2)}) == 2


# The front door


def test_the_released_pool_warns_and_marks_its_results(folder, caplog):
    settings = make_config("MSGAT", folder, **SMALL, epochs=1).external_config_dict
    assert run("MSGAT", "cycle", config_dict=settings)["leaks_test_labels"] is False
    assert "LEAKS" not in caplog.text
    result = run("MSGAT", "cycle", config_dict={**settings, "neighbor_pool": "batch"})
    assert result["leaks_test_labels"] is True and "neighbor_pool: batch" in caplog.text and "LEAKS" in caplog.text
    assert "the model saw the test targets (neighbor_pool: batch)" in str(result)


def test_a_run_is_resumed_bit_by_bit_and_recommends_from_its_checkpoint(folder):
    given = make_config("MSGAT", folder, **{**SMALL, "neighbor_dropout": 0.4}, epochs=3).external_config_dict
    undisturbed = run("MSGAT", "cycle", config_dict={**given, "checkpoint_dir": "undisturbed"})
    run("MSGAT", "cycle", config_dict={**given, "epochs": 1, "checkpoint_dir": "stopped"})
    resumed = run("MSGAT", "cycle", config_dict={**given, "resume": True, "checkpoint_dir": "stopped"})
    assert resumed["epochs"] == 3 and resumed["test_result"] == undisturbed["test_result"]
    states = [load_checkpoint(result["checkpoint"])["state_dict"] for result in (resumed, undisturbed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model, (_, _, test) = msgat(folder)
    model.load_state_dict(states[0])
    batch, recommender = next(iter(test))[0], Recommender.load(resumed["checkpoint"])
    with torch.no_grad():
        torch.testing.assert_close(recommender.network.full_sort_predict(batch), model.eval().full_sort_predict(batch))


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--n_candidates=0"], "n_candidates must lie in [1, inf), got 0"),
        (["--k_neighbors=-1"], "k_neighbors must lie in [0, inf), got -1"),
        (["--gnn_steps=-1"], "gnn_steps must lie in [0, inf), got -1"),
        (["--neighbor_pool=test"], "neighbor_pool must be one of bank, batch, got 'test'"),
        (["--position=place"], "position must be one of time, id_rank, got 'place'"),
        (["--bank_sessions=whole"], "bank_sessions must be one of input, full, got 'whole'"),
        (["--neighbor_temperature=0"], "neighbor_temperature must lie in (0, inf), got 0"),
        (["--neighbor_dropout=1"], "neighbor_dropout must lie in [0, 1), got 1"),
        (["--scale=0"], "scale must lie in (0, inf), got 0"),
        (["--n_heads=3"], "hidden_size 100 is not a multiple of n_heads 3"),
        (["--train_view=sequence"], "leave train_view at prefix"),
        (["--n_candidate=3"], "unknown key 'n_candidate', did you mean 'n_candidates'?"),
        (["--k_neighbors=14", "--topk=[5]", "--valid_metric=MRR@5"], "k_neighbors 14 is not smaller than the bank, 14 training sessions"),
    ],
)
def test_bad_input_ends_with_one_line(words, expected, folder, capsys):
    assert main(["--model=MSGAT", "--dataset=cycle", f"--data_path={folder}", "--epochs=1", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert expected in error[-1] and "Traceback" not in "\n".join(error)


@pytest.mark.parametrize("mask", [True, False])
def test_whole_sessions_of_the_bank_are_longer_by_their_target(mask, folder):
    model, (train, *_) = msgat(folder, MAX_ITEM_LIST_LENGTH=2, bank_sessions="full", attention_mask=mask)
    assert int(model.bank.lengths.max()) == 3
    batch = next(iter(train))
    torch.testing.assert_close(model.loss_parts(*inputs(model, batch))["recommendation"], plain.loss(model, *inputs(model, batch)))


def test_more_candidates_than_sessions_and_a_batch_of_one_are_no_errors(folder):
    model, _ = msgat(folder, n_candidates=1000)
    assert torch.isfinite(scores(model.eval(), torch.tensor([[3]]), torch.tensor([1]))).all()
    model, _ = msgat(folder, neighbor_pool="batch")
    assert torch.isfinite(scores(model.eval(), torch.tensor([[3]]), torch.tensor([1]))).all()
    with pytest.raises(UsageError, match="14 training sessions"):
        msgat(folder, k_neighbors=20)
