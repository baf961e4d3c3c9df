"""Prepared data kept on disk (``data_cache``), for the next run and for other processes of the machine."""

import copy
import functools
import hashlib
import logging
import shutil
from pathlib import Path

import numpy
import pandas
import recbole
import torch
from recbole.data.dataset import SequentialDataset

from recbole_diffusion import processes
from recbole_diffusion.data.build import stock_class
from recbole_diffusion.data.cache import ABSENT, WatchedConfig, asked_by_model
from recbole_diffusion.data.dataset import SequenceDataset
from recbole_diffusion.data.kept_files import (
    cache_folder,
    entries,
    hash_file,
    hash_json,
    read_arrays,
    read_meta,
    shrink,
    write_entry,
)
from recbole_diffusion.data.plain_state import CannotKeepError, Packer, Unpacker
from recbole_diffusion.settings.leaks import leaking_setting

SMALLEST = 2**24  # bytes of files below which data are prepared in about a second
PLACES = ("data_path", "data_cache", "data_cache_gb")  # read, but not part of the data
OWN = ("config", "logger", "dataset_path", "field2token_id")  # of the process, or found again from the rest


class LogKeeper(logging.Handler):
    """Lines of the log while data are prepared, which a later run says again."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines = []

    def emit(self, record):
        self.lines.append([record.levelno, record.getMessage()])


def kept_or_made(config, make):
    """Prepared data, from disk where they are kept.

    Which settings matter is watched, see :class:`recbole_diffusion.data.cache.DataCache`. Kept data are used only if all
    of these are the same: every byte of the data files, every byte that was kept, every setting that was read while the
    data were made, and the code and the libraries that made them.

    Args:
        config (DiffusionConfig): settings.
        make (callable): takes a configuration, returns ``(dataset, counts, parts)``.

    Returns:
        tuple: as of ``make``.
    """
    files = data_files(config)
    if not is_for(config) or sum(path.stat().st_size for path in files) < SMALLEST:
        return make(config)
    folder = cache_folder(config["data_cache"], config["data_path"])
    place = origin(config, files)
    found = find(folder, config, place)
    if found:
        return found
    read, log, logger = {}, LogKeeper(), logging.getLogger()
    logger.addHandler(log)
    try:
        made = make(WatchedConfig(config, read))
    finally:
        logger.removeHandler(log)
    try:
        if processes.is_first() and origin(config, files) == place:  # nobody wrote to the files meanwhile
            keep(folder, config, {"origin": place, "log": log.lines}, read, made)
    except CannotKeepError as error:
        logger.info(f"data_cache: these data are not kept, they hold values of type {error}")
    except OSError as error:
        reason = error.strerror or str(error)
        tell = logger.warning if folder.exists() or config["data_cache"] != "auto" else logger.info
        tell(f"data_cache: nothing is kept in '{folder}': {reason}")
    for data in (made[0], *made[2]):
        data.config = config
    return made


def is_for(config):
    """Whether data with these settings are kept: those of the package's own class that stand in their files alone."""
    leaks = leaking_setting(config.final_config_dict)
    own = stock_class(config) is SequentialDataset
    return config["data_cache"] not in (None, "none") and own and not config["augmented"] and not leaks


def data_files(config):
    """Paths of the files that a data set may be read from, in the order of their names."""
    folder, name = Path(config["data_path"]), config["dataset"]
    kinds = [f"{part}.inter" for part in config["benchmark_filename"] or []] or ["inter"]
    kinds += ["user", "item", *(config["additional_feat_suffix"] or [])]
    paths = [folder / f"{name}.{kind}{end}" for kind in kinds for end in ("", ".parquet")]
    return sorted(path for path in paths if path.is_file())


def origin(config, files):
    """What data were made from besides settings: files, code and libraries, and what the data set knows of the model."""
    return {
        "dataset": config["dataset"],
        "files": {path.name: hash_file(path) for path in files},
        "code": code_hash(),
        "libraries": [module.__version__ for module in (recbole, numpy, pandas, torch)],
        "model": list(asked_by_model(config)),
    }


@functools.cache
def code_hash():
    """Hash of the code that prepares data."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def keep(folder, config, meta, read, made):
    """Write an entry, and delete older ones beyond the limit. Raises OSError, CannotKeepError."""
    dataset, counts, parts = made
    if type(dataset) is not SequenceDataset:
        raise CannotKeepError(type(dataset).__name__)
    packer = Packer()
    whole, states = vars(dataset), []
    for data in (dataset, *parts):
        own = {k: v for k, v in vars(data).items() if k not in OWN and (data is dataset or v is not whole.get(k, ABSENT))}
        states.append({name: packer.pack(value) for name, value in own.items()})
    settings = {key: described(value) for key, value in read.items() if key not in PLACES}
    meta = {**meta, "settings": settings, "counts": dict(counts), "states": states}
    size, limit = sum(array.nbytes for array in packer.arrays), config["data_cache_gb"] * 2**30
    logger = logging.getLogger()
    if size > limit:
        logger.info(f"data_cache: these data take {size / 2**30:.1f} GB, data_cache_gb allows {config['data_cache_gb']}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        raise OSError(f"{size / 2**30:.1f} GB are needed, {free / 2**30:.1f} GB are free")
    name = f"{config['dataset']}-{hash_json([meta['origin'], settings])}"
    if read_meta(folder / name) is None:  # damaged, or not there
        shutil.rmtree(folder / name, ignore_errors=True)
    write_entry(folder, name, meta, packer.arrays)
    shrink(folder, limit)
    logger.info(f"data_cache: prepared data are kept in '{folder / name}'")


def find(folder, config, place):
    """The prepared data of an entry in a folder that has this origin and these settings, or None."""
    for entry in entries(folder, config["dataset"]):
        meta = read_meta(entry)
        if meta is None or meta.get("origin") != place or not all(
            fits(config, key, value) for key, value in meta["settings"].items()
        ):
            continue
        arrays = read_arrays(entry, meta)
        if arrays is None:
            logging.getLogger().info(f"data_cache: '{entry}' is damaged and deleted")
            shutil.rmtree(entry, ignore_errors=True)
            continue
        logging.getLogger().info(f"data_cache: prepared data are taken from '{entry}'")
        for level, line in meta["log"]:
            logging.getLogger().log(level, line)
        return restored(config, meta, Unpacker(arrays))
    return None


def restored(config, meta, unpacker):
    """``(dataset, counts, parts)`` of an entry."""
    whole, *others = [{k: unpacker.unpack(v) for k, v in state.items()} for state in meta["states"]]
    dataset = SequenceDataset.__new__(SequenceDataset)
    vars(dataset).update(whole, config=config, logger=logging.getLogger(), dataset_path=config["data_path"])
    numbers = {}  # fields of one alias share their tokens
    for tokens in dataset.field2id_token.values():
        if id(tokens) not in numbers:
            numbers[id(tokens)] = dict(zip(tokens.tolist(), range(len(tokens))))
    dataset.field2token_id = {field: numbers[id(tokens)] for field, tokens in dataset.field2id_token.items()}
    parts = []
    for own in others:
        part = copy.copy(dataset)
        vars(part).update(own)
        parts.append(part)
    return dataset, meta["counts"], parts


def described(value):
    """A setting as JSON. Raises CannotKeepError for one that is an object."""
    if value is ABSENT:
        return None
    packer = Packer()
    found = packer.pack(value)
    if packer.arrays:
        raise CannotKeepError("array, as a setting")
    return found


def fits(config, key, stated):
    """Whether a setting has the value that was read when data were made."""
    try:
        return described(config[key] if key in config else ABSENT) == stated
    except CannotKeepError:
        return False
