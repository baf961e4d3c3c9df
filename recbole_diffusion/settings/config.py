"""RecBole's configuration with the plugin's models, data sets and defaults, checked before anything runs."""

import codecs
import copy
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_diffusion import processes
from recbole_diffusion.errors import UsageError, did_you_mean, one_line
from recbole_diffusion.files import plain
from recbole_diffusion.settings import registry
from recbole_diffusion.settings.properties import YamlLoader, load_yaml, properties_dir, property_file, settings_beside
from recbole_diffusion.settings.schema import read_schema

# Keys that RecBole reads although none of its yaml files holds them.
RECBOLE_HIDDEN_KEYS = {
    "model", "dataset", "config_files", "encoding", "local_rank", "nproc", "world_size", "offset", "ip", "port",
    "numerical_features", "ft_ratio", "single_spec", "LABEL_FIELD", "RATING_FIELD",
}  # fmt: skip

# Kinds of RecBole's settings that it uses without a look, most of them empty by default.
RECBOLE_KINDS = {
    "text": (
        str,
        "field_separator", "seq_separator", "encoding", "state", "transform", "USER_ID_FIELD", "ITEM_ID_FIELD",
        "TIME_FIELD", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "NEG_PREFIX", "valid_metric",
    ),
    "a list": (
        list, "alias_of_user_id", "alias_of_item_id", "additional_feat_suffix", "normalize_field", "benchmark_filename",
    ),
    "a mapping": (dict, "val_interval", "preload_weight", "discretization", "threshold", "seq_len"),
}  # fmt: skip
TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")
_INTERVAL = re.compile(r"[\[(]\s*-?[\d.]+(e\d+)?\s*,\s*(-?[\d.]+(e\d+)?|inf)\s*[\])]")


# RecBole's settings that would change nothing, or the wrong thing, and what happens instead.
NOT_FOR_PLUGIN_MODELS = {
    "train_neg_sample_args": "draws what it needs",
    "transform": "noises and masks by itself",
    "enable_scaler": "scales the loss whenever amp_type is fp16",
}
RECBOLE_PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")


class DiffusionConfig(Config):
    """``recbole.config.Config`` that knows the plugin.

    Sources, later ones win: RecBole's files, ``properties/overall.yaml``, ``properties/model/<model>.yaml``,
    ``properties/dataset/<dataset>.yaml``, ``<dataset>.yaml`` beside the data, ``config_file_list`` in its order,
    ``config_dict`` (the command line).
    ``model_settings`` in a data set's file holds settings of single models on that data.
    A model from elsewhere names its yaml file in the class attribute ``settings_file``.

    Args:
        model (str): name of a plugin or RecBole sequential model.
        dataset (str): name of the data set.
        config_file_list (list[str], optional): yaml files.
        config_dict (dict, optional): settings with typed values.

    Raises:
        UsageError: for an unknown model or key, and for a value of the wrong type or out of range.
    """

    def __init__(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        try:
            super().__init__(model, dataset, config_file_list, copy.deepcopy(dict(config_dict or {})))
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
            settings.update(load_yaml(file))
        return settings

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
        for_models = self.internal_config_dict.pop("model_settings", None) or {}
        self.internal_config_dict.update(for_models.get(model, {}))
        self._take_settings_beside(model, dataset)
        self._check_external()
        self._fit_to_model(model_class)

    def _take_settings_beside(self, model, dataset):
        """Those of ``<dataset>.yaml`` in the folder of the data are a user's as well, below all others of the user."""
        folder = self.external_config_dict.get("data_path", self.internal_config_dict["data_path"])
        beside = settings_beside(dataset, folder)
        self.internal_config_dict.update((beside.pop("model_settings", None) or {}).get(model, {}))
        self.external_config_dict = {**beside, **self.external_config_dict}

    def _check_external(self):
        known = set(self.internal_config_dict) | RECBOLE_HIDDEN_KEYS
        known.update(key for keys in self.parameters.values() for key in keys)
        for key, value in self.external_config_dict.items():
            if key not in known and not self.external_config_dict.get("allow_unknown_keys"):
                raise UsageError(f"unknown key '{key}'{did_you_mean(key, known)} (allow_unknown_keys: True accepts it)")
            if value is not None or key in self._required:
                self._check_value(key, value)
            if key in RECBOLE_PICKLES and value:
                raise UsageError(f"{key} would do nothing, data are read from their files in every run: remove it")
            if isinstance(value, (int, float)) and key in self._schema and self._schema[key].type == "str":
                self.external_config_dict[key] = str(value)

    def _check_value(self, key, value):
        if key in self._schema:
            return self._schema[key].check(value)
        for kind, (wanted, *keys) in RECBOLE_KINDS.items():
            if key in keys and not isinstance(value, wanted):
                raise UsageError(f"{key} must be {kind}, got '{value}'")
        default = self.internal_config_dict.get(key)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise UsageError(f"{key} must be True or False, got '{value}'")
        elif isinstance(default, (int, float)) and not isinstance(value, (int, float)):
            raise UsageError(f"{key} must be a number, got '{value}'")

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
        self._check_metrics()
        self._check_split(self["eval_args"]["split"], self["eval_args"]["order"])
        if "labeled" in self["eval_args"]["mode"].values():
            raise UsageError("eval_args mode labeled ranks nothing: choose full, uniN or popN")
        for key in ("user_inter_num_interval", "item_inter_num_interval"):
            if self[key] is not None and not all(_INTERVAL.fullmatch(part.strip()) for part in str(self[key]).split(";")):
                raise UsageError(f"{key} must be an interval such as [5,inf), got '{self[key]}'")
        self._check_environment()
        for key in ("load_col", "unload_col"):
            columns = self[key]
            if columns is not None and not (_names_columns(columns) and (key == "unload_col" or "inter" in columns)):
                raise UsageError(f"{key} must be columns by file such as {{inter: [user_id]}}, got '{columns}'")
        if self["MODEL_INPUT_TYPE"] is None:
            raise UsageError(f"RecBole's {self.model} has no loss_type '{self['loss_type']}', it may be CE or BPR")
        heads, hidden = self["n_heads"], self["hidden_size"]
        if heads and hidden and hidden % heads:
            raise UsageError(f"hidden_size {hidden} is not a multiple of n_heads {heads}: change one of them")
        if self["trim_padding"] and not self.is_plugin_model and self.model not in registry.TRIMMABLE:
            raise UsageError(
                f"trim_padding is not exact for {self.model}; it is for {', '.join(registry.TRIMMABLE)}: leave it off"
            )
        self._check_precision()
        if self["lr_decay_step"] and not self.is_plugin_model:
            raise UsageError(f"lr_decay_step is for the plugin's models, {self.model} trains at a constant rate: remove it")
        check = getattr(self.model_class, "check_config", None)
        if check:
            check(self)

    def _check_environment(self):
        """Names of things outside the package."""
        try:
            codecs.lookup(self["encoding"] or "utf-8")
        except LookupError as error:
            raise UsageError(f"encoding: {error}") from None
        if self["transform"] and self["transform"] not in TRANSFORMS:
            raise UsageError(f"transform must be one of {', '.join(TRANSFORMS)}, got '{self['transform']}'")
        if self["worker"] < 0:
            raise UsageError(f"worker must be at least 0, got {self['worker']}")
        if self["log_wandb"] and find_spec("wandb") is None:
            raise UsageError("log_wandb needs the package wandb: pip install wandb")

    def _check_precision(self):
        clip = self["clip_grad_norm"]
        if clip is not None and not (set(clip) <= {"max_norm", "norm_type"} and _is_positive(clip.get("max_norm"))):
            raise UsageError(f"clip_grad_norm must be such as {{max_norm: 5.0}} with a positive number, got {clip}")
        if clip is not None and not _is_positive(clip.get("norm_type", 2.0)):
            raise UsageError(f"norm_type of clip_grad_norm must be a positive number, got {clip['norm_type']}")
        fp16_on_cpu = self["enable_amp"] and self["amp_type"] == "fp16" and self["device"].type == "cpu"
        if fp16_on_cpu and not hasattr(torch.amp, "GradScaler"):
            raise UsageError("amp_type: fp16 on a CPU needs PyTorch 2.3 or later: use bf16")

    @staticmethod
    def _check_split(split, order):
        kind, value = next(iter(split.items())) if isinstance(split, dict) and len(split) == 1 else (None, None)
        ratios = isinstance(value, list) and len(value) == 3 and all(isinstance(part, (int, float)) for part in value)
        if order != "TO" or not (kind == "LS" and value == "valid_and_test" or kind in ("RS", "TS") and ratios):
            raise UsageError(
                f"eval_args needs order: TO and a split such as {{LS: valid_and_test}} or {{RS: [0.8, 0.1, 0.1]}} (or TS), "
                f"got order {order} and split {split}"
            )

    def _check_metrics(self):
        bigger = self["valid_metric_bigger"]
        if self.external_config_dict.get("valid_metric_bigger", bigger) != bigger:
            raise UsageError(f"valid_metric_bigger follows from {self['valid_metric']}, it is {bigger}: remove it")
        known = {f"{metric}@{k}".lower() for metric in self["metrics"] for k in self["topk"]}
        if self["eval_type"] != EvaluatorType.RANKING:
            raise UsageError(f"metrics must rank items, such as Hit, NDCG, MRR; got {self['metrics']}")
        if self["valid_metric"].lower() not in known:
            raise UsageError(
                f"valid_metric '{self['valid_metric']}' is not among metrics x topk"
                f"{did_you_mean(self['valid_metric'], known)}: add it to metrics/topk or choose one of "
                f"{', '.join(sorted(known))}"
            )

    def _set_default_parameters(self):
        settings = self.final_config_dict
        metrics = [settings["metrics"]] if isinstance(settings["metrics"], str) else settings["metrics"]
        if not metrics:
            raise UsageError("metrics must name at least one metric, such as NDCG")
        for metric in metrics:
            if str(metric).lower() not in metric_types:
                raise UsageError(f"unknown metric '{metric}'{did_you_mean(metric, metric_types)}")
        topk = settings["topk"] if isinstance(settings["topk"], (list, tuple)) else [settings["topk"]]
        if not topk or not all(isinstance(k, int) and k > 0 for k in topk):
            raise UsageError(f"topk must be positive whole numbers, got {settings['topk']}")
        settings["topk"] = list(topk)
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
        if "gpu_id" in self.external_config_dict:
            os.environ["CUDA_VISIBLE_DEVICES"] = settings["gpu_id"]
        wants_gpu = settings["use_gpu"] and settings["gpu_id"] != ""
        settings.update(single_spec=True, local_rank=0)
        if not processes.launched():
            settings["device"] = torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")
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


def _names_columns(value):
    """Whether a value maps each file to ``*`` or a list of column names."""
    return isinstance(value, dict) and all(
        columns == "*" or isinstance(columns, list) and all(isinstance(column, str) for column in columns)
        for columns in value.values()
    )


def _is_positive(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
