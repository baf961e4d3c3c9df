"""Settings that change no number of a run but by rounding, so that names of runs and fingerprints leave them out."""

# Those that name a place or a way of watching. The hash that names a kept run leaves them out, so that a word more or
# less here makes all kept runs unknown, and so do the commands on the pages. threads belongs to the machine like device:
# both can change the last digits.
PLACES = frozenset(
    "checkpoint_dir console data_cache data_cache_gb data_path dataloaders_save_path dataset_save_path device gpu_id"
    " local_rank log_wandb ranks_file result_file resume save_dataloaders save_dataset show_progress single_spec state"
    " threads wandb_project".split()
)

# What a resumed run may change, but a page must show: how far to train besides, and the name of a preset, whose settings
# count. RecBole sets single_spec by itself.
FREE_SETTINGS = PLACES - {"single_spec"} | frozenset(
    "allow_unknown_keys config_files epochs expected_counts ip nproc offset port preset rank use_gpu verbose".split()
)
