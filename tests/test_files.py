"""files: the old file or the new one, never half of one, and nothing left beside it."""

import errno
import os

import pytest

from recbole_diffusion import files
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import replacing, write_whole


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "a", b"old")
    for temporary in (None, tmp_path / "a.tmp"):
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a", temporary=temporary) as file:
            file.write("half")
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_what_a_crash_left_under_a_fixed_name_is_written_over(tmp_path):
    (tmp_path / "a.tmp").write_text("left by a crash, and longer")
    with replacing(tmp_path / "a", temporary=tmp_path / "a.tmp") as file:
        file.write("new")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        one.write("one")
        other.write("other")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "one", "the last that ends"


def test_a_folder_takes_no_file_in_its_place(tmp_path):
    with pytest.raises(UsageError, match="cannot be written: it is a folder"):
        write_whole(tmp_path, b"")


@pytest.mark.parametrize("code, fails", [(errno.EINVAL, False), (errno.EIO, True)])
def test_file_systems_that_cannot_synchronise_folders(tmp_path, monkeypatch, code, fails):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "O_DIRECTORY", 0, raising=False)
    monkeypatch.setattr(files.os, "open", refuse)
    if fails:
        with pytest.raises(UsageError, match="cannot be written"):
            write_whole(tmp_path / "a", b"new")
    else:
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
