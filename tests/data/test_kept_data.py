"""Prepared data on disk: a hit is equal, a changed byte is never used, and what goes wrong is one line."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion import quick_start, run
from recbole_diffusion.cli import main
from recbole_diffusion.data import kept
from recbole_diffusion.data.cache import DataCache
from recbole_diffusion.data.kept_files import META, entries, write_entry
from recbole_diffusion.quick_start import prepare_data
from recbole_diffusion.testing import make_config

SETTINGS = {"user_inter_num_interval": "[3,inf)"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Folder of a data set that is large enough, and how often it was prepared."""
    monkeypatch.setattr(kept, "SMALLEST", 1)
    folder = tmp_path / "cycle"
    folder.mkdir()
    rows = [f"u{user}\ti{(user + step) % 15}\t{step // 2}\t{'ab'[step % 2]} c" for user in range(40) for step in range(2 + user % 7)]
    (folder / "cycle.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float\ttags:token_seq", *rows]) + "\n")
    made = []
    anew = quick_start.prepare_anew
    monkeypatch.setattr(quick_start, "prepare_anew", lambda config: made.append(1) or anew(config))
    return folder, made


def prepared(folder, model="SimDiffRec", **settings):
    return prepare_data(make_config(model, str(folder.parent), **{**SETTINGS, **settings}))


def plain(value):
    """A value of a data set as one that can be compared."""
    if hasattr(value, "interaction"):
        return plain(value.interaction)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return str(value.dtype), value.tolist()
    return list(value) if isinstance(value, (list, tuple)) else value


def everything(found):
    dataset, counts, parts = found
    skipped = ("config", "logger")
    return counts, [plain({k: v for k, v in vars(one).items() if k not in skipped}) for one in (dataset, *parts)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_view": "prefix"},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp", "tags"]}},
        {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"}},
    ],
)
@pytest.mark.parametrize("model", ["SimDiffRec", "GRU4Rec"])
def test_a_hit_is_equal(data, settings, model):
    folder, made = data
    fresh = prepared(folder, model, data_cache="none", **settings)
    first, second = prepared(folder, model, **settings), prepared(folder, model, **settings)
    assert len(made) == 2
    assert everything(fresh) == everything(first) == everything(second)
    whole, _, parts = second
    assert all(part.flat is whole.flat and part.config is whole.config for part in parts)
    assert set(vars(whole)) == set(vars(fresh[0]))


def test_a_hit_may_be_written_to_and_stays_on_disk(data):
    folder, made = data
    prepared(folder)
    found = prepared(folder)
    before = everything(prepared(folder))
    found[2][0].inter_feat["item_id"].zero_()
    found[0].flat["item_id"][:] = 7
    assert everything(prepared(folder)) == before and len(made) == 1


def test_metrics_are_the_same(data):
    folder, made = data
    settings = {**SETTINGS, "data_path": str(folder.parent), "use_gpu": False, "epochs": 2, "topk": [5], "valid_metric": "MRR@5", "k_noise": 3, "k_sample": 3}
    results = [run("SimDiffRec", "cycle", config_dict={**settings, "data_cache": choice}, saved=False) for choice in ("none", "auto", "auto")]
    assert len(made) == 2
    for result in results:
        assert result["test_result"] == results[0]["test_result"] and result["dataset_counts"] == results[0]["dataset_counts"]
        assert result["best_valid_result"] == results[0]["best_valid_result"]


def test_a_changed_byte_in_the_source_is_never_used(data):
    folder, made = data
    path = folder / "cycle.inter"
    prepared(folder)
    state = path.stat()
    path.write_bytes(path.read_bytes().replace(b"u39\ti13\t2", b"u39\ti14\t2"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size and time
    assert path.stat().st_size == state.st_size
    changed = prepared(folder)
    assert len(made) == 2 and everything(changed) == everything(prepared(folder, data_cache="none"))
    (folder / "cycle.item").write_text("item_id:token\tname:token\ni1\tx\n")
    prepared(folder)
    assert len(made) == 4


def test_no_changed_byte_of_the_cache_is_used(data):
    folder, made = data
    right = everything(prepared(folder))
    names = sorted(path.name for path in entries(folder / ".cache")[0].iterdir())
    assert len(names) > 10
    for number, name in enumerate(names):
        path = entries(folder / ".cache")[0] / name
        content, before = bytearray(path.read_bytes()), len(made)
        content[(0, len(content) // 2, -1)[number % 3]] ^= 1
        path.write_bytes(content)
        assert everything(prepared(folder)) == right and len(made) == before + 1
        prepared(folder)
        assert len(made) == before + 1  # mended
    path = entries(folder / ".cache")[0] / "0.npy"
    path.write_bytes(path.read_bytes()[:-8])
    assert everything(prepared(folder)) == right
    shutil.rmtree(entries(folder / ".cache")[0] / "1.npy", ignore_errors=True)
    (entries(folder / ".cache")[0] / "1.npy").unlink()
    assert everything(prepared(folder)) == right


def test_settings_that_matter_make_another_entry_and_others_none(data, monkeypatch):
    folder, made = data
    prepared(folder)
    for settings in ({"seed": 5}, {"learning_rate": 0.1}, {"data_cache_gb": 3}, {"train_batch_size": 7}):
        prepared(folder, **settings)
    assert len(made) == 1
    for settings in (
        {"user_inter_num_interval": "[4,inf)"}, {"MAX_ITEM_LIST_LENGTH": 3}, {"train_view": "prefix"}, {"rm_dup_inter": "last"},
        {"eval_args": {"split": {"RS": [0.5, 0.3, 0.2]}}}, {"load_col": {"inter": ["user_id", "item_id", "timestamp", "tags"]}},
    ):  # fmt: skip
        before = len(made)
        assert everything(prepared(folder, **settings)) == everything(prepared(folder, data_cache="none", **settings))
        assert len(made) == before + 2
    before = len(made)
    prepared(folder, "SASRec")  # of another side
    monkeypatch.setattr(kept, "code_hash", lambda: "of other code")
    prepared(folder)
    assert len(made) == before + 2


def test_moved_data_take_their_cache_along(data, tmp_path):
    folder, made = data
    prepared(folder)
    (tmp_path / "new").mkdir()
    moved = Path(shutil.move(folder, tmp_path / "new" / "cycle"))
    found = prepared(moved)
    assert len(made) == 1 and found[0].dataset_path == str(moved)


def test_warnings_of_the_data_are_said_again(data, caplog):
    folder, made = data
    for _ in range(2):
        caplog.clear()
        prepared(folder)
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len([line for line in warned if "share user and time" in line]) == 1
    assert len(made) == 1


def test_small_data_leave_nothing(data, monkeypatch):
    folder, made = data
    monkeypatch.undo()
    prepared(folder)
    assert [path.name for path in folder.iterdir()] == ["cycle.inter"]


def test_files_that_change_meanwhile_are_not_kept(data, monkeypatch):
    folder, made = data
    anew = quick_start.prepare_anew

    def slow(config):
        found = anew(config)
        with open(folder / "cycle.inter", "a") as file:
            file.write("u1\ti1\t99\ta\n")
        return found

    monkeypatch.setattr(quick_start, "prepare_anew", slow)
    prepared(folder)
    assert entries(folder / ".cache") == []


CHILD = """
import sys
from recbole_diffusion.data import kept
kept.SMALLEST = 1
from recbole_diffusion.quick_start import prepare_data
from recbole_diffusion.testing import make_config
for _ in range(3):
    data, counts, parts = prepare_data(make_config("SimDiffRec", sys.argv[1], user_inter_num_interval="[3,inf)"))
    assert counts == {"users": 34, "items": 15, "interactions": int(sys.argv[2])}, counts
    assert sum(len(part) for part in parts) > 0 and int(data.flat["item_id"].max()) == 15
    if len(sys.argv) > 3:
        from recbole_diffusion.data.kept_files import entries
        import shutil
        from pathlib import Path
        for entry in entries(Path(sys.argv[1]) / "cycle" / ".cache"):
            shutil.rmtree(entry, ignore_errors=True)
"""


def test_processes_at_once_one_of_which_deletes(data):
    folder, _ = data
    count = prepared(folder, data_cache="none")[1]["interactions"]
    words = [sys.executable, "-c", CHILD, str(folder.parent), str(count)]
    children = [subprocess.Popen([*words, *more], stderr=subprocess.PIPE, text=True) for more in ([], [], ["delete"])]
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors
    assert not list((folder / ".cache").glob(".*"))


def test_deleted_while_in_use(data):
    folder, made = data
    prepared(folder)
    found = prepared(folder)
    shutil.rmtree(folder / ".cache")
    assert everything(found) == everything(prepared(folder)) and len(made) == 2


def test_a_place_that_cannot_be_written_is_one_line(data, tmp_path, caplog):
    folder, made = data
    (tmp_path / "file").write_text("")
    for choice, level in ((str(tmp_path / "file" / "deep"), logging.WARNING), ("auto", logging.INFO)):
        if choice == "auto":
            (folder / ".cache").write_text("")  # nothing can be made below it
        caplog.clear()
        found = prepared(folder, data_cache=choice)
        lines = [record for record in caplog.records if record.getMessage().startswith("data_cache")]
        assert [line.levelno for line in lines] == [logging.WARNING] and "nothing is kept in" in lines[0].getMessage()
        assert everything(found) == everything(prepared(folder, data_cache="none"))
        (tmp_path / "file").touch()


def test_a_full_disk_is_one_line_and_leaves_nothing(data, monkeypatch, caplog):
    folder, made = data
    caplog.set_level(logging.INFO)
    usage = shutil.disk_usage(folder)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    prepared(folder)
    assert "GB are free" in caplog.text and entries(folder / ".cache") == []
    monkeypatch.undo()
    monkeypatch.setattr(kept, "SMALLEST", 1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    caplog.clear()
    prepared(folder)
    assert "No space left on device" in caplog.text and list((folder / ".cache").iterdir()) == []


def test_the_limit_deletes_what_was_used_longest_ago(data):
    folder, made = data
    place = folder / ".cache"
    for length in (3, 4, 5):
        prepared(folder, MAX_ITEM_LIST_LENGTH=length)
        for entry in entries(place):
            time = (entry / META).stat().st_mtime
            os.utime(entry / META, (time - 100, time - 100))
    sizes = [sum(path.stat().st_size for path in entry.iterdir()) for entry in entries(place)]
    prepared(folder, MAX_ITEM_LIST_LENGTH=3)  # used again
    gb = (sum(sizes) + max(sizes) // 2) / 2**30
    prepared(folder, MAX_ITEM_LIST_LENGTH=6, data_cache_gb=gb)
    assert len(entries(place)) == 3
    before = len(made)
    prepared(folder, MAX_ITEM_LIST_LENGTH=3)
    assert len(made) == before
    prepared(folder, MAX_ITEM_LIST_LENGTH=7, data_cache_gb=0.0)
    assert len(entries(place)) == 3  # too large for the limit, and so none goes for it


def test_kept_data_in_memory_know_the_settings_of_those_on_disk(data):
    folder, made = data
    prepared(folder)
    cache = DataCache()
    for length in (50, 3, 50):
        config = make_config("SimDiffRec", str(folder.parent), **{**SETTINGS, "MAX_ITEM_LIST_LENGTH": length})
        found = cache.get(config, prepare_data)
        assert int(found[0].inter_feat["item_length"].max()) == min(length, 7)
    assert cache.hits == 1


def test_the_command_lists_and_clears(data, capsys):
    folder, made = data
    prepared(folder)
    prepared(folder, MAX_ITEM_LIST_LENGTH=3)
    write_entry(folder / ".cache", "cycle-other", {"x": 1}, [np.zeros(0)])
    (folder / ".cache" / "cycle-other" / META).write_text("{")
    (folder / ".cache" / "mine").mkdir()
    assert main(["cache", f"--data_path={folder.parent}"]) == 0
    said = capsys.readouterr().out
    assert said.count(" MB  last used ") == 3 and said.count("(damaged)") == 1 and "3 prepared data sets" in said
    assert main(["cache", "other", f"--data_path={folder.parent}"]) == 0
    assert "0 prepared data sets, 0 MB\n" in capsys.readouterr().out
    assert main(["cache", "cycle", f"--data_path={folder.parent}", "--clear"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert [path.name for path in (folder / ".cache").iterdir()] == ["mine"]
    prepared(folder, data_cache=str(folder.parent / "elsewhere"))
    assert main(["cache", f"--data_cache={folder.parent / 'elsewhere'}", "--clear"]) == 0
    assert list((folder.parent / "elsewhere").iterdir()) == []


def test_a_folder_for_all_data_sets_tells_them_apart(data, capsys):
    place = data[0].parent / "shared"
    for name in ("a", "a-b", "a[1]"):
        write_entry(place, f"{name}-{'0' * 32}", {}, [np.zeros(1)])
    (place / f".a-{'1' * 32}.12345678.tmp").mkdir()
    (place / f".a-{'1' * 32}.12345678.tmp" / META).write_text("{}")  # another process is about to rename it
    assert [entry.name for entry in entries(place, "a[1]")] == [f"a[1]-{'0' * 32}"]
    assert main(["cache", "a", f"--data_cache={place}", "--clear"]) == 0
    assert sorted(path.name[:4] for path in place.iterdir()) == [".a-1", "a-b-", "a[1]"]
    assert main(["cache", "/nowhere"]) == 0


def test_data_kept_by_somebody_else_are_used(data, monkeypatch):
    folder, made = data
    right = everything(prepared(folder))

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert everything(prepared(folder)) == right and len(made) == 1


def test_no_code_of_an_entry_runs(data):
    folder, made = data
    right = everything(prepared(folder))
    entry = entries(folder / ".cache")[0]
    assert {path.suffix for path in entry.iterdir()} == {".npy", ".json"}
    meta = json.loads((entry / META).read_text())
    np.save(entry / "0.npy", np.array([print], dtype=object), allow_pickle=True)
    meta.pop("sum")
    meta["arrays"][0] = kept.hash_file(entry / "0.npy")
    (entry / META).write_text(json.dumps({**meta, "sum": kept.hash_json(meta)}))
    assert everything(prepared(folder)) == right and len(made) == 2
