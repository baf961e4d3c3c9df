"""Crop, mask and reorder: exact sizes, uniform places, nothing touched that should stay."""

from functools import partial

import pytest
import torch

from recbole_diffusion.layers.augmentation import crop, mask, reorder, share_of, two_operators

TOKEN = 999
MANY = 20000
OPERATORS = [partial(crop, kept=0.6), partial(mask, share=0.3, token=TOKEN), partial(reorder, share=0.6)]
OPERATORS_BY_NAME = dict(zip(("crop", "mask", "reorder"), OPERATORS))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def histories(lengths, width=None):
    """Rows of different items, 1, 2, 3 ... in each."""
    lengths = torch.as_tensor(lengths)
    place = torch.arange(width or int(lengths.max()))
    return (place + 1) * (place < lengths[:, None]), lengths


@pytest.mark.parametrize("n, sizes", [(2, "101"), (3, "101"), (4, "212"), (5, "313"), (10, "636"), (50, (30, 15, 30))])
def test_sizes(n, sizes):
    kept, masked, shuffled = (int(size) for size in sizes)
    ids, lengths = histories([n] * 200, width=50)
    assert (crop(ids, lengths, 0.6, seeded())[1] == kept).all()
    assert ((mask(ids, lengths, 0.3, TOKEN, seeded())[0] == TOKEN).sum(1) == masked).all()
    moved = (reorder(ids, lengths, 0.6, seeded())[0] != ids).float()
    first, last = moved.argmax(1), 49 - moved.flip(1).argmax(1)
    widths = torch.where(moved.sum(1) > 0, last - first + 1, 0)
    assert widths.max() == (shuffled if shuffled > 1 else 0)


def test_sizes_are_rounded_as_python_rounds():
    lengths = torch.arange(1, 201)
    for hundredths in range(1, 100):
        ratio = hundredths / 100
        assert share_of(lengths, ratio).tolist() == [int(ratio * n) for n in range(1, 201)]


def test_crop_keeps_a_contiguous_part_from_a_uniform_start():
    ids, lengths = histories([10] * MANY, width=12)
    cropped, kept = crop(ids, lengths, 0.6, seeded())
    start = cropped[:, 0] - 1
    assert torch.equal(cropped, (start[:, None] + ids) * (torch.arange(12) < 6))
    counts = torch.bincount(start, minlength=5)
    assert len(counts) == 5 and ((counts - MANY / 5).abs() < 5 * (MANY * 0.2 * 0.8) ** 0.5).all()


def test_masked_places_are_uniform_and_never_padding():
    ids, lengths = histories([10, 4] * (MANY // 2), width=13)
    masked, same = mask(ids, lengths, 0.3, TOKEN, seeded())
    hit = masked == TOKEN
    assert torch.equal(same, lengths) and torch.equal(masked[~hit], ids[~hit]) and not hit[ids == 0].any()
    n = MANY // 2
    for rows, length, count in ((slice(0, None, 2), 10, 3), (slice(1, None, 2), 4, 1)):
        share = count / length
        counts = hit[rows].sum(0)[:length]
        assert ((counts - n * share).abs() < 5 * (n * share * (1 - share)) ** 0.5).all()


def test_reorder_shuffles_one_window_at_a_uniform_place():
    ids, lengths = histories([5] * MANY, width=7)
    shuffled, same = reorder(ids, lengths, 0.6, seeded())
    assert torch.equal(same, lengths) and torch.equal(shuffled.sort(1).values, ids.sort(1).values)
    assert torch.equal(shuffled[:, 5:], ids[:, 5:])
    orders, counts = shuffled[:, :5].unique(dim=0, return_counts=True)
    found = {tuple(order): count for order, count in zip(orders.tolist(), counts.tolist())}
    wanted = {}
    for start in range(3):  # of three places with six orders each; some results come from several places
        for window in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist():
            if len(set(window)) == 3:
                row = [1, 2, 3, 4, 5]
                row[start : start + 3] = [row[start + k] for k in window]
                wanted[tuple(row)] = wanted.get(tuple(row), 0) + 1 / 18
    assert found.keys() == wanted.keys()
    for row, share in wanted.items():
        assert abs(found[row] - MANY * share) < 5 * (MANY * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("name", OPERATORS_BY_NAME)
def test_every_operator_works_out_of_place_and_leaves_single_items(name):
    ids, lengths = histories([1, 7, 3, 12], width=15)
    before = ids.clone(), lengths.clone()
    changed, new_lengths = OPERATORS_BY_NAME[name](ids, lengths, generator=seeded())
    assert torch.equal(ids, before[0]) and torch.equal(lengths, before[1])
    assert torch.equal(changed[0], ids[0]) and new_lengths[0] == 1
    assert changed.data_ptr() != ids.data_ptr()
    assert torch.equal(changed > 0, torch.arange(15) < new_lengths[:, None])


def which(view, lengths, original):
    """The operator that a view of a long history shows."""
    if len(view) != len(original) or int((view == 0).sum()) > int((original == 0).sum()):
        return "crop"
    return "mask" if (view == TOKEN).any() else "reorder"


@pytest.mark.parametrize("pair", ["distinct", "independent"])
def test_pairs_of_operators_are_uniform(pair):
    ids, lengths = histories([30] * 9000)
    views = two_operators(ids, lengths, OPERATORS, pair, seeded())
    names = [[which(row, n, ids[0]) for row, n in zip(*view)] for view in views]
    drawn = list(zip(*names))
    wanted = {(a, b) for a in OPERATORS_BY_NAME for b in OPERATORS_BY_NAME if pair == "independent" or a != b}
    assert set(drawn) == wanted
    share = 1 / len(wanted)
    for couple in wanted:
        assert abs(drawn.count(couple) - 9000 * share) < 5 * (9000 * share * (1 - share)) ** 0.5
    assert torch.equal(ids, histories([30] * 9000)[0])


def test_single_items_stay_as_they_are_in_both_views():
    ids, lengths = histories([1] * 50, width=4)
    for view, new_lengths in two_operators(ids, lengths, OPERATORS):
        assert torch.equal(view, ids) and torch.equal(new_lengths, lengths)


def test_an_own_generator_repeats_and_leaves_the_default_stream_alone():
    ids, lengths = histories([20, 3, 9])
    state = torch.get_rng_state()
    one, other = (two_operators(ids, lengths, OPERATORS, generator=seeded(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for view, twin in zip(one, other) for x, y in zip(view, twin))
    two_operators(ids, lengths, OPERATORS)
    assert not torch.equal(torch.get_rng_state(), state)
