"""The command ``recommend``: rankings for the histories of a file, of a folder of files, or of users of the data set."""

import os
import sys
from pathlib import Path

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.data.kept_files import hash_file
from recbole_diffusion.devices import own_gpu
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.processes import alone, share
from recbole_diffusion.serving.parts import recommend_folder
from recbole_diffusion.serving.recommend_file import recommend_file
from recbole_diffusion.serving.recommender import Recommender
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.training.checkpoint import load_checkpoint, reusable_settings
from recbole_diffusion.training.surroundings import without_recboles_warnings


@without_recboles_warnings()
def histories_of_users(checkpoint, users, data_path=None):
    """What some users of the data set did, all of it, targets of validation and test included.

    Args:
        checkpoint (dict): of the model, as :func:`load_checkpoint` reads it.
        users (Sequence[str]): tokens.
        data_path (str, optional): where the data sets are now, if they moved.

    Returns:
        list[list[str]]: item tokens of each user, oldest first.

    Raises:
        UsageError: when the data set is not there, or has no such user.
    """
    saved = checkpoint["config"]
    config = DiffusionConfig(saved["model"], saved["dataset"], config_dict=reusable_settings(saved, data_path))
    try:
        data = create_dataset(config)
    except UsageError as error:
        raise UsageError(f"--user looks users up in the data set, which a checkpoint does not hold: {error}") from None
    if data.benchmark_filename_list is not None:
        raise UsageError(f"--user needs one file of interactions, '{saved['dataset']}' is split: use --input")
    rows = data.inter_feat.sort_values(data.time_field, kind="stable")
    known = data.field2token_id[data.uid_field]
    for user in users:
        if user not in known:
            raise UsageError(f"dataset '{saved['dataset']}' has no user '{user}'{did_you_mean(user, known)}")
    return [
        data.id2token(data.iid_field, rows[data.iid_field][rows[data.uid_field] == known[user]].to_numpy()).tolist()
        for user in users
    ]


def main(args):
    """Run ``recbole-diffusion recommend``; returns 0."""
    rank, n_ranks = share()
    check_words(args, n_ranks)
    sampling = {} if args.sampling_steps is None else {"sampling_steps": args.sampling_steps}
    with alone():  # a share of the files needs no other process
        index = {"index": args.index, "n_probes": args.probes}
        device = args.device or own_gpu()
        recommender = Recommender.load(args.checkpoint, device, args.trust_checkpoint, **index, **sampling)
    how = {"k": args.k, "exclude_seen": args.exclude_seen, "unknown": args.unknown, "batch_size": args.batch_size}
    if args.user:
        print_users(args, recommender, how)
    elif os.path.isdir(args.input):
        found_by = recommender.index and [recommender.index.n_probes, len(recommender.index.lists.centres)]
        about = {**how, **sampling, "checkpoint": hash_file(args.checkpoint), "index": found_by}
        del about["batch_size"]  # which changes nothing
        try:
            counts = recommend_folder(recommender, args.input, args.output, about, args.format and f".{args.format}", **how)
        except UsageError as error:
            if rank:  # the first process alone may speak, unless it is another's part that is wrong
                print(f"error: process {rank}: {error}", file=sys.stderr)
            raise
        who = f"process {rank} of {n_ranks}: " if n_ranks > 1 else ""
        print(f"{who}{counts['parts']} parts, {counts['kept']} of them from before; {describe(counts, args.output)}", flush=True)
    else:
        print(describe(recommend_file(recommender, args.input, args.output, **how), args.output))
    return 0


def check_words(args, n_ranks):
    """Raise UsageError for words that do not go together."""
    if bool(args.user) == bool(args.input):
        raise UsageError("recommend needs either --input, a file of histories, or --user, a user of the data set")
    if bool(args.user) == bool(args.output):
        raise UsageError("--output is required with --input; what --user asks for is printed")
    if args.explain and not args.user:
        raise UsageError("--explain prints a line per factor: it needs --user")
    if args.probes is not None and args.index is None:
        raise UsageError("--probes is for --index")
    is_folder = bool(args.input) and os.path.isdir(args.input)
    if n_ranks > 1 and not is_folder:
        raise UsageError("several processes share out the files of a folder: --input must be one")
    if args.format and not is_folder:
        raise UsageError("--format is for a folder; of a single file the name of --output says it")
    if args.format and args.format not in ("csv", "jsonl"):
        raise UsageError(f"--format must be csv or jsonl, got '{args.format}'")
    if is_folder and Path(args.output).suffix and not os.path.isdir(args.output):
        raise UsageError(f"--input is a folder, so that --output must be one: '{args.output}' looks like a file")


def describe(counts, output):
    """What was done, as a line."""
    return (
        f"{counts['rows']} histories -> {output} ({counts['popularity']} by popularity because they hold no known "
        f"item, {counts['unknown']} unknown items dropped)"
    )


def print_users(args, recommender, how):
    """Print the rankings of users of the data set, with reasons where they are asked for."""
    checkpoint = load_checkpoint(args.checkpoint, args.trust_checkpoint)
    histories = histories_of_users(checkpoint, args.user, args.data_path)
    for user, history, ranking in zip(args.user, histories, recommender.recommend(histories, **how)):
        print(f"{user}, after {len(history)} items, at last {', '.join(history[-3:])}:")
        reasons = recommender.explain(history, ranking) if args.explain else [{}] * len(ranking)
        for (token, score), factors in zip(ranking, reasons):
            print(f"  {token}  {score:.6g}")
            for name, probability in factors.items():
                print(f"      {name}: real with {probability:.3f}")
