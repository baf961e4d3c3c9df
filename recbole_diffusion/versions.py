"""Versions of packages as numbers that can be compared."""

import re


def release(version):
    """``"2.13.0+cpu"`` -> ``(2, 13, 0)``; None for what does not begin with a number, such as ``"unknown"``."""
    number = re.match(r"\d+(\.\d+)*", version)
    return number and tuple(int(part) for part in number[0].split("."))


def readable(version):
    """Whether a package is installed and tells its version."""
    return version is not None and release(version) is not None


def fits(version, bounds):
    """Whether a version lies within bounds such as ``((">=", "2.2"), ("<", "2.14"))``."""
    compare = {
        "==": lambda a, b: a == b,
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
    }
    return all(compare[sign](release(version), release(bound)) for sign, bound in bounds)


def below(version, bound):
    """Whether a version is known and older than another."""
    return readable(version) and release(version) < release(bound)


def from_(version, bound):
    """Whether a version is known and no older than another."""
    return readable(version) and release(version) >= release(bound)
