"""Session data from public raw files: sessions, filter, split, and files with one example per line.

The split files are those of RecBole's ``benchmark_filename``: ``<name>.train.inter``, ``<name>.valid.inter`` and
``<name>.test.inter`` with the columns session_id, item_id_list and item_id.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.data.atomic_files import PARQUET
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.atomic_files import SPLIT_MARK, check_counts, number_text, target_file, write_all
from recbole_diffusion.prepare.parquet_files import require_pyarrow
from recbole_diffusion.prepare.raw_lines import require_format
from recbole_diffusion.prepare.session_formats import SESSION_FORMATS, RawSessions
from recbole_diffusion.prepare.sessions import PARTS, drop_unseen, filter_sessions, split_sessions
from recbole_diffusion.settings.properties import dataset_properties

_SETTINGS = f"""{SPLIT_MARK}.
USER_ID_FIELD: session_id
ITEM_ID_FIELD: item_id
TIME_FIELD: timestamp
load_col:
  inter: [session_id, item_id_list, item_id]
alias_of_item_id: [item_id_list]
benchmark_filename: [train, valid, test]
MAX_ITEM_LIST_LENGTH: 20
"""


# ------------------------------------------------------------------------------------------- examples


def example_lines(sessions, chosen, prefixes):
    """Lines of a split file: one example per session, or one per prefix, the longest first.

    Args:
        sessions (Sessions): all of them.
        chosen (numpy.ndarray): numbers of the sessions of the part.
        prefixes (bool): whether every item but the first is a target, not only the last one.
    """
    yield "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    names, starts = sessions.session_names(), np.searchsorted(sessions.numbers, np.arange(len(sessions) + 1))
    for number in chosen.tolist():
        tokens = [sessions.item_tokens[item] for item in sessions.items[starts[number] : starts[number + 1]]]
        shortest = 1 if prefixes else max(len(tokens) - 1, 1)
        for end in range(len(tokens) - 1, shortest - 1, -1):
            yield f"{names[number]}\t{' '.join(tokens[:end])}\t{tokens[end]}\n"


def _inter_lines(sessions):
    yield "session_id:token\titem_id:token\ttimestamp:float\n"
    names = sessions.session_names()
    for number, item, time in zip(sessions.numbers.tolist(), sessions.items.tolist(), sessions.times.tolist()):
        yield f"{names[number]}\t{sessions.item_tokens[item]}\t{number_text(time)}\n"


# ------------------------------------------------------------------------------------------- all of it


def prepare_sessions(
    name,
    source,
    input_format,
    out_dir="dataset",
    meta=None,
    min_item=None,
    valid_share=0.1,
    test_share=None,
    test_sessions=None,
    prefixes=False,
    shortest=0.2,
    force=False,
    show_progress=True,
    parquet=False,
):
    """Write the split files of a session data set; for raw data also ``.inter`` and, where texts are known, ``.item``.

    The latest sessions are the test part, those before them the validation part. Raw data are filtered first; items
    that training lacks are then removed from the other parts. Nothing is removed from ``atomic-sessions`` unless
    ``min_item`` says so, and nothing from ``pickled-sessions``: they come filtered, and their test part is to stay what
    it is.

    Args:
        name (str): name of the data set; counts in its yaml must come out.
        source (str or Path): file of Amazon reviews, folder of Instacart, an atomic ``.inter`` file, or the folder of
            ``train.txt`` and ``test.txt``.
        input_format (str): one of ``SESSION_FORMATS``.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        meta (str or Path, optional): Amazon's metadata lines.
        min_item (int, optional): least occurrences of an item, by default 5, for ``atomic-sessions`` 0.
        valid_share (float): share of the sessions before the test part that is for validation.
        test_share (float, optional): share of the sessions that is for test, by default 0.1.
        test_sessions (int, optional): their number, instead of ``test_share``.
        prefixes (bool): make every item but the first of a session a target; otherwise the last one only. Pickled
            files have to hold them already.
        shortest (float): share of the shortest Instacart orders that is kept.
        force (bool): replace existing files.
        show_progress (bool): show bytes read.
        parquet (bool): write files of interactions as ``.inter.parquet``, with the same columns.

    Returns:
        dict: ``users`` (sessions), ``items`` and ``interactions`` (examples) of the split files together, as RecBole
        counts them.

    Raises:
        UsageError: for anything the user can repair. Nothing is written then.
    """
    kind = _checked_format(input_format, meta, test_share=test_share, test_sessions=test_sessions, min_item=min_item)
    _check_shares(valid_share, test_share, shortest)
    raw = RawSessions(Path(source), meta, dataset_properties(name), prefixes, shortest, show_progress)
    if parquet:
        require_pyarrow()
    part_names = raw.properties.get("benchmark_filename", PARTS)
    target = target_file(name, out_dir, force, f".{part_names[0]}.inter")
    sessions, n_test = kind.read(raw)
    _check_tokens(raw.source, sessions.item_tokens)
    sessions = _filtered(sessions, kind, min_item)
    parts = _split(sessions, valid_share, test_share, test_sessions if n_test is None else n_test)
    if not kind.is_filtered:
        sessions, parts = drop_unseen(sessions, parts)
    counts = _example_counts(sessions, prefixes)
    check_counts(name, counts, raw.properties.get("expected_counts"))
    tables = _split_tables(sessions, parts, part_names, prefixes)
    tables.update(_other_tables(sessions, kind, raw))
    ends = {suffix: PARQUET if parquet and suffix.endswith("inter") else "" for suffix in tables}
    write_all({target.with_name(f"{name}.{suffix}{ends[suffix]}"): lines for suffix, lines in tables.items()})
    return counts


def _checked_format(input_format, meta, **of_other_formats):
    """The SessionFormat of that name; raises UsageError for options that it does not have."""
    require_format(input_format, SESSION_FORMATS)
    kind = SESSION_FORMATS[input_format]
    if meta is not None and not kind.takes_meta:
        takers = " or ".join(f"--format={name}" for name, other in SESSION_FORMATS.items() if other.takes_meta)
        raise UsageError(f"--meta belongs to {takers}, leave it out")
    given = [option for option, value in of_other_formats.items() if value is not None]
    if kind.has_test_part and given:
        raise UsageError(f"pickled sessions come filtered, with their test part: leave out --{given[0]}")
    return kind


def _check_shares(valid_share, test_share, shortest):
    for option, share in (("valid_share", valid_share), ("test_share", test_share), ("shortest", shortest)):
        if share is not None and not 0 < share < 1 and not (option == "shortest" and share == 1):
            raise UsageError(f"--{option}={share} must lie between 0 and 1")


def _filtered(sessions, kind, min_item):
    """Raw data always lose their sessions of one item, filtered ones lose nothing unless ``min_item`` says so."""
    if min_item is None:
        min_item = 0 if kind.is_filtered else 5
    return filter_sessions(sessions, min_item) if min_item or not kind.is_filtered else sessions


def _split(sessions, valid_share, test_share, n_test):
    """Part of every session, see :func:`recbole_diffusion.prepare.sessions.split_sessions`."""
    if n_test is None:
        n_test = round(len(sessions) * (0.1 if test_share is None else test_share))
    n_before = len(sessions) - n_test
    return split_sessions(sessions, n_before - round(n_before * (1 - valid_share)), n_test)


def _split_tables(sessions, parts, names, prefixes):
    """{suffix: lines} of the split files."""
    return {
        f"{name}.inter": example_lines(sessions, np.flatnonzero(parts == number), prefixes)
        for number, name in enumerate(names)
    }


def _other_tables(sessions, kind, raw):
    """{suffix: lines} of the files beside the split: item texts, all rows of raw data, settings of a new data set."""
    tables = {}
    items = kind.items(raw, [sessions.item_tokens[item] for item in pd.unique(sessions.items)])
    if items is not None:
        tables["item"] = items
    if not kind.is_filtered:
        tables["inter"] = _inter_lines(sessions)
    if not raw.properties:
        tables["yaml"] = [_SETTINGS]
    return tables


def _check_tokens(path, tokens):
    for token in tokens:
        if token.split() != [token] or '"' in token:
            raise UsageError(
                f"'{path}': the item {token!r} is empty or holds blanks or quote marks, which lists cannot"
            )


def _example_counts(sessions, prefixes):
    lengths = np.bincount(sessions.numbers)
    several = lengths >= 2
    examples = (lengths[several] - 1).sum() if prefixes else several.sum()
    return {
        "users": int(several.sum()),
        "items": len(np.unique(sessions.items[several[sessions.numbers]])),
        "interactions": int(examples),
    }
