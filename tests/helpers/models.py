"""The contracts of all registered models, and training each of them once for many tests."""

import hashlib
import importlib
import json
from importlib.util import find_spec
from pathlib import Path

import torch

from recbole_diffusion import run
from recbole_diffusion.files import write_json
from recbole_diffusion.settings import registry
from recbole_diffusion.testing import ModelContract, make_config
from recbole_diffusion.testing.settings import documented
from recbole_diffusion.training.checkpoint import load_checkpoint


def contract_of(model):
    """What ``tests/contracts/<module of the model>.py`` declares, or what fits a model with nothing special."""
    module = f"contracts.{registry.MODELS[model].rpartition('.')[2]}"
    declared = importlib.import_module(module) if find_spec(module) else None
    return getattr(declared, model, None) or type(model, (ModelContract,), {"model": model})


CONTRACTS = {model: contract_of(model) for model in registry.MODELS}


def without_dropout(model):
    """All settings of a model that are rates of dropout, set to none."""
    defaults = documented(model)[0] or {"hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5}
    return {key: 0.0 for key, default in defaults.items() if "dropout" in key and not isinstance(default, str)}


class Plain(ModelContract):
    """RecBole's own models, beside which those of the registry are tested here and there."""

    @classmethod
    def small(cls, **more):
        wide = {"hidden_size": 8, "inner_size": 16, "embedding_size": 8, "allow_unknown_keys": True}
        return {**wide, **cls.settings, **more}


def plain_contract(model, **settings):
    return type(model, (Plain,), {"model": model, "settings": settings})


# RecBole's models that are tested beside ours, each for a reason: a Transformer with a loss on pairs, recurrent layers,
# negative items, a vector per user, what is kept beside the weights.
OTHERS = {
    contract.model: contract
    for contract in (
        plain_contract("SASRec"),
        plain_contract("GRU4Rec", trim_padding=True),
        plain_contract("NARM"),
        plain_contract("FPMC"),  # its loss needs negative items
        plain_contract("CORE"),
        plain_contract("SINE", prototype_size=5, interest_size=2),
    )
}
ALL = {**CONTRACTS, **OTHERS}


def training_settings(model, folder, **more):
    """Settings of a short training of a small network, with all that a checkpoint of this model may have to keep."""
    contract = ALL[model]
    settings = contract.small(epochs=3, train_batch_size=128)
    if model in CONTRACTS:
        settings.update({"lr_decay_step": 2, **contract.settings_with_state})
    return make_config(model, folder, **{**settings, **more}).external_config_dict


class TrainedOnce:
    """Results of ``run`` by model and settings, trained when they are first asked for; nobody may change their files.

    They are kept as files, so that tests in copies of this process share them.

    Args:
        folder (Path): where data, checkpoints and results go.
    """

    def __init__(self, folder):
        self.folder = folder

    def data(self, model):
        """Folder of the data of a model."""
        folder = self.folder / model
        if not folder.exists():
            ALL[model].write_data(folder)
        return folder

    def __call__(self, model, **more):
        name = hashlib.sha1(json.dumps(more, sort_keys=True).encode()).hexdigest()[:12]
        place = self.data(model) / name
        if not (place / "result.json").exists():
            settings = training_settings(model, self.data(model), **{"checkpoint_dir": str(place / "saved"), **more})
            write_json(run(model, "cycle", config_dict=settings), place / "result.json")
        return json.loads((place / "result.json").read_text())

    def alone(self, model, **more):
        """Path of a copy of the checkpoint in a folder of its own, whose data cannot be found any more."""
        found = Path(self(model, **more)["checkpoint"])
        path = found.parents[1] / "alone" / f"{model}.pth"
        if not path.exists():
            state = load_checkpoint(str(found))
            state["config"]["data_path"] = str(path.parent / "gone")
            path.parent.mkdir(exist_ok=True)
            torch.save(state, path)
        return str(path)
