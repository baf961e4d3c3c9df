"""Results of slow networks, kept in a file from run to run."""

import hashlib
import sqlite3

from recbole_diffusion.errors import UsageError

_BLOCK = 1 << 20


class Cache:
    """Results by a hash of all that they depend on, in one SQLite file; every batch is on disk when it is done.

    Args:
        path (Path): the file; its folder is made.

    Raises:
        UsageError: when the file cannot be used.
    """

    def __init__(self, path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path)
            self._connection.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"cache '{path}' cannot be used ({error}): delete it or name another --cache") from None

    @staticmethod
    def key(*parts):
        """Hash of texts and bytes, in which their borders count."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def get(self, key):
        """The bytes kept under a key, or None."""
        row = self._connection.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
        return row and row[0]

    def put(self, values):
        """Keep {key: bytes}, all or none of them."""
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", values.items())

    def absorb(self, paths):
        """Take over the results of other files (Path), which are deleted then."""
        for path in paths:
            self._connection.execute("ATTACH DATABASE ? AS other", (str(path),))
            with self._connection:
                self._connection.execute("INSERT OR REPLACE INTO results SELECT key, value FROM other.results")
            self._connection.execute("DETACH DATABASE other")
            path.unlink()

    def close(self):
        """Close the file."""
        self._connection.close()


def file_hash(*paths):
    """Hash of the names and the bytes of files, as hexadecimal text."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    return digest.hexdigest()
