"""Libraries that only the features of items need, imported when they are."""

import importlib
import importlib.util

import torch

from recbole_diffusion.errors import UsageError, one_line


def optional_library(name):
    """Import an optional library. Raises UsageError when it is missing or does not fit the installed torch."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise UsageError(f"{name} is not installed, run: pip install transformers torchvision pillow")
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision built for another torch raises any of them
        advice = "install it again"
        if name == "torchvision":
            advice = (
                f"install the build that fits torch {torch.__version__} as pytorch.org/get-started says; "
                f"for texts alone uninstall torchvision"
            )
        raise UsageError(f"{name} cannot be imported ({one_line(error, 120)}): {advice}") from None


def transformers_library():
    """The module transformers. Raises UsageError as :func:`optional_library`."""
    if importlib.util.find_spec("torchvision"):
        optional_library("torchvision")  # transformers imports it too, and would not say what is wrong with it
    return optional_library("transformers")
