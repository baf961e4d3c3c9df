"""Attributes of prepared data as JSON and arrays. Nothing is pickled, so that reading them back runs no code."""

from collections import defaultdict

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

ENUMS = {"type": FeatureType, "source": FeatureSource}


class CannotKeepError(Exception):
    """A value that has no such form; its data are made anew each time."""


class Packer:
    """Turns values into JSON, and lists the arrays in them, each once.

    Attributes:
        arrays (list[np.ndarray]): found so far.
    """

    def __init__(self):
        self.arrays, self._places, self._held = [], {}, []

    def pack(self, value):
        """JSON of a value. Raises CannotKeepError."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.str_):
            return str(value)
        if isinstance(value, np.ndarray):
            return ["array", self._place(value)]
        if type(value) is torch.Tensor:
            return ["tensor", self._place(value.numpy())]
        if isinstance(value, np.generic):
            return ["number", self._place(np.asarray(value))]
        for name, enum in ENUMS.items():
            if isinstance(value, enum):
                return [name, value.value]
        if type(value) is Interaction:
            return ["interaction", self.pack(value.interaction)]
        if type(value) in (list, tuple, set):
            return [type(value).__name__, [self.pack(inner) for inner in value]]
        if type(value) is dict or (type(value) is defaultdict and value.default_factory is int):
            pairs = [[self.pack(key), self.pack(inner)] for key, inner in value.items()]
            return [type(value).__name__, pairs]
        raise CannotKeepError(type(value).__name__)

    def _place(self, array):
        if array.dtype.hasobject:
            raise CannotKeepError("objects")
        self._held.append(array)  # or its address could be given to another
        key = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
        if key not in self._places:
            self._places[key] = len(self.arrays)
            self.arrays.append(array)
        return self._places[key]


class Unpacker:
    """Turns JSON of a :class:`Packer` back into values. What was one array is one again.

    Args:
        arrays (list[np.ndarray]): of the packer.
    """

    def __init__(self, arrays):
        self.arrays = arrays

    def unpack(self, value):
        """The value of some JSON. Raises KeyError, IndexError, TypeError or ValueError where it is of another origin."""
        if not isinstance(value, list):
            return value
        kind, inner = value
        if kind == "array":
            return self.arrays[inner]
        if kind == "tensor":
            return torch.from_numpy(self.arrays[inner])
        if kind == "number":
            return self.arrays[inner][()]
        if kind in ENUMS:
            return ENUMS[kind](inner)
        if kind == "interaction":
            return Interaction(self.unpack(inner))
        if kind in ("list", "tuple", "set"):
            return {"list": list, "tuple": tuple, "set": set}[kind](self.unpack(x) for x in inner)
        made = {"dict": dict, "defaultdict": lambda: defaultdict(int)}[kind]()
        made.update((self.unpack(key), self.unpack(x)) for key, x in inner)
        return made
