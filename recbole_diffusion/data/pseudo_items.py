"""Generated items that stand before the histories of users: the file that keeps them, and how they get into the data.

The file is a NumPy archive (``.npz``) without pickle, with the arrays ``users`` (text, [U]), ``tokens`` (text, all items
of the data set), ``items`` (int32, [U, M], places in ``tokens``, the earliest first) and ``meta`` (a JSON text that says
what made it). ``recbole-diffusion augment`` writes such files.
"""

import hashlib
import json
import shlex
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.data.examples import HISTORY_START, PSEUDO_LENGTH, TARGET, USER_START
from recbole_diffusion.errors import UsageError
from recbole_diffusion.files import written_whole
from recbole_diffusion.settings.properties import own_copies
from recbole_diffusion.settings.recbole_files import recbole_folder

SUFFIX = ".augmented.npz"


@dataclass(frozen=True)
class PseudoItems:
    """What a file holds.

    Attributes:
        users (np.ndarray): [U] tokens of users.
        tokens (np.ndarray): [V] tokens of items.
        items (np.ndarray): [U, M] places in ``tokens``, the earliest item first.
        meta (dict): JSON values: ``dataset``, ``histories`` (see :func:`histories_hash`), ``fingerprint``, ``settings``
            and figures of the generation.
    """

    users: np.ndarray
    tokens: np.ndarray
    items: np.ndarray
    meta: dict

    @property
    def leaks(self):
        """Whether validation items were seen when these items were made."""
        return self.meta["settings"].get("guide_from", "train") != "train"


# Files


def default_file(data_path, dataset):
    """Default place of a data set's pseudo items (pathlib.Path); the file need not exist."""
    return Path(data_path) / dataset / f"{dataset}{SUFFIX}"


def augmented_file(config):
    """The file that the setting ``augmented`` names (pathlib.Path), or None. ``auto`` is the default place."""
    choice = config["augmented"]
    if not choice:
        return None
    return default_file(own_folder(config), config["dataset"]) if choice == "auto" else Path(choice)


def own_folder(config):
    """Folder of the data sets, or ``dataset`` where the data come with RecBole or this package (pathlib.Path)."""
    folder, name = Path(config["data_path"]).parent, config["dataset"]
    packaged = own_copies(name)
    if name == "ml-100k" and recbole_folder():
        packaged.append(recbole_folder() / "dataset_example")
    return Path("dataset") if folder.resolve() in [place.resolve() for place in packaged] else folder


def save_pseudo_items(path, pseudo):
    """Write a file, whole or not at all. Raises UsageError when it cannot be written."""
    arrays = {"users": pseudo.users, "tokens": pseudo.tokens, "items": pseudo.items.astype(np.int32)}
    with written_whole(path, binary=True) as file:
        np.savez_compressed(file, **arrays, meta=np.str_(json.dumps(pseudo.meta)))


def read_pseudo_items(path, command="recbole-diffusion augment NAME"):
    """What a file holds.

    Args:
        path (str or Path): the file.
        command (str): what makes it, for the message.

    Returns:
        PseudoItems

    Raises:
        UsageError: when the file is missing, or is no such file.
    """
    if not Path(path).is_file():
        raise UsageError(f"augmented file '{path}' does not exist: make it with '{command}'")
    try:
        with np.load(path, allow_pickle=False) as archive:
            users, tokens, items = (archive[name] for name in ("users", "tokens", "items"))
            meta = json.loads(str(archive["meta"]))
        whole = users.dtype.kind == tokens.dtype.kind == "U" and items.dtype.kind == "i" and items.ndim == 2
        whole = whole and len(items) == len(users) and (not items.size or 0 <= items.min() <= items.max() < len(tokens))
        if not whole or not all(isinstance(meta[key], str) for key in ("dataset", "histories", "fingerprint")):
            raise ValueError
        return PseudoItems(users, tokens, items, {**meta, "settings": dict(meta["settings"])})
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise UsageError(f"'{path}' is no file of pseudo items, or it is damaged: make one with '{command}'") from None


def command_for(config):
    """The command that makes the pseudo items of a data set, as text."""
    return f"recbole-diffusion augment {config['dataset']}{place_of(config)}"


def place_of(config):
    """`` --data_path=FOLDER`` for commands, or nothing where it is the default."""
    folder = str(own_folder(config))
    return "" if folder == "dataset" else f" --data_path={shlex.quote(folder)}"


def histories_hash(train):
    """Hash of what a generator may see: users, items and their order in the training part, whatever their numbers.

    Args:
        train (SequenceDataset): the training part.

    Returns:
        str: hexadecimal digits.
    """
    items, lengths, users = train.sessions(whole=True)
    digest, columns = hashlib.sha256(), []
    for field, numbers in ((train.uid_field, users), (train.iid_field, items)):
        names = train.field2id_token[field][1:].astype(str)
        digest.update("\n".join(np.sort(names)).encode() + b"\0")
        place = np.empty(len(names) + 1, dtype=np.int64)
        place[1 + np.argsort(names)] = np.arange(len(names))
        columns.append(place[numbers.numpy()])
    order, lengths = np.argsort(columns[0], kind="stable"), lengths.numpy()
    ends = lengths.cumsum()
    inside = np.arange(lengths.sum()) - np.repeat((lengths[order].cumsum() - lengths[order]), lengths[order])
    cells = np.repeat((ends - lengths)[order], lengths[order]) + inside
    for values in (columns[0][order], lengths[order], columns[1][cells]):
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()


# Data


def augmented_parts(parts):
    """The parts of a data set with the pseudo items of ``augmented`` before the histories of training, or of all parts.

    Pseudo items are never targets, and nothing that counts or masks items sees them: a user still starts where the first
    real item stands. The longest history is as long as before, so that long ones lose their pseudo items first.

    Args:
        parts (list[SequenceDataset]): training, validation and test; they stay as they are.

    Returns:
        list[SequenceDataset]: the training part has the attribute ``augmented``, what results say of the file.

    Raises:
        UsageError: ready-made splits, a missing or foreign file.
    """
    train = parts[0]
    config = train.config
    if train.benchmark_filename_list is not None:
        raise UsageError("augmented needs whole users, ready-made splits (benchmark_filename) have rows: remove it")
    path, command = augmented_file(config), command_for(config)
    pseudo = read_pseudo_items(path, command)
    check_origin(pseudo, train, path, command)
    everywhere = config["augmented_parts"] == "all"
    changed = [with_pseudo_items(part, pseudo) if part is train or everywhere else part for part in parts]
    settings = pseudo.meta["settings"]
    changed[0].augmented = {
        "file": str(path),
        "fingerprint": pseudo.meta["fingerprint"],
        "users": len(pseudo.users),
        "pseudo_length": pseudo.items.shape[1],
        "guide_from": settings.get("guide_from"),
        "leaks": pseudo.leaks,
    }
    if pseudo.leaks:
        train.logger.warning(f"'{path}' LEAKS: its pseudo items were made from validation items; results are marked")
    return changed


def check_origin(pseudo, train, path, command):
    """Raise UsageError when pseudo items were made from other training histories than those of a training part."""
    name, made_for = train.dataset_name, pseudo.meta["dataset"]
    if made_for != name:
        raise UsageError(
            f"augmented file '{path}' is of data set '{made_for}', not of '{name}': make it with '{command}'"
        )
    own = train.field2id_token[train.iid_field][1:].astype(str)
    strange = np.setdiff1d(pseudo.tokens, own)
    if len(strange) or len(pseudo.tokens) != len(own):
        example = f", such as '{strange[0]}'" if len(strange) else ""
        raise UsageError(
            f"augmented file '{path}' is of other items ({len(pseudo.tokens)}{example}) than data set '{name}' has now "
            f"({len(own)}): make another with '{command} --force'"
        )
    if pseudo.meta["histories"] != histories_hash(train):
        raise UsageError(
            f"augmented file '{path}' was made from other training histories than those of '{name}' now, by other "
            f"filters, another split or other data: make another with '{command} --force'"
        )


def with_pseudo_items(part, pseudo):
    """A copy of a part whose histories begin with the pseudo items of their users.

    Args:
        part (SequenceDataset): of the plugin's class.
        pseudo (PseudoItems): of this data set.

    Returns:
        SequenceDataset: its rows have the column ``pseudo_length``, how many of the items in the history are pseudo.
    """
    rows, n_cells = part.inter_feat, len(part.flat[part.iid_field])
    numbers, width = part.field2token_id[part.uid_field], pseudo.items.shape[1]
    row_of_user = np.full(len(numbers), -1)
    row_of_user[[numbers[user] for user in pseudo.users.tolist()]] = np.arange(len(pseudo.users))
    users, first = np.unique(rows[part.uid_field].numpy(), return_index=True)
    starts, source = rows[USER_START].numpy()[first], row_of_user[users]
    starts, source = starts[source >= 0], source[source >= 0]

    added = np.zeros(n_cells, dtype=np.int64)
    added[starts] = width
    # A pseudo item is a copy of what it stands before, with another item.
    cells = torch.from_numpy(np.repeat(np.arange(n_cells), 1 + added))
    shift = added.cumsum()
    places = (starts + shift[starts])[:, None] + np.arange(-width, 0)
    item_number = part.field2token_id[part.iid_field]
    items = np.array([item_number[token] for token in pseudo.tokens.tolist()])[pseudo.items[source]]

    changed = part.copy(rows[np.arange(len(rows))])
    changed.flat = {field: values[cells] for field, values in part.flat.items()}
    changed.flat[part.iid_field][torch.from_numpy(places.reshape(-1))] = torch.from_numpy(items.reshape(-1))
    changed.times = part.times[cells.numpy()]

    start, target = rows[USER_START], rows[TARGET]
    moved, real = torch.from_numpy(shift)[start], target - start
    own = torch.from_numpy(added)[start]
    length = (real + own).clamp(max=part.max_item_list_len)
    new = {part.item_list_length_field: length, HISTORY_START: target + moved - length}
    new.update({USER_START: start + moved, TARGET: target + moved, PSEUDO_LENGTH: (length - real).clamp(min=0)})
    changed.inter_feat.update(Interaction(new))
    return changed
