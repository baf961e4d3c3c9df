"""Files that are written whole or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from recbole_diffusion.errors import UsageError


@contextmanager
def written_whole(path, binary=False):
    """Open a file for writing beside its target and rename it when the block ends without an error.

    Args:
        path (str or Path): the file to write; missing folders are made.
        binary (bool): bytes instead of UTF-8 text.

    Yields:
        file: the open file. When the block fails, the target stays as it was.

    Raises:
        UsageError: when the file cannot be written there, or the disk is full.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        # Halves of surrogate pairs, which JSON can name, have no UTF-8.
        text = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        how = {"mode": "wb"} if binary else text
        with os.fdopen(handle, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp hides its files from everybody else
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror or error}") from None
    finally:
        if temporary:
            os.unlink(temporary)


def write_whole(path, content):
    """Write a file whole or not at all, also when several programs write it at once.

    Args:
        path (str or Path): target; its folder is made.
        content (bytes): all of it.

    Raises:
        UsageError: when it cannot be written.
    """
    with written_whole(path, binary=True) as file:
        file.write(content)


def make_folder(folder, what):
    """Make a folder and see that files can be made in it, before hours are spent on what shall be written there.

    Args:
        folder (str or Path): it may exist.
        what (str): name of the setting, for the message.

    Raises:
        UsageError: when that fails.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{what}: nothing can be written to '{folder}': {error.strerror or error}") from None
