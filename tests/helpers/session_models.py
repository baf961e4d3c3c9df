"""Small DiffSBR and SKNN models of a folder of data."""

from session_files import SPLIT

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.loaders import build_loaders
from recbole_diffusion.testing import make_config
from recbole_diffusion.training.networks import build_model

SMALL = {"hidden_size": 16, "diffusion_steps": 8, "corruption_steps": 8, "denoiser_dropout": 0.1, "graph_dropout": 0.0}


def build(folder, model="DiffSBR", name="shop", **settings):
    """A model of ready-made sessions (``shop``) or of another data set, and its loaders."""
    base = {**(SMALL if model == "DiffSBR" else {}), **(SPLIT if name == "shop" else {})}
    config = make_config(model, folder, name, **{**base, **settings})
    loaders = build_loaders(config, create_dataset(config))
    return build_model(config, loaders[0]), loaders
