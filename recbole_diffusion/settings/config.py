"""RecBole's configuration with the plugin's models, data sets and defaults, checked before anything runs."""

import copy
import os
import re
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config

from recbole_diffusion import processes
from recbole_diffusion.devices import cuda_there, show_gpus
from recbole_diffusion.errors import UsageError, did_you_mean, one_line
from recbole_diffusion.files import expand_home, plain
from recbole_diffusion.settings import checks, registry
from recbole_diffusion.settings.presets import read_preset
from recbole_diffusion.settings.properties import (
    YamlLoader,
    default_data_path,
    load_yaml,
    properties_dir,
    property_file,
    settings_beside,
)
from recbole_diffusion.settings.recbole_keys import (
    HIDDEN_KEYS,
    HIDDEN_KEYS_OF_MODELS,
    KNOWLEDGE_MODELS,
    OF_KNOWLEDGE_GRAPHS,
    UNREAD,
)
from recbole_diffusion.settings.recipes import WORD as RECIPE
from recbole_diffusion.settings.recipes import named_files, read_recipe
from recbole_diffusion.settings.schema import read_schema

# RecBole's settings that would change nothing, or the wrong thing, and what happens instead.
NOT_FOR_PLUGIN_MODELS = {
    "train_neg_sample_args": "draws what it needs",
    "transform": "noises and masks by itself",
    "enable_scaler": "scales the loss whenever amp_type is fp16",
}
RECBOLE_PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")


def without_numpy(value):
    """The same with Python's numbers, texts and lists for those of NumPy, in which Python programs often hold settings."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {without_numpy(key): without_numpy(inner) for key, inner in value.items()}
    return [without_numpy(inner) for inner in value] if isinstance(value, list) else value


class DiffusionConfig(Config):
    """``recbole.config.Config`` that knows the plugin.

    Sources, later ones win: RecBole's files, ``properties/overall.yaml``, ``properties/model/<model>.yaml``,
    ``properties/dataset/<dataset>.yaml``, the ``preset`` that a later source names, ``<dataset>.yaml`` beside the data,
    ``config_file_list`` in its order, ``config_dict`` (the command line). ``model_settings`` in a data set's file holds
    settings of single models on that data.
    A model from elsewhere names its yaml file in the class attribute ``settings_file``.

    Args:
        model (str): name of a plugin or RecBole sequential model.
        dataset (str): name of the data set.
        config_file_list (list[str], optional): yaml files; ``recipe`` stands for ``properties/recipe/<dataset>.yaml``.
        config_dict (dict, optional): settings with typed values; ``config_files`` names more files, between blanks.

    Raises:
        UsageError: for an unknown model or key, and for a value of the wrong type or out of range.
    """

    hints = ()  # keys beside its own that an unknown one may have meant

    def __init__(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        config_dict = copy.deepcopy(dict(config_dict or {}))
        files = [*(config_file_list or []), *named_files(config_dict.pop("config_files", None))]
        self._asked_for = [given or config_dict.get(key) for key, given in (("model", model), ("dataset", dataset))]
        try:
            super().__init__(model, dataset, files, without_numpy(config_dict))
            self._require_runnable()
        except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
            if isinstance(error, UsageError):
                raise
            # RecBole refuses some values in its own words, others it trips over.
            raise UsageError(f"a setting cannot be used: {one_line(error)}") from error

    def compatibility_settings(self):
        """RecBole reads NumPy names of before 1.24; its own version of this fails on NumPy 2."""
        for name, value in {"bool": np.bool_, "int": np.int_, "float": np.float64, "object": object}.items():
            if name not in np.__dict__:
                setattr(np, name, value)

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends to these lists, which are module globals: without the copy, runs would see each other.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return YamlLoader

    def _load_config_files(self, file_list):
        settings = {}
        for file in file_list or []:
            content = self._read_recipe() if file == RECIPE else load_yaml(file)
            for key in ("config", "config_file", "config_files"):
                if key in content:
                    raise UsageError(f"config file '{file}' names others with {key}, which nothing reads: give them beside")
            settings.update(content)
        return settings

    def _read_recipe(self):
        return read_recipe(*self._asked_for) if all(self._asked_for) else {}  # what is missing is refused later

    def _convert_config_dict(self, config_dict):
        """RecBole evaluates strings as Python code here. Values arrive typed, so nothing is left to do."""
        return config_dict

    def _load_cmd_line(self):
        """The plugin's own command line passes its words in as ``config_dict``; ``sys.argv`` is left alone."""
        return {}

    def _get_model_and_dataset(self, model, dataset):
        model = model or self.external_config_dict.get("model")
        dataset = dataset or self.external_config_dict.get("dataset")
        if not model:
            raise UsageError("no model given: add --model=NAME, for example --model=SimDiffRec")
        if not dataset:
            raise UsageError("no dataset given: add --dataset=NAME, for example --dataset=ml-100k")
        if not re.fullmatch(r"[\w.+-]+", str(dataset)):
            raise UsageError(f"dataset '{dataset}' is not a name: it is the folder under --data_path, without a path")
        return str(model), registry.get_model(str(model)), str(dataset)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
        recbole_columns = self.internal_config_dict["load_col"] if dataset == "ml-100k" else None
        self.internal_config_dict["load_col"] = recbole_columns
        self._schema, self._required = {}, set()
        for path in (
            properties_dir() / "overall.yaml",
            Path(getattr(model_class, "settings_file", property_file("model", model))),
            property_file("dataset", dataset),
        ):
            if path.is_file():
                content, schema = load_yaml(path), read_schema(path)
                self.internal_config_dict.update(content)
                self._schema.update(schema)
                self._required.update(key for key in schema if content[key] is not None)
        self.internal_config_dict["data_path"] = default_data_path(dataset, self.internal_config_dict["data_path"])
        for_models = self.internal_config_dict.pop("model_settings", None) or {}
        self.internal_config_dict.update(for_models.get(model, {}))
        self._take_settings_beside(model, dataset)
        self._take_preset(model, model_class, dataset)
        self._check_external()
        self._expand_homes()
        self._fit_to_model(model_class)

    def _take_preset(self, model, model_class, dataset):
        name = self.external_config_dict.get("preset")
        if name is not None:
            own_file = getattr(model_class, "settings_file", None)
            self.internal_config_dict.update(read_preset(model, name, dataset, own_file))

    def _take_settings_beside(self, model, dataset):
        """Those of ``<dataset>.yaml`` in the folder of the data are a user's as well, below all others of the user."""
        given = self.external_config_dict
        folder = given.get("data_path", self.internal_config_dict["data_path"])
        beside = settings_beside(dataset, expand_home(str(folder)))
        self.internal_config_dict.update((beside.pop("model_settings", None) or {}).get(model, {}))
        self.external_config_dict = {**{key: given[key] for key in given if key == "allow_unknown_keys"}, **beside}
        try:
            self._check_external()
        except UsageError as error:
            raise UsageError(f"{dataset}.yaml beside the data: {error}") from None
        self.external_config_dict.update(given)

    def _check_external(self):
        known = set(self.internal_config_dict) | HIDDEN_KEYS | (set() if self.is_plugin_model else HIDDEN_KEYS_OF_MODELS)
        known.update(key for keys in self.parameters.values() for key in keys)
        for key, value in self.external_config_dict.items():
            if key not in known and not self.external_config_dict.get("allow_unknown_keys"):
                raise UsageError(f"unknown key '{key}'{did_you_mean(key, {*known, *self.hints})} (allow_unknown_keys: True accepts it)")
            if value is not None or key in self._required:
                self._check_value(key, value)
            if key in RECBOLE_PICKLES and value:
                raise UsageError(f"{key} would do nothing, data are read from their files in every run: remove it")
            if not self.external_config_dict.get("allow_unknown_keys"):
                self._refuse_unread(key, value)
            if isinstance(value, (int, float)) and key in self._schema and self._schema[key].type in ("str", "path"):
                self.external_config_dict[key] = str(value)

    def _refuse_unread(self, key, value):
        """Keys that RecBole knows and nothing here reads; at their default they are harmless."""
        if value is None or value == self.internal_config_dict.get(key):
            return
        if key in UNREAD:
            raise UsageError(f"{key} would do nothing, {UNREAD[key]}")
        if key in OF_KNOWLEDGE_GRAPHS and self.model not in KNOWLEDGE_MODELS:
            raise UsageError(f"{key} would do nothing, {self.model} reads no knowledge graph: remove it")

    def _check_value(self, key, value):
        if key in self._schema:
            return self._schema[key].check(value)
        checks.check_kind(key, value)
        default = self.internal_config_dict.get(key)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise UsageError(f"{key} must be True or False, got '{value}'")
        elif isinstance(default, (int, float)) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UsageError(f"{key} must be a number, got '{value}'")

    def _expand_homes(self):
        """``~`` in paths, which a shell leaves alone behind ``--key=`` and in files."""
        for settings in (self.internal_config_dict, self.external_config_dict):
            for key, setting in self._schema.items():
                if setting.type == "path" and isinstance(settings.get(key), str):
                    settings[key] = expand_home(settings[key])

    def _fit_to_model(self, model_class):
        """Defaults that depend on the model: columns to load, negative sampling, training view."""
        settings = {**self.internal_config_dict, **self.external_config_dict}
        internal = self.internal_config_dict
        user, item, time = (settings[field] for field in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
        history = item + settings["LIST_SUFFIX"]
        ready_made = settings.get("benchmark_filename") is not None
        if settings.get("load_col") is None:
            internal["load_col"] = {"inter": [user, history, item] if ready_made else [user, item, time]}
            self.external_config_dict.pop("load_col", None)
        if ready_made and not settings.get("alias_of_item_id"):
            internal["alias_of_item_id"] = [history]  # otherwise histories and targets would be numbered apart
            self.external_config_dict.pop("alias_of_item_id", None)
        if isinstance(self.external_config_dict.get("eval_args"), dict):
            # What is not given stays that of sequential data; RecBole would fall back to random splits.
            self.external_config_dict["eval_args"] = {**internal["eval_args"], **self.external_config_dict["eval_args"]}
        checks.check_eval_args({**internal, **self.external_config_dict}["eval_args"])
        if self.is_plugin_model:
            for key, instead in NOT_FOR_PLUGIN_MODELS.items():
                if self.external_config_dict.get(key) not in (None, False):
                    raise UsageError(f"{key} is for RecBole's models, {self.model} {instead}: remove it")
            internal["train_neg_sample_args"] = None
            return
        internal["train_view"] = "prefix"
        if self.external_config_dict.get("train_view", "prefix") != "prefix":
            raise UsageError(f"train_view: sequence is for the plugin's models, {self.model} needs prefix")
        if settings.get("loss_type") == "CE" and not hasattr(model_class, "input_type"):
            internal["train_neg_sample_args"] = None

    def _require_runnable(self):
        """Relations between settings that would otherwise fail after an epoch, or not at all."""
        checks.check_valid_metric(self)
        checks.check_environment(self)
        checks.check_columns(self)
        if self["MODEL_INPUT_TYPE"] is None:
            raise UsageError(f"RecBole's {self.model} has no loss_type '{self['loss_type']}', it may be CE or BPR")
        heads, hidden = self["n_heads"], self["hidden_size"]
        if heads and hidden and hidden % heads:
            raise UsageError(f"hidden_size {hidden} is not a multiple of n_heads {heads}: change one of them")
        if self["trim_padding"] and not self.is_plugin_model and self.model not in registry.TRIMMABLE:
            raise UsageError(
                f"trim_padding is not exact for {self.model}; it is for {', '.join(registry.TRIMMABLE)}: leave it off"
            )
        if self["repetition"] == "learned" and not getattr(self.model_class, "learns_repetition", False):
            raise UsageError(f"repetition: learned is for models of this package that learn, {self.model} cannot: remove it")
        checks.check_sparse_table(self)
        checks.check_negatives(self)
        checks.check_folds(self)
        checks.check_precision(self)
        for key in ("lr_decay_step", "lr_warmup_steps"):
            if self[key] and not self.is_plugin_model:
                raise UsageError(f"{key} is for the plugin's models, {self.model} trains at a constant rate: remove it")
        check = getattr(self.model_class, "check_config", None)
        if check:
            check(self)

    def _set_default_parameters(self):
        settings = self.final_config_dict
        checks.check_metrics(settings)
        own_copy = os.path.join(settings["data_path"], self.dataset)
        super()._set_default_parameters()
        if self.dataset == "ml-100k" and os.path.isfile(os.path.join(own_copy, "ml-100k.inter")):
            settings["data_path"] = own_copy  # RecBole takes the packaged one whatever data_path says

    def _init_device(self):
        """The device of this process. For RecBole it is always a single one, see :mod:`recbole_diffusion.processes`.

        RecBole hides all GPUs but its default ``gpu_id`` from this process and its children, against the user's
        ``CUDA_VISIBLE_DEVICES``, and ignores ``use_gpu``.
        """
        settings = self.final_config_dict
        gpus = settings["gpu_id"]
        settings["gpu_id"] = ",".join(map(str, gpus)) if isinstance(gpus, (list, tuple)) else str(gpus)
        wants_gpu = settings["use_gpu"] and settings["gpu_id"] != ""
        if "gpu_id" in self.external_config_dict:
            show_gpus(settings["gpu_id"])
        settings.update(single_spec=True, local_rank=0)
        if not processes.launched():
            settings["device"] = torch.device("cuda" if wants_gpu and cuda_there() else "cpu")
            return
        settings.update(device=processes.join(wants_gpu), world_size=processes.world_size())
        if not processes.is_first():
            settings.update(show_progress=False, log_wandb=False)

    @property
    def is_plugin_model(self):
        """Whether the model comes from this plugin (or a third party) and not from RecBole."""
        return registry.is_plugin_model(self.model)

    def plain(self):
        """The settings as a dict of JSON values, for checkpoints and result files."""
        return {key: plain(value) for key, value in self.final_config_dict.items()}

