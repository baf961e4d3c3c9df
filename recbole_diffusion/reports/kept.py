"""Reading a folder of kept runs: one file per run, and an index that is made from them and can be deleted."""

import json
from pathlib import Path

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import write_json

FORMAT = 2
INDEX = "index.json"


class KeptRuns:
    """A results folder, to read.

    Args:
        folder (str | Path): it need not exist.

    Raises:
        UsageError: when the folder was written by another version.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._refuse_other_versions()

    def _refuse_other_versions(self):
        try:
            found = json.loads((self.folder / INDEX).read_text(encoding="utf-8")).get("format")
        except (FileNotFoundError, NotADirectoryError):
            kept = next((path for path in self.runs() if "fingerprint" not in read_json(path)), None)
            found = "none" if kept else FORMAT
        except (ValueError, AttributeError):  # half an index is no index: it is made again
            found = FORMAT
        if found != FORMAT:
            raise UsageError(
                f"'{self.folder}' holds results of another version (format {found}, not {FORMAT}): use another --out"
            )

    def runs(self):
        """Paths of all kept runs and failures."""
        return sorted(path for path in self.folder.glob("*/*.json") if not path.name.startswith("."))

    def refresh_index(self):
        """Write the index from the files, reading only those that changed; returns its ``runs`` (path -> facts)."""
        try:
            before = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["runs"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            before = {}
        runs = {}
        for path in self.runs():
            name = path.relative_to(self.folder).as_posix()
            try:
                runs[name] = facts_of(path, before.get(name, {}))
            except FileNotFoundError:  # a failure that another program has just made good
                continue
        if runs != before or not (self.folder / INDEX).is_file():
            write_json({"format": FORMAT, "runs": runs}, self.folder / INDEX)
        return runs


def facts_of(path, known):
    """What the index tells about a file: what it told before, unless the file has changed since."""
    state = path.stat()
    stamp = [state.st_size, state.st_mtime_ns]
    return known if known.get("stamp") == stamp else {"stamp": stamp, **summary(read_json(path))}


def summary(result):
    """What the index tells about a run."""
    keys = ("row", "model", "dataset", "seed", "given", "fingerprint", "best_valid_score", "error")
    facts = {key: result[key] for key in keys if key in result}
    return {**facts, "seconds": result.get("seconds", {}).get("training")}


def read_json(path):
    """A kept run. Raises UsageError when the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"'{path}' is damaged ({reason}): delete it to run the cell again") from None
