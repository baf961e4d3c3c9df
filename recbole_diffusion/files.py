"""Files that are written whole or not at all."""

import errno
import json
import math
import os
import secrets
import tempfile
from contextlib import contextmanager
from pathlib import Path

from recbole_diffusion.errors import UsageError

# What the system answers where a folder cannot be synchronised: one that may be written and not read, and file systems
# that know no such thing.
_CANNOT_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def replacing(path, binary=False, temporary=None, **how):
    """Open a file for writing beside its target; when the block ends without an error, it takes the target's place.

    Links are followed. The bytes are on disk before the file is renamed, so that a crash leaves the old file or the
    new one.

    Args:
        path (str or Path): the file to write, in a folder that exists.
        binary (bool): bytes instead of text.
        temporary (str or Path, optional): name to write under, in the same folder. One that is always the same is
            written over after a crash, so that nothing piles up; by default the name is new each time, so that several
            programs can write the file at once.
        how: ``encoding``, ``errors`` and ``newline`` as of :func:`open`.

    Yields:
        file: the open file. When the block fails, the target stays as it was and nothing is left beside it.

    Raises:
        OSError: when the file cannot be written there, is a device such as /dev/null, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is a device or pipe, which a file would replace", str(path))
    kept, kind = temporary is not None, "b" if binary else ""
    temporary = Path(temporary) if kept else path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    file = open(temporary, ("w" if kept else "x") + kind, **how)
    try:
        with file:
            yield file
            flush_to_disk(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def flush_to_disk(file):
    """Wait until everything written to an open file is on disk. Raises OSError, for example when the disk is full."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder):
    """Make a rename survive a power cut; Windows cannot open folders and does without."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


@contextmanager
def written_whole(path, binary=False):
    """Open a file for writing that appears, or changes, only when the block ends without an error.

    Args:
        path (str or Path): the file to write; missing folders are made.
        binary (bool): bytes instead of UTF-8 text.

    Yields:
        file: the open file. When the block fails, the target stays as it was.

    Raises:
        UsageError: when the file cannot be written there, or the disk is full.
    """
    # Halves of surrogate pairs, which JSON can name, have no UTF-8.
    how = {} if binary else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, binary, **how) as file:
            yield file
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written: {error.strerror or error}") from None


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


def expand_home(path):
    """A path with the home folder for its ``~``, which shells leave alone behind ``--key=``, and files always.

    Raises:
        UsageError: when there is no such user; a folder of the name ``~`` can still be meant by ``./~``.
    """
    expanded = os.path.expanduser(path)
    if str(expanded).startswith("~"):
        raise UsageError(f"'{path}': there is no such home folder (write ./{path} for a name that begins with ~)")
    return expanded


def same_file(one, other):
    """Whether two paths lead to one file, by whatever names and links.

    Args:
        one, other (str or Path): paths, of which either may lead nowhere.

    Returns:
        bool
    """
    try:
        return os.path.samefile(one, other)
    except OSError:  # nothing is there
        return False


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


def write_json(result, path):
    """Write a result file whole or not at all; what is no finite number becomes null, for which JSON has a word."""
    write_whole(path, (json.dumps(finite(result), indent=2, allow_nan=False) + "\n").encode())


def finite(value):
    """JSON values with None for numbers that are not finite, such as a metric of no users."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value):
    """A setting as JSON values: unknown objects become text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
