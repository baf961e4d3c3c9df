"""Tests that every model has to pass, and small data with known answers. For models of this package and of others."""

from recbole_diffusion.testing.contract import ModelContract
from recbole_diffusion.testing.data import (
    cycle_sequences,
    group_sequences,
    make_config,
    write_features,
    write_sequences,
)
from recbole_diffusion.testing.settings import small_settings, switch_values

__all__ = [
    "ModelContract",
    "cycle_sequences",
    "group_sequences",
    "make_config",
    "small_settings",
    "switch_values",
    "write_features",
    "write_sequences",
]
