"""What RecBole's folder tells of its sequential models, read without importing it."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from recbole_diffusion.settings.schema import Setting

_LINE = re.compile(r"^(?P<key>\w+):\s*(?P<default>[^#]*?)\s*(?:#\s*(?:\((?P<type>[^)]*)\))?\s*(?P<doc>.*?))?\s*$")


def recbole_folder():
    """Folder of the installed RecBole (pathlib.Path), None where there is none."""
    spec = find_spec("recbole")
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def stock_models():
    """Name -> yaml file with the defaults of every sequential model of RecBole, sorted by name."""
    folder = recbole_folder()
    if folder is None:
        return {}
    modules = {path.stem for path in (folder / "model" / "sequential_recommender").glob("*.py")}
    files = (folder / "properties" / "model").glob("*.yaml")
    return {path.stem: path for path in sorted(files) if path.stem.lower() in modules}


def stock_settings(name):
    """The settings of one of RecBole's models as its yaml file documents them.

    Args:
        name (str): see :func:`stock_models`.

    Returns:
        list[Setting]: type and documentation are empty where the file has none.
    """
    lines = stock_models()[name].read_text(encoding="utf-8").splitlines()
    found = (_LINE.match(line) for line in lines)
    return [Setting(m["key"], m["type"] or "", m["doc"] or "", m["default"]) for m in found if m]
