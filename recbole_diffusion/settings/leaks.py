"""Settings by which a model sees what it is tested with, as released code does; results with them are marked."""

LEAKING = {"graph_source": "all", "official_negatives": True, "official_leak": True, "neighbor_pool": "batch"}


def leaking_setting(settings):
    """The first setting that leaks, as ``name: value``, or None. settings (dict): of a run."""
    return next((f"{key}: {value}" for key, value in LEAKING.items() if settings.get(key) == value), None)
