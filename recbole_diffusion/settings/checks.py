"""Inner values and keys of RecBole's settings, and relations between settings, looked at before anything runs.

RecBole uses most of them without a look: it goes on without a filter that it cannot read, ranks all items where a word
is misspelt, and trips over others after an epoch.
"""

import codecs
import math
import re
from importlib.util import find_spec

import torch
from recbole.evaluator import metric_types
from recbole.evaluator.register import metric_information
from recbole.utils import EvaluatorType, InputType

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.settings.recbole_keys import CHOICES, EVAL_ARGS, FILES, KINDS, NEGATIVE_ARGS

_SAMPLED = re.compile(r"(uni|pop)([1-9]\d*)")


def check_kind(key, value):
    """Raise UsageError when a setting of RecBole is of another kind than it needs."""
    for kind, (wanted, *keys) in KINDS.items():
        if key in keys and not (isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))):
            raise UsageError(f"{key} must be {kind}, got '{value}'")
    if key in CHOICES and str(value).lower() not in CHOICES[key]:
        raise UsageError(f"{key} must be one of {', '.join(CHOICES[key])}, got '{value}'")


def check_known(what, given, known):
    """Raise UsageError for the first inner key that RecBole would not look at."""
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known) or f", there are: {', '.join(known)}"
            raise UsageError(f"{what} has the unknown key '{key}'{hint}")


# Evaluation


def check_eval_args(args):
    """Look at ``eval_args`` before RecBole does.

    Args:
        args (dict): ``split``, ``order``, ``group_by``, ``mode``, of which RecBole fills in the missing ones.

    Raises:
        UsageError: unknown inner key, split, order, group or mode.
    """
    check_known("eval_args", args, EVAL_ARGS)
    _check_split(args["split"], args["order"])
    group, by_user = args.get("group_by", "user"), "RS" not in args["split"]
    if group not in ("user", "none", None):
        raise UsageError(f"group_by of eval_args must be user or none, got '{group}'")
    if group != "user" and by_user:
        raise UsageError(f"the split {args['split']} of eval_args goes by user, group_by: {group} is for RS: remove it")
    modes = args["mode"]
    if isinstance(modes, dict):
        check_known("mode of eval_args", modes, ("valid", "test"))
    for mode in modes.values() if isinstance(modes, dict) else [modes]:
        if mode == "labeled":
            raise UsageError("eval_args mode labeled ranks nothing: choose full, uniN or popN")
        if mode != "full" and not (isinstance(mode, str) and _SAMPLED.fullmatch(mode)):
            raise UsageError(f"mode of eval_args must be full, or uniN or popN such as uni100, got '{mode}'")


def _check_split(split, order):
    kind, value = next(iter(split.items())) if isinstance(split, dict) and len(split) == 1 else (None, None)
    ratios = isinstance(value, list) and len(value) == 3 and all(_is_positive(part) for part in value)
    if order != "TO" or not (kind == "LS" and value == "valid_and_test" or kind in ("RS", "TS") and ratios):
        raise UsageError(
            f"eval_args needs order: TO and a split such as {{LS: valid_and_test}} or {{RS: [0.8, 0.1, 0.1]}} (or TS), "
            f"got order {order} and split {split}"
        )


def has_cutoff(metric):
    """Whether a metric of RecBole is one of a list of k items; GAUC is one of the whole ranking."""
    return "rec.meanrank" not in metric_information[metric.lower()]


def metric_names(config):
    """The names of everything that a run measures, as in results: ``hit@10``, ``gauc``.

    Args:
        config (mapping): ``metrics``, a list, and ``topk``, a list.

    Returns:
        list[str]
    """
    names = []
    for metric in map(str.lower, config["metrics"]):
        names += [f"{metric}@{k}" for k in config["topk"]] if has_cutoff(metric) else [metric]
    return names


def check_metrics(settings):
    """Raise UsageError for metrics or cut-offs that RecBole does not have.

    Args:
        settings (dict): all settings; ``topk`` becomes a list.
    """
    metrics = [settings["metrics"]] if isinstance(settings["metrics"], str) else settings["metrics"]
    if not metrics or not isinstance(metrics, (list, tuple)):
        raise UsageError(f"metrics must name at least one metric, such as NDCG, got {metrics}")
    for metric in metrics:
        if str(metric).lower() not in metric_types:
            raise UsageError(f"unknown metric '{metric}'{did_you_mean(metric, metric_types)}")
    topk = settings["topk"] if isinstance(settings["topk"], (list, tuple)) else [settings["topk"]]
    if not topk or not all(_is_whole(k) and k > 0 for k in topk):
        raise UsageError(f"topk must be positive whole numbers, got {settings['topk']}")
    settings["topk"] = list(topk)
    tail = settings.get("tail_ratio")
    if tail is not None and not (_is_positive(tail) and (tail <= 1 or float(tail).is_integer())):
        raise UsageError(f"tail_ratio must be a part of the items in (0, 1] or a number of interactions, got '{tail}'")


def check_valid_metric(config):
    """Raise UsageError when the metric that chooses the best epoch is not measured, or cannot be."""
    bigger, chosen = config["valid_metric_bigger"], config["valid_metric"]
    if config.external_config_dict.get("valid_metric_bigger", bigger) != bigger:
        raise UsageError(f"valid_metric_bigger follows from {chosen}, it is {bigger}: remove it")
    if config["eval_type"] != EvaluatorType.RANKING:
        raise UsageError(f"metrics must rank items, such as Hit, NDCG, MRR; got {config['metrics']}")
    known = metric_names(config)
    if chosen.lower() not in known:
        raise UsageError(
            f"valid_metric '{chosen}' is not among metrics x topk{did_you_mean(chosen, known)}: add it to metrics/topk "
            f"or choose one of {', '.join(sorted(known))}"
        )
    for phase, mode in config["eval_args"]["mode"].items():
        sampled = _SAMPLED.fullmatch(mode)
        if sampled and max(config["topk"]) > int(sampled[2]) + 1:
            raise UsageError(
                f"topk {max(config['topk'])} is larger than the {int(sampled[2]) + 1} items that {mode} ranks ({phase}): "
                f"lower topk or sample more"
            )


# Columns


def parse_intervals(key, text):
    """Refuse what RecBole's parser of intervals would skip with a line in the log.

    Args:
        key (str): name of the setting, for the message.
        text (str): one or more intervals such as ``[3,inf)``, separated by semicolons.

    Raises:
        UsageError: missing brackets, other than two ends, an end that is no number, ends in the wrong order.
    """
    for part in text.split(";") if isinstance(text, str) else [None]:
        found = part and re.fullmatch(r"\s*[\[(]([^,;]+),([^,;]+)[\])]\s*", part)
        try:
            low, high = (float(end) for end in found.groups()) if found else (math.nan, math.nan)
        except ValueError:
            low = high = math.nan
        if not low <= high:
            raise UsageError(f"{key} must be an interval such as [5,inf), got '{text}'")


def check_columns(config):
    """Settings that name columns: their inner values, and whether the columns are loaded at all.

    Raises:
        UsageError: with the setting and what it needs.
    """
    _check_files(config)
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        if config[key] is not None:
            parse_intervals(key, config[key])
    for field, allowed in _columns_of(config, "val_interval"):
        what = f"val_interval of {field}"
        if isinstance(allowed, str):
            parse_intervals(what, allowed)
        elif not (isinstance(allowed, list) and allowed):
            raise UsageError(f"{what} must be an interval in quotes such as '[3,inf)', or a list of tokens, got '{allowed}'")
    for field, value in _columns_of(config, "threshold"):
        if len(config["threshold"]) != 1 or not _is_number(value):
            raise UsageError(f"threshold must be one column with a number such as {{rating: 3}}, got {config['threshold']}")
    for field, length in _columns_of(config, "seq_len"):
        if not (_is_whole(length) and length > 0):
            raise UsageError(f"seq_len of {field} must be a whole number from 1, got '{length}'")
    for field, how in _columns_of(config, "discretization"):
        _check_buckets(field, how, config["numerical_features"])
    for field, other in _columns_of(config, "preload_weight"):
        _require_loaded(config, "preload_weight", other)
    for key in ("normalize_field", "numerical_features"):
        for field in config[key] or ():
            _require_loaded(config, key, field)


def _columns_of(config, key):
    """The columns of a mapping and their values, each of which must be loaded."""
    for field, value in (config[key] or {}).items():
        _require_loaded(config, key, field)
        yield field, value


def _check_files(config):
    suffixes = config["additional_feat_suffix"] or []
    known = (*FILES, *([suffixes] if isinstance(suffixes, str) else suffixes))
    for key in ("load_col", "unload_col", "unused_col"):
        columns = config[key]
        if columns is None:
            continue
        good = _names_columns(columns) and {"load_col": "inter" in columns, "unused_col": "*" not in columns.values()}.get(key, True)
        if not good:
            raise UsageError(f"{key} must be columns by file such as {{inter: [user_id]}}, got '{columns}'")
        check_known(key, columns, known)
    if config["unused_col"]:
        check_known("unused_col", config["unused_col"], tuple(config["load_col"]))
        for field in (column for columns in config["unused_col"].values() for column in columns):
            if field in (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]):
                raise UsageError(f"unused_col names '{field}', without which there are no sequences: remove it")
            _require_loaded(config, "unused_col", field)


def _names_columns(value):
    """Whether a value maps each file to ``*`` or a list of column names."""
    return isinstance(value, dict) and all(
        columns == "*" or isinstance(columns, list) and all(isinstance(column, str) for column in columns)
        for columns in value.values()
    )


def _require_loaded(config, key, field):
    files = config["load_col"]
    if files is None or "*" in files.values() or config["unload_col"]:
        return  # only the files know
    loaded = [column for columns in files.values() for column in columns]
    if field not in loaded:
        raise UsageError(
            f"{key} names '{field}', which is not loaded{did_you_mean(field, loaded)}: name it in load_col, which is "
            f"{_inline(files)}"
        )


def _inline(files):
    """``load_col`` as it is written on a command line."""
    return "{" + ", ".join(f"{name}: [{', '.join(columns)}]" for name, columns in files.items()) + "}"


def _check_buckets(field, how, numerical):
    what, example = f"discretization of {field}", "{method: ED, bucket: 10} or {method: LD}"
    if not isinstance(how, dict):
        raise UsageError(f"{what} must be such as {example}, got '{how}'")
    check_known(what, how, ("method", "bucket"))
    bucket = how.get("bucket")
    if how.get("method") not in ("ED", "LD") or how["method"] == "ED" and not (_is_whole(bucket) and bucket > 0):
        raise UsageError(f"{what} must be such as {example}, got {how}")
    if field not in (numerical or ()):
        raise UsageError(f"{what} needs it among the numerical_features: add numerical_features: [{field}]")


# Training


def check_folds(config):
    """Raise UsageError for the one number of folds that leaves no session for the graph."""
    if config["graph_folds"] == 1:
        raise UsageError("graph_folds 1 would leave the graph no session: 0 for one graph of all, 2 or more for folds")


def check_negatives(config):
    """Raise UsageError when RecBole could not draw the negatives that its model trains with."""
    given = config["train_neg_sample_args"]
    if given["distribution"] == "none":
        if config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and not config.is_plugin_model:
            raise UsageError(
                f"{config.model} trains with negatives here: set train_neg_sample_args, such as "
                f"{{distribution: uniform, sample_num: 1}}"
            )
        return
    check_known("train_neg_sample_args", given, NEGATIVE_ARGS)
    needs = {
        "sample_num": _is_whole(given["sample_num"]) and given["sample_num"] > 0,
        "alpha": _is_number(given["alpha"]) and given["alpha"] >= 0,
        "dynamic": isinstance(given["dynamic"], bool),
        "candidate_num": _is_whole(given["candidate_num"]) and given["candidate_num"] >= 0,
    }
    for key, fits in needs.items():
        if not fits:
            raise UsageError(f"{key} of train_neg_sample_args cannot be '{given[key]}'")
    if given["dynamic"] and not given["candidate_num"]:
        raise UsageError("dynamic of train_neg_sample_args needs a candidate_num from 1")


def check_environment(config):
    """Names of things outside the package. Raises UsageError."""
    try:
        codecs.lookup(config["encoding"] or "utf-8")
    except LookupError as error:
        raise UsageError(f"encoding: {error}") from None
    if config["worker"] < 0:
        raise UsageError(f"worker must be at least 0, got {config['worker']}")
    if config["log_wandb"] and find_spec("wandb") is None:
        raise UsageError("log_wandb needs the package wandb: pip install wandb")


def check_precision(config):
    """Clipping and mixed precision. Raises UsageError."""
    clip = config["clip_grad_norm"]
    if clip is not None and not (set(clip) <= {"max_norm", "norm_type"} and _is_positive(clip.get("max_norm"))):
        raise UsageError(f"clip_grad_norm must be such as {{max_norm: 5.0}} with a positive number, got {clip}")
    if clip is not None and not _is_positive(clip.get("norm_type", 2.0)):
        raise UsageError(f"norm_type of clip_grad_norm must be a positive number, got {clip['norm_type']}")
    fp16_on_cpu = config["enable_amp"] and config["amp_type"] == "fp16" and config["device"].type == "cpu"
    if fp16_on_cpu and not hasattr(torch.amp, "GradScaler"):
        raise UsageError("amp_type: fp16 on a CPU needs PyTorch 2.3 or later: use bf16")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _is_positive(value):
    return _is_number(value) and value > 0


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def check_sparse_table(config):
    """Raise UsageError where all rows of the item table would move in a step."""
    if not config["sparse_table"]:
        return
    reason = None
    if not getattr(config.model_class, "learns_rows", False):
        reason = f"{config.model} has losses that move the whole table: remove it"
    elif config["loss_type"] == "CE":
        reason = "loss_type: CE moves the whole table: set loss_type: SCE or SS"
    elif config["learner"] not in ("adam", "adamw"):
        reason = f"learner: {config['learner']} has no lazy form: set learner: adam"
    elif config["weight_decay"]:
        reason = "weight_decay would have to shrink the whole table: set it to 0"
    if reason:
        raise UsageError(f"sparse_table moves the rows that a step meets only, {reason}")
