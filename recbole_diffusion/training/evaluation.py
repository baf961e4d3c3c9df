"""The test part under both protocols, and the ranks of its targets."""

import io

import numpy
import torch

from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import finite, write_whole
from recbole_diffusion.training.console import shows_bars


def evaluate_both_protocols(config, trainer, test_data, load_best_model):
    """Test results with and without the user's history in the ranking.

    Metrics are empty where the history cannot be masked: sampled ranking, and RecBole's special data sets.

    Returns:
        tuple: {mask_history: metrics} and {mask_history: ranks}. Ranks are a [n] int16 array (int32 for lists longer than that counts): the place of each test
        target among the best max(topk) items from 1, or 0 outside; None for a protocol that there is not.
    """
    results, ranks = {False: {}, True: {}}, {False: None, True: None}
    chosen = config["mask_history"]  # comes last: loggers that know one test result keep it
    for masked in (not chosen, chosen) if getattr(test_data, "can_mask_history", False) else (False,):
        test_data.mask_history = masked
        trainer.eval_collector.ranks = []
        found = trainer.evaluate(test_data, load_best_model, show_progress=shows_bars(config))
        results[masked] = plain_metrics(found)
        batches, trainer.eval_collector.ranks = trainer.eval_collector.ranks, None
        ranks[masked] = torch.cat(batches).numpy() if batches else None
        load_best_model = False
    test_data.mask_history = config["mask_history"]
    return results, ranks


def check_ranks_file(file, n_processes):
    """Raise UsageError where ranks are wanted of several processes, each of which has those of its own users."""
    if file and n_processes > 1:
        raise UsageError("ranks_file is written by one process only: leave out --nproc or the file")


def write_ranks(ranks, test_part, path):
    """Keep the rank of every test target, for tests that pair users.

    Args:
        ranks (dict[bool, np.ndarray | None]): see :func:`evaluate_both_protocols`.
        test_part (SequenceDataset): its rows in the order of the ranks.
        path (str | Path): ``.npz`` file with ``user`` and ``item`` (numbers of the data set), ``unmasked``, ``masked``.
    """
    named = {"unmasked": ranks[False], "masked": ranks[True]}
    found = {name: places for name, places in named.items() if places is not None}
    rows = test_part.inter_feat
    who = {"user": rows[test_part.uid_field], "item": rows[test_part.iid_field]}
    content = {name: column.numpy().astype(numpy.int32) for name, column in who.items()}
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, **content, **found)
    write_whole(path, buffer.getvalue())


def plain_metrics(metrics):
    """RecBole's metrics as JSON values; None for one that no user gives a value, which RecBole calls NaN."""
    return finite({name: None if value is None else float(value) for name, value in (metrics or {}).items()})
