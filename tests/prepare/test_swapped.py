"""Users and items that were taken for each other: noticed by names and by what follows each other in time."""

import numpy as np
import pytest

from recbole_diffusion.prepare.columns import choose_columns, swapped_by_name
from recbole_diffusion.prepare.swapped import swapped_by_shape


def bursts(n_users=200, n_items=100, visits=5, per_visit=4):
    """Users who come several times and take several items each time: names without meaning, seconds as times."""
    generator = np.random.default_rng(0)
    users = np.repeat(generator.permutation(np.repeat(np.arange(n_users), visits)), per_visit)
    items = generator.integers(0, n_items, len(users))
    times = 1.5e9 + np.arange(len(users)) * 60.0
    return [f"x{n}y" for n in range(n_users)], [f"z{n}w" for n in range(n_items)], users, items, times


def test_people_act_in_bursts():
    users, items, user_numbers, item_numbers, times = bursts()
    assert swapped_by_shape(users, items, user_numbers, item_numbers, times) is None
    reason = swapped_by_shape(items, users, item_numbers, user_numbers, times)
    assert "share their item" in reason and "times as often as by chance" in reason
    positions = np.arange(len(times)) % 20.0  # no clock: what lies next to each other says nothing
    assert swapped_by_shape(items, users, item_numbers, user_numbers, positions) is None


def test_the_order_of_the_file_says_nothing_where_all_times_are_equal():
    users, items, user_numbers, item_numbers, times = bursts()
    order = np.argsort(item_numbers, kind="stable")  # a file sorted by item
    same = np.full(len(times), 1.5e9)
    assert swapped_by_shape(users, items, user_numbers[order], item_numbers[order], same) is None


@pytest.mark.parametrize(
    "users, items, swapped",
    [
        (["item_1", "item_2"], ["user_1", "user_2"], True),
        (["user_1", "user_2"], ["item_1", "item_2"], False),
        (["B00000000X"], ["A1AAAAAAAAAAAA"], True),
        (["A1AAAAAAAAAAAA"], ["B00000000X"], False),
        (["1", "2"], ["1", "2"], False),
        (["p1", "p2"], ["x1", "c2"], False),
    ],
)
def test_names_in_the_columns(users, items, swapped):
    numbers = np.arange(len(users))
    assert bool(swapped_by_shape(users, items, numbers, numbers, np.arange(len(users)))) == swapped


def test_names_of_the_columns():
    assert "'movieId', which sounds like items" in swapped_by_name("movieId", "userId")
    assert "'Customer ID', which sounds like users" in swapped_by_name("key", "Customer ID")
    assert swapped_by_name("userId", "movieId") is None and swapped_by_name("a", "b") is None


def test_usual_names_win_over_rarer_ones_and_doubts_are_doubts():
    names = ["session_id", "user_id:token", "item_id", "product_id", "timestamp", "date"]
    assert choose_columns(names, {}, "it") == {"user": "user_id:token", "item": "item_id", "time": "timestamp"}
    assert choose_columns(["Zeit", "USER", "Item ID", "score"], {"time": "Zeit"}, "it")["rating"] == "score"
    with pytest.raises(ValueError, match="movie or book may be the item"):
        choose_columns(["user", "movie", "book", "time"], {}, "it")
