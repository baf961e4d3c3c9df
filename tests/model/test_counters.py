"""Popularity and Successors: lists that a loop counts, from the training part alone, in every view of it."""

from collections import Counter

import pytest
import torch
from session_files import TRAIN, write_split
from session_models import build

from recbole_diffusion.testing import write_sequences

# Two last items of each are of validation and test: 3 follows 2 three times in the training parts, 5 twice, 4 once.
SEQUENCES = [[1, 2, 3, 2, 5, 6, 7], [4, 2, 3, 6, 7], [2, 3, 2, 5, 4, 7], [8, 1, 2, 4, 6, 6], [6, 6, 9, 8, 7]]


def counted(sequences):
    """Counts of items and of pairs, by loops."""
    items, pairs = Counter(), Counter()
    for sequence in sequences:
        items.update(sequence)
        for position in range(len(sequence) - 1):
            pairs[sequence[position], sequence[position + 1]] += 1
    return items, pairs


def wanted(items, pairs, last, numbers):
    """Items in the documented order; ``numbers`` says which of equally popular ones the data met first."""
    return sorted(numbers, key=lambda item: (-pairs[last, item], -items[item], numbers[item]))


def numbers_of(loaders):
    tokens = loaders[0]._dataset.field2id_token["item_id"]
    return {int(token.lstrip("i")): number for number, token in enumerate(tokens) if number}


def lists(model, loaders, histories):
    """Recommended items of histories, all of them in order."""
    numbers = numbers_of(loaders)
    width = max(map(len, histories))
    rows = torch.tensor([[numbers[item] for item in h] + [0] * (width - len(h)) for h in histories])
    batch = {model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: torch.tensor([len(h) for h in histories])}
    order = model.full_sort_predict(batch)[:, 1:].argsort(descending=True) + 1
    items = {number: item for item, number in numbers.items()}
    return [[items[number] for number in row] for row in order.tolist()]


@pytest.mark.parametrize("view", ["prefix", "sequence"])
@pytest.mark.parametrize("longest", [2, 50])
@pytest.mark.parametrize("name", ["Successors", "Popularity"])
def test_lists_are_those_of_a_loop_over_the_training_part(tmp_path, name, view, longest):
    folder = write_sequences(SEQUENCES, tmp_path, "cycle")
    model, loaders = build(folder, name, "cycle", train_view=view, MAX_ITEM_LIST_LENGTH=longest)
    items, pairs = counted([sequence[:-2] for sequence in SEQUENCES])
    if name == "Popularity":
        pairs = Counter()
    numbers = numbers_of(loaders)
    histories = [[9, last] for last in numbers]
    assert lists(model, loaders, histories) == [wanted(items, pairs, last, numbers) for last in numbers]


def test_nothing_of_validation_and_test_is_counted(tmp_path):
    changed = [[*sequence[:-2], 10, 10] for sequence in SEQUENCES]
    found = []
    for number, sequences in enumerate((SEQUENCES, changed)):
        folder = write_sequences(sequences, tmp_path / str(number), "cycle")
        model, loaders = build(folder, "Successors", "cycle")
        token = dict(enumerate(loaders[0]._dataset.field2id_token["item_id"]))
        items, successors, counts = (column.tolist() for column in model.transitions)
        found.append({(token[a], token[b]): n for a, b, n in zip(items, successors, counts)})
    assert found[0] == found[1] and found[0]["i2", "i3"] == 3 and ("i6", "i7") not in found[0]


@pytest.mark.parametrize("rows_only", [True, False])
def test_histories_of_ready_made_splits_are_counted_once(tmp_path, rows_only):
    folder = write_split(tmp_path, TRAIN, [[1, 4, 6]], [[2, 5, 1]])
    model, loaders = build(folder, "Successors", train_last_only=rows_only)
    items, pairs = counted(TRAIN)
    numbers = numbers_of(loaders)
    histories = [[last] for last in numbers]
    assert lists(model, loaders, histories) == [wanted(items, pairs, last, numbers) for last in numbers]


def test_scores_have_no_ties_and_counts_are_kept_sparsely(tmp_path):
    folder = write_sequences(SEQUENCES, tmp_path, "cycle")
    model, _ = build(folder, "Successors", "cycle")
    batch = {model.ITEM_SEQ: torch.arange(1, 8)[:, None], model.ITEM_SEQ_LEN: torch.ones(7, dtype=torch.long)}
    scores = model.full_sort_predict(batch)
    assert all(len(row.unique()) == model.n_items for row in scores)
    _, pairs = counted([sequence[:-2] for sequence in SEQUENCES])
    assert [len(column) for column in model.transitions] == [len(pairs)] * 3
    assert {column.dtype for column in model.transitions} == {torch.int32}
    assert list(model.state_dict()) == ["nothing"]
