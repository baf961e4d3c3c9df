"""Examples of the training part by the place of their target, and draws of the same target."""

from collections import Counter

import pytest
import torch

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.examples import TARGET, SameTarget, TrainingExamples
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import make_config, write_sequences

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 9, 4, 1, 3], [5, 2, 3, 4, 6, 1], [9, 4, 3, 2, 1]]


def training_part(folder, model="CL4SRec", **more):
    config = make_config(model, write_sequences(SEQUENCES, folder, "small"), "small", **more)
    return build_loaders(config, create_dataset(config))[0]


def contents(examples):
    """Multiset of (history, target)."""
    found = Counter()
    for number in range(len(examples)):
        ids, lengths = examples.histories(torch.tensor([number]))
        assert ids.shape == (1, int(lengths))
        found[tuple(ids[0].tolist()), int(examples.targets[number])] += 1
    return found


@pytest.mark.parametrize("longest", [50, 3])
def test_every_prefix_is_found_in_both_views_of_the_data(tmp_path, longest):
    views = {view: training_part(tmp_path / view, train_view=view, MAX_ITEM_LIST_LENGTH=longest)._dataset
             for view in ("prefix", "sequence")}  # fmt: skip
    tokens = {token: number for number, token in enumerate(views["prefix"].field2id_token["item_id"])}
    training = [[tokens[f"i{item}"] for item in sequence[:-2]] for sequence in SEQUENCES]
    expected = Counter(
        (tuple(sequence[max(0, n - longest) : n]), sequence[n])
        for sequence in training
        for n in range(1, len(sequence))
    )
    assert contents(views["prefix"].training_examples()) == expected
    for data in views.values():
        assert contents(data.training_examples(every_prefix=True)) == expected
    own = Counter((tuple(sequence[:-1][-longest:]), sequence[-1]) for sequence in training)
    assert contents(views["sequence"].training_examples()) == own


@pytest.mark.parametrize("view", ["prefix", "sequence"])
def test_a_batch_names_its_rows(tmp_path, view):
    loader = training_part(tmp_path, train_view=view)
    examples = loader._dataset.training_examples(every_prefix=True)
    for batch in loader:
        numbers = examples.find(batch[TARGET])
        ids, lengths = examples.histories(numbers)
        assert torch.equal(ids, batch["item_id_list"]) and torch.equal(lengths, batch["item_length"])
        assert torch.equal(examples.targets[numbers], batch["item_id"])
    assert TARGET not in next(iter(training_part(tmp_path / "other", "SimDiffRec")))


def made_up():
    """Targets 7 (three times), 8 (twice) and 9 (once), their places not in order."""
    flat = torch.arange(1, 30)
    places = torch.tensor([20, 3, 11, 5, 17, 14])
    lengths = torch.tensor([2, 1, 3, 1, 2, 4])
    return TrainingExamples(flat, places - lengths, lengths, places, torch.tensor([7, 8, 7, 9, 8, 7]))


def test_examples_are_found_by_place_and_others_are_not():
    examples = made_up()
    numbers = examples.find(torch.tensor([20, 3, 4, -1, 99, 14]))
    assert (numbers[[2, 3, 4]] == -1).all()
    assert examples.places[numbers[[0, 1, 5]]].tolist() == [20, 3, 14]
    ids, lengths = examples.histories(numbers[[5, 1]])
    assert ids.tolist() == [[11, 12, 13, 14], [3, 0, 0, 0]] and lengths.tolist() == [4, 1]


def test_peers_are_uniform_and_never_the_row_itself():
    examples, n = made_up(), 30000
    same = SameTarget(examples)
    torch.manual_seed(0)
    for place in (20, 11, 14):
        drawn = examples.places[same.draw(torch.full((n,), place), torch.full((n,), 7))]
        counts = Counter(drawn.tolist())
        assert counts.keys() == {20, 11, 14} - {place}
        assert all(abs(count - n / 2) < 5 * (n / 4) ** 0.5 for count in counts.values())
    drawn = same.draw(torch.tensor([3, 17] * 50), torch.full((100,), 8))
    assert examples.places[drawn].tolist() == [17, 3] * 50
    stranger = examples.places[same.draw(torch.full((n,), -1), torch.full((n,), 7))]
    assert all(abs(count - n / 3) < 5 * (n * 2 / 9) ** 0.5 for count in Counter(stranger.tolist()).values())


def test_without_a_peer_there_is_none():
    same = SameTarget(made_up())
    assert same.draw(torch.tensor([5, -1, -1]), torch.tensor([9, 6, 1000])).tolist() == [-1, -1, -1]
    assert same.draw(torch.tensor([-1]), torch.tensor([9])).tolist() != [-1]


def test_rows_are_replaced_by_wider_histories_and_others_stay():
    examples = made_up()
    ids, lengths = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    new_ids, new_lengths = examples.put_into(ids, lengths, torch.tensor([-1, int(examples.find(torch.tensor([14])))]))
    assert new_ids.tolist() == [[1, 2, 0, 0], [11, 12, 13, 14]] and new_lengths.tolist() == [2, 4]
    assert ids.tolist() == [[1, 2], [3, 0]] and lengths.tolist() == [2, 1]
    assert examples.put_into(ids, lengths, torch.tensor([-1, -1])) == (ids, lengths)


def test_an_own_copy_shares_no_cell():
    examples = made_up()
    before, copied = examples.flat.clone(), examples.own_copy()
    everything = torch.arange(len(examples))
    rows, lengths = copied.histories(everything)
    assert all(torch.equal(*pair) for pair in zip((rows, lengths), examples.histories(everything)))
    for number in everything.tolist():
        row = torch.full((1, 6), 100 + number)
        copied.write(torch.tensor([number]), row)
    rows, lengths = copied.histories(everything)
    real = torch.arange(rows.shape[1]) < lengths[:, None]
    assert torch.equal(rows, (100 + everything[:, None]) * real) and torch.equal(examples.flat, before)
