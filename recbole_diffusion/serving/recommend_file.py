"""Rankings for all histories of one file."""

import os
from itertools import islice

from tqdm import tqdm

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import same_file, written_whole
from recbole_diffusion.serving.histories import WRITTEN, file_format, ranking_writer, read_histories
from recbole_diffusion.serving.recommender import UnknownItemError


def recommend_file(recommender, source, target, k=10, exclude_seen=False, unknown="drop", batch_size=256, group=None):
    """Recommend for all histories of a file; memory does not grow with the file.

    Args:
        recommender (Recommender): the model.
        source, target (str or Path): input, see :func:`read_histories`, and output, ``.csv`` or ``.jsonl``. The output
            is written whole or not at all.
        k, exclude_seen, unknown, batch_size: see :meth:`Recommender.recommend`.
        group (int, optional): only this row group of a Parquet file.

    Returns:
        dict: number of ``rows``, of those ranked by ``popularity``, and of ``unknown`` items.

    Raises:
        UsageError: for anything wrong in the input, with the line.
    """
    recommender.check_request(k, unknown, batch_size)
    kinds = {file_format(source), file_format(target, WRITTEN)}
    if not os.path.isfile(source):
        raise UsageError(f"input '{source}' {'is not a file' if os.path.exists(source) else 'does not exist'}")
    if same_file(source, target):
        raise UsageError(f"input and output are the same file, '{source}'")
    if ".csv" in kinds and any(len(token.split()) != 1 for token in recommender.tokens):
        raise UsageError("items of this checkpoint hold blanks, which separate items in csv files: use .jsonl")
    counts = {"rows": 0, "popularity": 0, "unknown": 0}
    with written_whole(target) as file, tqdm(unit=" histories", disable=None) as progress:
        write = ranking_writer(target, file)
        records = read_histories(source, commas=not any("," in token for token in recommender.tokens), group=group)
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
