"""Diffusion models for sequential and session-based recommendation, as a plugin of RecBole."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from recbole_diffusion import old_recommend

if TYPE_CHECKING:  # what a type checker and the documentation see; see __getattr__ for the rest
    from recbole_diffusion.api import plot
    from recbole_diffusion.api.comparison import compare
    from recbole_diffusion.api.evaluation import evaluate
    from recbole_diffusion.api.recommendation import recommend
    from recbole_diffusion.api.tuning import tune
    from recbole_diffusion.quick_start import load_data_and_model, objective_function, run
    from recbole_diffusion.serving.recommender import Recommender

__version__ = "0.1.0"
_PUBLIC = {
    "run": "quick_start",
    "load_data_and_model": "quick_start",
    "objective_function": "quick_start",
    "Recommender": "serving.recommender",
    "compare": "api.comparison",
    "tune": "api.tuning",
    "recommend": "api.recommendation",
    "evaluate": "api.evaluation",
}
__all__ = [
    "run", "compare", "tune", "plot", "recommend", "evaluate", "load_data_and_model", "objective_function", "Recommender",
    "__version__",
]  # fmt: skip

# A module that is registered already is found without becoming an attribute of the package, which is the function.
sys.modules[f"{__name__}.recommend"] = old_recommend


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `prepare`, `--help` and wrong commands answer without importing PyTorch.
    if name == "plot":
        return importlib.import_module(f"{__name__}.api.plot")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
