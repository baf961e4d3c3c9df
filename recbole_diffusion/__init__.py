"""Diffusion models for sequential and session-based recommendation, as a plugin of RecBole."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker and the documentation see; see __getattr__ for the rest
    from recbole_diffusion.quick_start import load_data_and_model, objective_function, run
    from recbole_diffusion.serving.recommender import Recommender

__version__ = "0.1.0"
_PUBLIC = {
    "run": "quick_start",
    "load_data_and_model": "quick_start",
    "objective_function": "quick_start",
    "Recommender": "serving.recommender",
}
__all__ = ["run", "load_data_and_model", "objective_function", "Recommender", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `prepare`, `--help` and wrong commands answer without importing PyTorch.
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"recbole_diffusion.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
