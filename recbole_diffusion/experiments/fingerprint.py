"""What a run depends on, as short hashes: settings, code, data. A change of any of them is a new run."""

import hashlib
import inspect
import json
from functools import cache
from pathlib import Path

import recbole

import recbole_diffusion
from recbole_diffusion.data.features import KINDS, features_file
from recbole_diffusion.data.item_table import item_file
from recbole_diffusion.data.pseudo_items import augmented_file
from recbole_diffusion.settings.free import PLACES

DIGITS = 10
PACKAGE = Path(recbole_diffusion.__file__).parent
CANNOT_CHANGE_A_NUMBER = (
    *("api", "atlas", "augment", "commands", "experiments", "prepare", "reports", "serving", "testing"),
    *("__main__.py", "cli.py", "doctor.py", "old_recommend.py"),
)


def fingerprint(config):
    """Hashes of what a run depends on, all defaults included; of other packages' versions, RecBole's only.

    Args:
        config (DiffusionConfig): settings of a run.

    Returns:
        dict[str, str | None]: ten hex digits each for ``settings``, ``code``, ``data`` and ``all`` of them; None for
        ``data`` where its files are not on this machine.
    """
    parts = {"settings": settings_hash(config), "code": code_hash(config), "data": data_hash(config)}
    return {**parts, "all": short_hash(json.dumps(parts, sort_keys=True).encode())}


def settings_hash(config):
    """Hash of the settings without those that name a place, and without those that are not set, so that a new setting
    that is off by default makes no kept run unknown."""
    settings = {key: value for key, value in config.plain().items() if key not in PLACES and value is not None}
    content = {"model": config["model"], "dataset": config["dataset"], "settings": settings}
    return short_hash(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def code_hash(config):
    """Hash of the versions and of the sources: the package's, and the model's file where it comes from elsewhere."""
    source = Path(inspect.getfile(config.model_class))
    foreign = [] if source.is_relative_to(PACKAGE) or source.is_relative_to(Path(recbole.__file__).parent) else [source]
    versions = f"{recbole_diffusion.__version__} {recbole.__version__}"
    return short_hash("\n".join([versions, *map(source_hash, [*package_sources(), *foreign])]).encode())


@cache
def package_sources():
    """Files of the package that can change a number."""
    files = (path for path in sorted(PACKAGE.rglob("*.py")))
    return tuple(path for path in files if path.relative_to(PACKAGE).parts[0] not in CANNOT_CHANGE_A_NUMBER)


@cache
def source_hash(path):
    """Hash of one source file as it was when this process first asked, which is what it runs."""
    return short_hash(path.name.encode() + path.read_bytes())


def data_hash(config):
    """Hash of the names and contents of the data files, wherever they lie and whenever they were written, or None."""
    hashes = [f"{name} {content_hash(*file_state(path))}" for name, path in sorted(data_files(config).items())]
    return short_hash("\n".join(hashes).encode()) if hashes else None


def data_files(config):
    """Name -> path of every file that the settings load: atomic files, and files that settings name."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = [f"{part}.inter" for part in config["benchmark_filename"] or []] or ["inter"]
    others = [*(config["load_col"] or {}), *(config["additional_feat_suffix"] or [])]
    candidates = [folder / f"{name}.{part}{end}" for part in [*parts, *others] for end in ("", ".parquet")]
    candidates += [features_file(folder.parent, name, kind) for kind, (key, *_) in KINDS.items() if config[key] == "auto"]
    if config["attribute"] or config["factors"] or config["price_column"] not in (None, "none"):
        candidates.append(item_file(folder, name))
    if config["augmented"]:
        candidates.append(augmented_file(config))
    words = [value for key, value in config.plain().items() if isinstance(value, str) and value and key not in PLACES]
    candidates += [place / word for word in words for place in (folder, Path())]
    return {path.name: path for path in candidates if is_file(path)}


def is_file(path):
    """``Path.is_file``, also for words that cannot be names of files."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def file_state(path):
    """Arguments under which :func:`content_hash` remembers a file."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@cache
def content_hash(path, size, changed):
    """Hash of a file's bytes; it is read again only when its size or its time of change is another."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def short_hash(content):
    """Some hex digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]
