"""Diffusion models for sequential and session-based recommendation, as a plugin of RecBole."""

__version__ = "0.1.0"
__all__ = ["run", "load_data_and_model", "objective_function", "__version__"]


def __getattr__(name):
    # Loaded on first use, so that `prepare`, `--help` and wrong commands answer without importing PyTorch.
    if name in __all__:
        from recbole_diffusion import quick_start

        return getattr(quick_start, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
