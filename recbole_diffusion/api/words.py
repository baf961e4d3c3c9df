"""Python values as the parsed words of a command, so that function and command are one thing with the same defaults."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import plain, written_whole


def parsed(adder: Callable[[Any], None], words: Sequence[str] = (), **options: Any) -> argparse.Namespace:
    """What a command gets from its parser.

    Args:
        adder (callable): adds the arguments of the command to a parser.
        words (Sequence[str]): those that the command cannot do without.
        options (dict): name -> value; None leaves the default, True and False are flags, everything else becomes text.

    Returns:
        argparse.Namespace
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    adder(parser)
    arguments = parser.parse_args(list(words))
    for name, value in options.items():
        if value is not None:
            setattr(arguments, name, value if isinstance(value, bool) else str(value))
    return arguments


def joined(names: Any, what: str) -> str | None:
    """Names as a word with commas. Raises UsageError for something else than text or a list of texts."""
    if names is None or isinstance(names, str):
        return names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{what} must be a list of names, got {names!r}")
    return ", ".join(names)


def as_file(content: Any, what: str, folder: str | Path) -> Any:
    """Path of a yaml file with a dict, so that the command on the pages of a study can name it; a path stays as it is.

    Args:
        content (dict | str | Path | None): of the file, or where it is.
        what (str): begins its name, which ends with a hash of the content.
        folder (str | Path): where it is written.
    """
    if not isinstance(content, Mapping):
        return content
    values = json.loads(json.dumps(plain(dict(content))))  # numbers of NumPy become Python's
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    path = Path(folder) / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    with written_whole(path) as file:
        file.write(text)
    return path
