"""RecBole's settings that none of its files describes: keys, kinds and words that it takes without a look."""

# Keys that RecBole reads although none of its yaml files holds them.
HIDDEN_KEYS = {
    "model", "dataset", "encoding", "numerical_features", "ft_ratio", "LABEL_FIELD", "RATING_FIELD", "tail_ratio",
    "group_offset", "ip", "local_rank", "nproc", "offset", "port", "single_spec", "world_size", "config", "config_files",
}  # fmt: skip
# The same, read by its own sequential models and their transformations only.
HIDDEN_KEYS_OF_MODELS = {"eta"}

# Keys that RecBole lists, or reads in parts that do not run here, and what to do instead.
_PROCESSES = "processes are asked for on the command line or in config_dict of run: move it there"
UNREAD = {
    **dict.fromkeys(("config", "config_file", "config_files"), "config files are named by --config_files, config_file_list"),
    **dict.fromkeys(("nproc", "world_size", "ip", "port", "group_offset"), _PROCESSES),
    **dict.fromkeys(("local_rank", "single_spec"), "it follows from nproc or torchrun: remove it"),
    "offset": "processes on other machines are counted by group_offset",
    "require_pow": "no sequential model squares its regularisation by it: use weight_decay",
    "POSITION_FIELD": "models number the positions of a history by themselves: remove it",
    "RATING_FIELD": "ratings are used by name, as in val_interval: {rating: '[3,inf)'}: remove it",
}
KNOWLEDGE_MODELS = ("GRU4RecKG", "KSR")
OF_KNOWLEDGE_GRAPHS = (
    "HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD", "alias_of_entity_id",
    "alias_of_relation_id", "kg_reverse_r", "entity_kg_num_interval", "relation_kg_num_interval",
)  # fmt: skip

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
