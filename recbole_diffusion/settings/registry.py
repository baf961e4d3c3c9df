"""Names of models and the classes behind them: ours first, then third parties', then RecBole's."""

import importlib
from functools import cache
from importlib.metadata import entry_points

from recbole_diffusion.errors import UsageError, did_you_mean

MODELS = {
    "SimDiffRec": "recbole_diffusion.model.simdiffrec",
    "CaDiRec": "recbole_diffusion.model.cadirec",
    "DiffuRec": "recbole_diffusion.model.diffurecsys",
    "DiffuRecSys": "recbole_diffusion.model.diffurecsys",
    "DiQDiff": "recbole_diffusion.model.diqdiff",
    "DiffSBR": "recbole_diffusion.model.diffsbr",
    "CL4SRec": "recbole_diffusion.model.cl4srec",
    "DuoRec": "recbole_diffusion.model.duorec",
    "MCLRec": "recbole_diffusion.model.mclrec",
    "STOSA": "recbole_diffusion.model.stosa",
    "ECLSR": "recbole_diffusion.model.eclsr",
    "DreamRec": "recbole_diffusion.model.dreamrec",
    "PreferDiff": "recbole_diffusion.model.dreamrec",
    "ADRec": "recbole_diffusion.model.adrec",
    "VSAN": "recbole_diffusion.model.vsan",
    "ACVAE": "recbole_diffusion.model.acvae",
    "MFGAN": "recbole_diffusion.model.mfgan",
    "AttenMixer": "recbole_diffusion.model.attenmixer",
    "DIMO": "recbole_diffusion.model.dimo",
    "MSGIFSR": "recbole_diffusion.model.msgifsr",
    "MGS": "recbole_diffusion.model.mgs",
    "MMSBR": "recbole_diffusion.model.mmsbr",
    "MSGAT": "recbole_diffusion.model.msgat",
    "SKNN": "recbole_diffusion.model.sknn",
    "CoOccurrence": "recbole_diffusion.model.counters",
    "Successors": "recbole_diffusion.model.counters",
    "Popularity": "recbole_diffusion.model.counters",
}
ENTRY_POINT_GROUP = "recbole_diffusion.models"

# RecBole models that cannot run here, and why.
UNSUPPORTED = {
    "FEARec": "it reads the padded histories of the whole data set, which do not exist here",
    "S3Rec": "it trains in two stages with checkpoints of its own: train it with RecBole itself",
}

# RecBole models whose scores do not depend on how far a batch is padded (tests/data/test_trim_padding.py).
TRIMMABLE = ("SASRec", "GRU4Rec", "NARM", "SRGNN", "GCSAN", "CORE")


def plugin_models():
    """Model name -> ``"module"`` or an entry point, of this package and of installed third parties."""
    models = dict(MODELS)
    for entry in _installed():
        models.setdefault(entry.name, entry)
    return models


@cache
def _installed():
    """Models of installed packages, looked for once: reading what is installed takes half the time of a configuration."""
    found = entry_points()
    # Python 3.9 returns a dict here, later versions an object with select().
    return found.select(group=ENTRY_POINT_GROUP) if hasattr(found, "select") else found.get(ENTRY_POINT_GROUP, ())


def recbole_models():
    """Name -> class of every sequential model that RecBole ships."""
    import torch

    detecting = torch.is_anomaly_enabled()
    from recbole.model import sequential_recommender
    from recbole.model.abstract_recommender import SequentialRecommender

    torch.autograd.set_detect_anomaly(detecting)  # RecBole's SINE switches it on for the whole process, which is slow
    return {
        name: value
        for name, value in vars(sequential_recommender).items()
        if isinstance(value, type) and issubclass(value, SequentialRecommender)
    }


def is_plugin_model(name):
    """Whether a model of this name comes from the plugin or a third party and not from RecBole."""
    return name in plugin_models()


def get_model(name):
    """The class of a model.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    plugin = plugin_models()
    if name in plugin:
        target = plugin[name]
        return getattr(importlib.import_module(target), name) if isinstance(target, str) else target.load()
    stock = recbole_models()
    if name in UNSUPPORTED:
        raise UsageError(f"RecBole's {name} cannot run here: {UNSUPPORTED[name]}")
    if name in stock:
        return stock[name]
    known = [*plugin, *stock]
    hint = did_you_mean(name, known) or f", available: {', '.join(sorted(known))}"
    raise UsageError(f"unknown model '{name}'{hint}")
