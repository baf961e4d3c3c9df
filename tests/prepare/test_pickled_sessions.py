"""prepare for the pickled train.txt and test.txt of SR-GNN's followers."""

import functools
import os
import pickle

import numpy as np
import pytest
from test_prepare_sessions import examples, table

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.session_splits import prepare_sessions

quiet = functools.partial(prepare_sessions, input_format="pickled-sessions", show_progress=False)
TRAIN = ([[1, 2], [3], [2, 1, 1], [4]], [3, 1, 2, 1])
TEST = ([[1], [3, 4]], [2, 1])


class Runs:
    """Its pickle runs a command when it is opened in the usual way."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def write(folder, train=TRAIN, test=TEST):
    for name, content in (("train.txt", train), ("test.txt", test)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return folder


def expanded(sessions):
    """Every prefix of every session, the longest first, as SR-GNN's preprocessing writes them."""
    pairs = [(session[:end], session[end]) for session in sessions for end in range(len(session) - 1, 0, -1)]
    return [history for history, _ in pairs], [target for _, target in pairs]


def test_each_pair_is_a_session(tmp_path):
    counts = quiet("mine", write(tmp_path), out_dir=tmp_path, valid_share=0.25)
    assert examples(tmp_path) == [[("1 2", "3"), ("3", "1"), ("2 1 1", "2")], [("4", "1")], [("1", "2"), ("3 4", "1")]]
    assert [row[0] for row in table(tmp_path, "mine", "test.inter")[1:]] == ["5", "6"]
    assert counts == {"users": 6, "items": 4, "interactions": 6}


def test_prefixes_are_joined_so_that_no_session_is_in_two_parts(tmp_path):
    train, test = [[1, 2, 3], [3, 1], [2, 1, 1, 2], [4, 1, 2]], [[1, 2], [3, 4, 1]]
    quiet("mine", write(tmp_path, expanded(train), expanded(test)), out_dir=tmp_path, valid_share=0.25, prefixes=True)
    found = examples(tmp_path)
    assert found[1] == [("4 1", "2"), ("4", "1")] and found[2] == [("1", "2"), ("3 4", "1"), ("3", "4")]
    assert found[0][:2] == [("1 2", "3"), ("1", "2")] and len(found[0]) == 6


def test_prefixes_are_not_taken_for_sessions(tmp_path):
    train = expanded([[1, 2, 3], [3, 1], [2, 1, 1, 2], [4, 1, 2]])
    with pytest.raises(UsageError, match="train.txt' lists every prefix of its sessions: add --prefixes"):
        quiet("mine", write(tmp_path, train), out_dir=tmp_path, valid_share=0.25)


def test_names_of_parts_come_from_the_settings_of_the_data_set(tmp_path):
    with pytest.raises(UsageError, match="46,?259"):  # the counts of the literature
        quiet("cellphones", write(tmp_path), out_dir=tmp_path, valid_share=0.25)
    pairs = [[n % 10213 + 1] for n in range(46259)], [(n + 1) % 10213 + 1 for n in range(46259)]
    train, test = ([column[:41615] for column in pairs], [column[41615:] for column in pairs])
    quiet("cellphones", write(tmp_path, train, test), out_dir=tmp_path)
    lines = [len(table(tmp_path, "cellphones", f"{part}.inter")) - 1 for part in ("fit", "valid", "test")]
    assert lines == [37454, 4161, 4644]


def test_a_pickle_runs_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"no pickle of two lists.*(posix|nt).system and not only lists"):
        quiet("mine", write(tmp_path, (Runs(), [])), out_dir=tmp_path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "train, more, expected",
    [
        (b"", {}, "train.txt' is no pickle of two lists"),
        (b"1 2 3\n", {}, "train.txt' is no pickle of two lists"),
        (pickle.dumps(TRAIN)[:-9], {}, "train.txt' is no pickle of two lists"),
        ({"a": 1}, {}, "train.txt' is no pickle of two lists"),
        (([[1]], [2, 3]), {}, "has 1 histories and 2 targets"),
        (([], []), {}, "has 0 histories and 0 targets"),
        (([[1], []], [2, 3]), {}, "train.txt', pair 2: needs a list of items and a target"),
        (([[1], [1.5]], [2, 3]), {}, "train.txt', pair 2: needs"),
        (([[1], [True]], [2, 3]), {}, "train.txt', pair 2: needs"),
        ((np.ones((2, 2)), [2, 3]), {}, "holds numpy"),
        (([["a b"]] * 9, [2] * 9), {}, "the item 'a b' is empty or holds blanks"),
        (TRAIN, {"prefixes": True}, "pair 2 is not the next prefix"),
        (([[1, 2]], [3]), {"prefixes": True}, "train.txt' ends within the prefixes"),
        (TRAIN, {"min_item": 5}, "leave out --min_item"),
        (TRAIN, {"test_share": 0.2}, "leave out --test_share"),
        (TRAIN, {"valid_share": 0.01}, "and 0 for validation"),
    ],
    ids=str,
)
def test_refusals(tmp_path, train, more, expected):
    with pytest.raises(UsageError, match=expected.replace("(", r"\(")) as caught:
        quiet("mine", write(tmp_path, train), out_dir=tmp_path, **more)
    assert "\n" not in str(caught.value) and not (tmp_path / "mine").exists()


def test_command(tmp_path, capsys):
    words = ["prepare", "mine", "--format=pickled-sessions", f"--source={write(tmp_path)}", f"--out={tmp_path}"]
    assert main([*words, "--valid_share=0.25"]) == 0
    assert "mine: 6 users, 4 items, 6 interactions" in capsys.readouterr().out
    assert main([*words[:3], f"--source={tmp_path}/none", f"--out={tmp_path}/new"]) == 2
    assert "none/train.txt' cannot be read" in capsys.readouterr().err
