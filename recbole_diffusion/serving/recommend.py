"""The command ``recommend``: rankings for all histories of a file."""

import os
from itertools import islice

from tqdm import tqdm

from recbole_diffusion.data.build import create_dataset
from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import same_file, written_whole
from recbole_diffusion.serving.histories import file_format, ranking_writer, read_histories
from recbole_diffusion.serving.recommender import Recommender, UnknownItemError
from recbole_diffusion.settings.config import DiffusionConfig
from recbole_diffusion.training.checkpoint import load_checkpoint, reusable_settings
from recbole_diffusion.training.surroundings import without_recboles_warnings


def recommend_file(recommender, source, target, k=10, exclude_seen=False, unknown="drop", batch_size=256):
    """Recommend for all histories of a file; memory does not grow with the file.

    Args:
        recommender (Recommender): the model.
        source, target (str or Path): input, see :func:`read_histories`, and output, ``.csv`` or ``.jsonl``. The output
            is written whole or not at all.
        k, exclude_seen, unknown, batch_size: see :meth:`Recommender.recommend`.

    Returns:
        dict: number of ``rows``, of those ranked by ``popularity``, and of ``unknown`` items.

    Raises:
        UsageError: for anything wrong in the input, with the line.
    """
    recommender.check_request(k, unknown, batch_size)
    kinds = {file_format(source), file_format(target)}
    if not os.path.isfile(source):
        raise UsageError(f"input '{source}' {'is not a file' if os.path.exists(source) else 'does not exist'}")
    if same_file(source, target):
        raise UsageError(f"input and output are the same file, '{source}'")
    if ".csv" in kinds and any(len(token.split()) != 1 for token in recommender.tokens):
        raise UsageError("items of this checkpoint hold blanks, which separate items in csv files: use .jsonl")
    counts = {"rows": 0, "popularity": 0, "unknown": 0}
    with written_whole(target) as file, tqdm(unit=" histories", disable=None) as progress:
        write = ranking_writer(target, file)
        records = read_histories(source, commas=not any("," in token for token in recommender.tokens))
        while chunk := list(islice(records, batch_size)):
            lines, names, histories = zip(*chunk)
            try:
                rankings = recommender.recommend(histories, k, exclude_seen, unknown, batch_size)
            except UnknownItemError as error:
                raise UsageError(
                    f"'{source}' line {lines[error.row]}: unknown item '{error.token}' (--unknown=drop ignores them)"
                ) from None
            for name, ranking in zip(names, rankings):
                write(name, ranking)
                counts["popularity"] += ranking.source == "popularity"
                counts["unknown"] += len(ranking.unknown)
            counts["rows"] += len(chunk)
            progress.update(len(chunk))
    return counts


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
    sampling = {} if args.sampling_steps is None else {"sampling_steps": args.sampling_steps}
    if bool(args.user) == bool(args.input):
        raise UsageError("recommend needs either --input, a file of histories, or --user, a user of the data set")
    if bool(args.user) == bool(args.output):
        raise UsageError("--output is required with --input; what --user asks for is printed")
    if args.explain and not args.user:
        raise UsageError("--explain prints a line per factor: it needs --user")
    recommender = Recommender.load(args.checkpoint, args.device, args.trust_checkpoint, **sampling)
    if args.user:
        checkpoint = load_checkpoint(args.checkpoint, args.trust_checkpoint)
        histories = histories_of_users(checkpoint, args.user, args.data_path)
        rankings = recommender.recommend(histories, args.k, args.exclude_seen, args.unknown, args.batch_size)
        for user, history, ranking in zip(args.user, histories, rankings):
            print(f"{user}, after {len(history)} items, at last {', '.join(history[-3:])}:")
            reasons = recommender.explain(history, ranking) if args.explain else [{}] * len(ranking)
            for (token, score), factors in zip(ranking, reasons):
                print(f"  {token}  {score:.6g}")
                for name, probability in factors.items():
                    print(f"      {name}: real with {probability:.3f}")
        return 0
    counts = recommend_file(
        recommender, args.input, args.output, args.k, args.exclude_seen, args.unknown, args.batch_size
    )
    print(
        f"{counts['rows']} histories -> {args.output} ({counts['popularity']} by popularity because they hold no known "
        f"item, {counts['unknown']} unknown items dropped)"
    )
    return 0
