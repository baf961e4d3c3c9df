"""What ``augment`` is asked for: settings, the checkpoint they need, and what the result depends on."""

import hashlib
import json

from recbole_diffusion.augment.arguments import generator_schema
from recbole_diffusion.data.dataset import training_item_counts
from recbole_diffusion.data.pseudo_items import histories_hash, place_of
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import expand_home
from recbole_diffusion.settings.abilities import EXPORTABLE
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.settings.properties import load_yaml, property_file
from recbole_diffusion.settings.recipes import WORD as RECIPE
from recbole_diffusion.settings.recipes import named_files
from recbole_diffusion.training.pretrained import checkpoint_of_this_part

FORMAT = 1  # another one makes all that is kept unknown
# The others read item vectors of other places than one look-up in ``item_embedding``, or compare with other vectors.
CLASSIFIERS = tuple(
    model for model in EXPORTABLE if model not in ("STOSA", "AttenMixer", "DIMO", "MGS", "MMSBR", "ACVAE")
)
WITHOUT_GENERATOR = ("pseudo_source", "pseudo_length", "max_history", "guide_from", "seed")  # settings that still count


class DataConfig(DiffusionConfig):
    """Settings of a data set; an unknown one may have been meant for the generator."""

    hints = tuple(generator_schema())


def split_settings(name, settings):
    """Settings of the generator, checked, and the configuration of the data set.

    Args:
        name (str): name of the data set.
        settings (dict): typed values, and ``config_files``.

    Returns:
        tuple: dict with a value for every documented setting and ``seed``, and DiffusionConfig.

    Raises:
        UsageError: for a wrong value or an unknown key.
    """
    given, settings = {}, dict(settings)
    for file in named_files(settings.pop("config_files", None)):
        given.update({} if file == RECIPE else load_yaml(file))
    given.update(settings)
    schema, own = generator_schema(), load_yaml(property_file("augment", "DiffuASR"))
    for key in [key for key in given if key in schema]:
        value = given.pop(key)
        if value is not None or own[key] is not None:
            schema[key].check(value)
        own[key] = expand_home(value) if isinstance(value, str) and schema[key].type == "path" else value
    if own["sampling_steps"] > own["diffusion_steps"]:
        raise UsageError(
            f"sampling_steps {own['sampling_steps']} is larger than diffusion_steps {own['diffusion_steps']}"
        )
    for key, needed in (
        ("model", "augment takes no model, its file serves all"),
        ("augmented", "augment makes that file"),
    ):
        if given.pop(key, None) is not None:
            raise UsageError(f"{needed}: remove --{key}")
    config = DataConfig("SASRec", name, config_dict=given)
    return {**own, "seed": config["seed"]}, config


def checkpoint_of(own, config, train):
    """The checkpoint that the settings need, checked against the training part, or None.

    Raises:
        UsageError: when it is missing, of other items or another split, or saw what it must not.
    """
    name = config["dataset"]
    classified = own["guidance"] == "classifier" and own["guidance_strength"] > 0
    if own["pseudo_source"] != "diffusion" or not (own["item_vectors"] == "pretrained" or classified):
        return None
    command = f"recbole-diffusion run --model=SASRec --dataset={name}{place_of(config)}"
    if not own["checkpoint"]:
        what = "guidance: classifier is by" if own["item_vectors"] != "pretrained" else "item vectors are those of"
        raise UsageError(
            f"{what} a trained model: train one with '{command}' and name its NAME-best.pth, --checkpoint=FILE, or set "
            f"item_vectors: random" + (" and guidance: free" if classified else "")
        )
    tokens = [str(token) for token in train.field2id_token[train.iid_field]]
    counts = training_item_counts(train)
    checkpoint = checkpoint_of_this_part(own["checkpoint"], config, tokens, command, counts)
    saved, weight = checkpoint["config"], checkpoint["state_dict"].get("item_embedding.weight")
    if weight is None or (classified and saved["model"] not in CLASSIFIERS):
        fitting = ", ".join(CLASSIFIERS)
        raise UsageError(
            f"a checkpoint of {saved['model']} does not serve here: train one of {fitting}, as in '{command}'"
        )
    if classified and saved.get("attention_mask") == "queries":
        raise UsageError(
            f"a {saved['model']} with attention_mask: queries reads padding and cannot be the classifier: set keys in its training"
        )
    return checkpoint


def describe_origin(own, config, parts, checkpoint):
    """What pseudo items depend on, and a fingerprint of all of it: a dict of JSON values.

    Args:
        own (dict): settings of the generator, and ``seed``.
        config (DiffusionConfig): of the data set.
        parts (list[SequenceDataset]): training, validation and test; the last one does not count.
        checkpoint (dict | None): see :func:`checkpoint_of`.
    """
    counting = set(own) - {"checkpoint"} if own["pseudo_source"] == "diffusion" else WITHOUT_GENERATOR
    settings = {key: own[key] for key in sorted(counting)}
    origin = {"format": FORMAT, "dataset": config["dataset"], "split": str(config["eval_args"]["split"])}
    origin.update(histories=histories_hash(parts[0]), settings=settings, checkpoint=None)
    if checkpoint:
        digest = hashlib.sha256()
        for key, value in sorted(checkpoint["state_dict"].items()):
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        origin["checkpoint"] = {"model": checkpoint["config"]["model"], "weights": digest.hexdigest()}
    if own["guide_from"] == "train_valid":
        origin["validation"] = histories_hash(parts[1])
    text = json.dumps(origin, sort_keys=True)
    return {**origin, "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:12]}
