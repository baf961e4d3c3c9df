"""Settings that RecBole applies to columns of another kind than it means, without a word or with a wrong result."""

from recbole.utils import FeatureType

from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.checks import parse_intervals

NUMBERS = (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)


def check_kinds(config, kinds):
    """Refuse settings that do not fit the kind of their column, which only the file tells.

    Args:
        config (DiffusionConfig): settings.
        kinds (dict[str, FeatureType]): of the loaded columns.

    Raises:
        UsageError: with the setting, the column and what it needs.
    """
    for field, allowed in (config["val_interval"] or {}).items():
        what = f"val_interval of {field}"
        _require_column("val_interval", field, kinds)
        if kinds[field] in NUMBERS:
            parse_intervals(f"{what}, a column of numbers,", allowed)
        elif kinds[field] == FeatureType.TOKEN_SEQ:
            raise UsageError(f"{what}: RecBole filters by single tokens or numbers, {field} is a list: remove it")
        elif isinstance(allowed, str):
            raise UsageError(f"{what}, a column of tokens, must be a list such as [a, b], got '{allowed}'")
    for key in ("normalize_field", "discretization", "numerical_features"):
        for field in config[key] or ():
            _require_column(key, field, kinds)
            if kinds[field] not in NUMBERS:
                raise UsageError(f"{key} names '{field}', a column of {kinds[field].value}: it is for numbers (float)")
    for field in config["threshold"] or ():
        _require_column("threshold", field, kinds)
        if kinds[field] != FeatureType.FLOAT:
            raise UsageError(f"threshold names '{field}', a column of {kinds[field].value}: it is for numbers (float)")


def _require_column(key, field, kinds):
    if field not in kinds:
        raise UsageError(f"{key} names '{field}', which is not loaded: the data have {', '.join(kinds)} (see load_col)")
