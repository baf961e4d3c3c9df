"""Diffusion models for sequential and session-based recommendation, as a plugin of RecBole."""

import importlib

__version__ = "0.1.0"
_PUBLIC = {
    "run": "quick_start",
    "load_data_and_model": "quick_start",
    "objective_function": "quick_start",
    "Recommender": "serving.recommender",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name):
    # Loaded on first use, so that `prepare`, `--help` and wrong commands answer without importing PyTorch.
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"recbole_diffusion.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
