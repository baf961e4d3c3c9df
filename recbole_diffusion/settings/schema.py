"""What each setting accepts, read from the yaml files themselves.

A line ``tau: 0.05  # (float) Temperature. Range: (0, inf).`` gives the default, the type, the documentation and the
range in one place; ``One of: a, b.`` lists the accepted words.
"""

import math
import re
from dataclasses import dataclass
from functools import cache

from recbole_diffusion.errors import UsageError

_LINE = re.compile(r"^(?P<key>\w+):\s*(?P<default>.*?)\s*#\s*\((?P<type>[\w ]+)\)\s*(?P<doc>.*)$")
_RANGE = re.compile(r"Range:\s*(?P<left>[\[(])(?P<low>[^,]+),\s*(?P<high>[^\])]+)(?P<right>[\])])")
_CHOICES = re.compile(r"One of:\s*(?P<words>[^.]+)\.")
_TYPES = {"str": str, "path": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Setting:
    """One key: its type by name, its documentation, and its default, range or choices as written in the yaml.

    The type ``path`` is text in which ``~`` stands for the home folder.
    """

    key: str
    type: str
    doc: str
    default: str = ""

    def __str__(self):
        kind = ", ".join(part for part in (self.type, self.default and f"default {self.default}") if part)
        return f"{self.key} ({kind})" + (f": {self.doc}" if self.doc else "")

    def check(self, value):
        """Raise UsageError when ``value`` has the wrong type or lies outside the range."""
        self._check_type(value)
        choices = _CHOICES.search(self.doc)
        if choices:
            words = [word.strip() for word in choices["words"].split(",")]
            if str(value) not in words:
                raise UsageError(f"{self.key} must be one of {', '.join(words)}, got '{value}'")
        interval = _RANGE.search(self.doc)
        if interval and not _inside(value, interval):
            raise UsageError(f"{self.key} must lie in {interval[0][len('Range:'):].strip()}, got {value}")

    def _check_type(self, value):
        expected = _TYPES[self.type]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {
            float: is_number,
            int: isinstance(value, int) and not isinstance(value, bool),
            str: isinstance(value, (str, int, float)) and not isinstance(value, bool),
            list: isinstance(value, (list, tuple, str, int)) and not isinstance(value, bool),
        }.get(expected, isinstance(value, expected))
        if not fits:
            raise UsageError(f"{self.key} must be of type {self.type}, got {type(value).__name__} '{value}'")


def _inside(value, interval):
    low, high = float(interval["low"]), float(interval["high"])
    above = value >= low if interval["left"] == "[" else value > low
    below = value <= high if interval["right"] == "]" else value < high
    return not math.isnan(value) and above and below


@cache
def read_schema(path):
    """Key -> :class:`Setting` for every documented line of a yaml file of the plugin."""
    with open(path, encoding="utf-8") as file:
        matches = (_LINE.match(line.rstrip("\n")) for line in file)
        return {m["key"]: Setting(m["key"], m["type"], m["doc"], m["default"]) for m in matches if m}
