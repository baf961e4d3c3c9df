"""Arrays kept on disk with sums over every byte: written whole, found again by any process, safe to delete at any time.

An entry is a folder with ``meta.json`` and one ``.npy`` file per array. It appears by one rename, when it is complete, and
is never changed; whoever has its arrays mapped keeps them when it is deleted (not on Windows, where deleting waits).
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

META = "meta.json"
FORMAT = "prepared data 1"
BLOCK = 2**22  # bytes
OLD = 24 * 3600  # seconds after which a half-written entry is the rest of a crash


class HashedWriter:
    """A file that hashes what is written to it."""

    def __init__(self, file):
        self.file, self.digest = file, hashlib.blake2b(digest_size=16)

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)


def hash_file(path):
    """Hash of every byte of a file, as hexadecimal text. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        block = memoryview(bytearray(BLOCK))
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def hash_json(value):
    """Hash of a JSON value, as hexadecimal text."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_entry(folder, name, meta, arrays):
    """Write an entry; where another process has written it already, that one stays.

    Args:
        folder (Path): of all entries; it is made.
        name (str): of the entry.
        meta (dict): JSON values.
        arrays (list[np.ndarray]): of any types but objects.

    Raises:
        OSError: when that fails; nothing is left then.
    """
    temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    temporary.mkdir(parents=True)
    try:
        sums = []
        for number, array in enumerate(arrays):
            with open(temporary / f"{number}.npy", "wb") as file:
                writer = HashedWriter(file)
                np.lib.format.write_array(writer, np.ascontiguousarray(array), allow_pickle=False)
            sums.append(writer.digest.hexdigest())
        whole = {**meta, "format": FORMAT, "arrays": sums}
        text = json.dumps({**whole, "sum": hash_json(whole)})
        (temporary / META).write_text(text, encoding="utf-8")
        os.rename(temporary, folder / name)
    except OSError:
        if not (folder / name / META).is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_meta(entry):
    """What an entry says of itself (dict), or None where it is damaged, gone or something else. entry: Path."""
    try:
        meta = json.loads((entry / META).read_text(encoding="utf-8"))
        stated = meta.pop("sum")
        return meta if meta["format"] == FORMAT and hash_json(meta) == stated else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_arrays(entry, meta):
    """The arrays of an entry, mapped into memory, pages of which processes share until they write to them.

    Args:
        entry (Path): the folder.
        meta (dict): see :func:`read_meta`.

    Returns:
        list[np.ndarray] or None: None where a byte is not as it was written, or a file is gone.
    """
    arrays = []
    try:
        for number, stated in enumerate(meta["arrays"]):
            path = entry / f"{number}.npy"
            if hash_file(path) != stated:
                return None
            with open(path, "rb") as file:
                np.lib.format.read_magic(file)
                shape = np.lib.format.read_array_header_1_0(file)[0]
            empty = 0 in shape  # which cannot be mapped
            arrays.append(np.asarray(np.load(path, mmap_mode=None if empty else "c", allow_pickle=False)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):  # of somebody else, or deleted meanwhile
        os.utime(entry / META)  # the time of its last use
    return arrays


def entries(folder, name=None):
    """Folders of the entries in a folder (list of Path), the one that was used last first; damaged ones are among them.

    Args:
        folder (Path): it may be missing.
        name (str, optional): of the data set, by default all.
    """
    found = [path.parent for path in folder.glob(f"*/{META}") if not path.parent.name.startswith(".")]  # half-written
    found = [entry for entry in found if name in (None, entry.name.rpartition("-")[0])]
    return sorted(found, key=last_use, reverse=True)


def last_use(entry):
    """Seconds since 1970 at which an entry was last read or written, 0 where it is gone."""
    return last_change(entry / META)


def last_change(path):
    """Seconds since 1970 at which a file or folder was last changed, 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def size_of(entry):
    """Bytes of an entry, 0 where it is deleted meanwhile."""
    try:
        return sum(path.stat().st_size for path in entry.glob("*"))
    except OSError:
        return 0


def shrink(folder, limit):
    """Delete what was used longest ago until all entries together have at most ``limit`` bytes, and rests of crashes."""
    total = 0
    for entry in entries(folder):
        total += size_of(entry)
        if total > limit:
            shutil.rmtree(entry, ignore_errors=True)
    for rest in folder.glob(".*.tmp"):
        if 0 < last_change(rest) < time.time() - OLD:
            shutil.rmtree(rest, ignore_errors=True)


def cache_folder(choice, data_path):
    """Where prepared data are kept: ``.cache`` within ``data_path`` for ``auto``, else the folder named (Path)."""
    return Path(data_path) / ".cache" if choice == "auto" else Path(choice)
