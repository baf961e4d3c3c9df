"""Griffe extension: the roles of docstrings, such as ``:func:`name```, are read as code, which Markdown knows."""

import re

from griffe import Extension

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|obj):`~?([^`]+)`")


class Roles(Extension):
    """Turn the roles of every docstring into code."""

    def on_object(self, *, obj, **_):
        """Called for every object once it is read."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
