"""What each model can, known without importing it, and held to the truth by tests/serving/test_abilities.py."""

from dataclasses import dataclass

from recbole_diffusion.settings import registry
from recbole_diffusion.settings.presets import preset_files
from recbole_diffusion.settings.properties import property_names
from recbole_diffusion.settings.recbole_files import stock_models

EXPORTABLE = (
    "SimDiffRec",
    "CaDiRec",
    "DiffuRec",
    "DiffuRecSys",
    "DiQDiff",
    "CL4SRec",
    "DuoRec",
    "MCLRec",
    "STOSA",
    "AttenMixer",
    "DIMO",
    "MGS",
    "MMSBR",
    "DreamRec",
    "PreferDiff",
    "ADRec",
    "ECLSR",
    "VSAN",
    "ACVAE",
    "MFGAN",
    "SASRec",
    "GRU4Rec",
)
# Models that compare the rows of a batch, which may not be of one length.
REFUSE_TRIMMING = ("CaDiRec", "DiQDiff", "CL4SRec", "DuoRec", "MCLRec", "ECLSR")
# Models with a vector for every user, which new ones lack.
LEARN_USERS = ("Caser", "FOSSIL", "FPMC", "HGN", "HRM", "NPE", "SHAN", "TransRec")
# What models read of a data set beside its interactions.
NEEDS = {
    **dict.fromkeys(("GRU4RecCPR", "SASRecCPR"), "100 items or more"),
    **dict.fromkeys(("FDSA", "GRU4RecF", "SASRecF"), "columns of items"),
    **dict.fromkeys(("GRU4RecKG", "KSR"), "a knowledge graph"),
}
TAKES = {
    **dict.fromkeys(("DiffSBR", "DIMO"), "vectors of items"),
    **dict.fromkeys(("MGS", "DIN", "DIEN"), "columns of items"),
    "MFGAN": "vectors and columns of items",
    "MMSBR": "vectors of items, prices",
}
# Models that read more than a history: the data set when they are built, or other columns when they score.
READ_MORE = ("DIEN", "DIN", "FDSA", "GRU4RecCPR", "GRU4RecF", "GRU4RecKG", "KSR", "SASRecCPR", "SASRecF")


@dataclass(frozen=True)
class Abilities:
    """A line of ``list models``.

    Attributes:
        name (str): of the model.
        origin (str): ``here``, ``RecBole``, or the package of a third party.
        recommend (str): ``yes``, ``no``, or ``?`` for a model from elsewhere; for new users, from a checkpoint alone.
        export (str): as ONNX.
        features (str): what it reads beside interactions; in brackets what it can do without.
        trim_padding (str): whether the setting is exact for it.
        presets (str): names.
        tune (str): whether there is a search space for it.
        refused (str): why it cannot run here; empty where it can.
    """

    name: str
    origin: str
    recommend: str = "?"
    export: str = "?"
    features: str = "?"
    trim_padding: str = "yes"
    presets: str = ""
    tune: str = "no"
    refused: str = ""


def abilities():
    """Of every model there is: this package's, third parties', RecBole's.

    Returns:
        list[Abilities]
    """
    plugin = registry.plugin_models()
    here = [_of_known(name, "here") for name in registry.MODELS]
    others = [Abilities(name, _package(entry)) for name, entry in plugin.items() if name not in registry.MODELS]
    stock = [_of_known(name, "RecBole") for name in stock_models() if name not in plugin]
    return [*here, *others, *stock]


def _of_known(name, origin):
    if name in registry.UNSUPPORTED:
        return Abilities(name, origin, *("no",) * 5, refused=registry.UNSUPPORTED[name])
    recommends = name not in (*LEARN_USERS, *READ_MORE)
    return Abilities(
        name,
        origin,
        recommend="yes" if recommends else "no",
        export="onnx" if name in EXPORTABLE else "no",
        features=NEEDS.get(name) or (f"({TAKES[name]})" if name in TAKES else "no"),
        trim_padding="yes" if name in registry.TRIMMABLE or origin == "here" and name not in REFUSE_TRIMMING else "no",
        presets=", ".join(preset_files(name)),
        tune="yes" if name in property_names("hyper") else "no",
    )


def _package(entry):
    return entry.value.partition(".")[0].partition(":")[0]
