"""RecBole's settings that none of its files describes: keys, kinds and words that it takes without a look."""

# Keys that RecBole reads although none of its yaml files holds them.
HIDDEN_KEYS = {
    "model", "dataset", "config_files", "encoding", "local_rank", "nproc", "world_size", "offset", "ip", "port",
    "numerical_features", "ft_ratio", "single_spec", "LABEL_FIELD", "RATING_FIELD", "tail_ratio",
}  # fmt: skip
# The same, read by RecBole's own models and their transformations only.
HIDDEN_KEYS_OF_MODELS = {
    "eta", "contrast", "sim", "use_filter", "has_residual", "norm", "shrink", "cin", "feature_num",
    "token_num_threshold", "xgb_early_stopping_rounds",
}  # fmt: skip

# Kinds of settings that it uses without a look, most of them empty by default.
KINDS = {
    "text": (
        str,
        "field_separator", "seq_separator", "encoding", "state", "transform", "USER_ID_FIELD", "ITEM_ID_FIELD",
        "RATING_FIELD", "LABEL_FIELD", "TIME_FIELD", "ITEM_LIST_LENGTH_FIELD", "POSITION_FIELD", "LIST_SUFFIX",
        "NEG_PREFIX", "valid_metric", "wandb_project",
    ),
    "a list": (
        list, "alias_of_user_id", "alias_of_item_id", "additional_feat_suffix", "normalize_field", "benchmark_filename",
        "numerical_features",
    ),
    "a mapping": (
        dict, "val_interval", "preload_weight", "discretization", "threshold", "seq_len", "eval_args",
    ),
    "True or False": (bool, "normalize_all"),
    "a whole number": (int, "worker", "loss_decimal_place"),
}  # fmt: skip

# Words that it compares with its own and takes for something else when they are others.
CHOICES = {
    "transform": ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined"),
    "rm_dup_inter": ("first", "last"),  # False would remove both of two
    "state": ("debug", "info", "warning", "error", "critical"),
}

# Inner keys.
EVAL_ARGS = ("split", "order", "group_by", "mode")
NEGATIVE_ARGS = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
FILES = ("inter", "user", "item", "kg", "link", "ent", "net")
