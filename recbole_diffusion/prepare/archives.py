"""RecBole's published archives of atomic files: fetched, checked and unpacked."""

import hashlib
import importlib.util
import os
import stat
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import urlopen

from tqdm import tqdm

from recbole_diffusion.errors import UsageError, did_you_mean
from recbole_diffusion.files import make_folder
from recbole_diffusion.prepare.atomic_files import target_file
from recbole_diffusion.settings.properties import load_yaml

# Our names of RecBole's published archives; other names are looked up as they are.
ARCHIVE_NAMES = {"beauty": "amazon-beauty", "toys": "amazon-toys-games", "sports": "amazon-sports-outdoors"}
ATOMIC_SUFFIXES = (".inter", ".item", ".user", ".kg", ".link", ".net")
_BLOCK = 1 << 16


def recbole_folder():
    """Folder of the installed RecBole, found without importing it. Raises UsageError when it is not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None:
        raise UsageError("RecBole is not installed, run: pip install recbole==1.2.1")
    return Path(next(iter(spec.submodule_search_locations)))


def archive_url(name):
    """Address of RecBole's published archive of a data set. Raises UsageError for a name not in RecBole's list."""
    known = load_yaml(recbole_folder() / "properties" / "dataset" / "url.yaml")
    theirs = ARCHIVE_NAMES.get(name, name)
    if theirs not in known:
        hint = did_you_mean(name, [*known, *ARCHIVE_NAMES])
        raise UsageError(f"RecBole publishes no archive named '{name}'{hint}; name its address with --url=")
    return known[theirs]


def _fetch(url, path, timeout, show_progress):
    """Stream ``url`` to ``path``; returns its sha256 in hexadecimal. Raises OSError or HTTPException."""
    digest = hashlib.sha256()
    with urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=url, disable=not show_progress) as bar:
            for block in iter(lambda: response.read(_BLOCK), b""):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
            received = file.tell()
    if received < size:  # urllib ends a broken transfer silently
        raise OSError(f"only {received} of {size} bytes arrived")
    return digest.hexdigest()


def _members(archive, url):
    """The atomic files of an open zip archive. Raises UsageError when a member would land outside its folder."""
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise UsageError(f"the archive of {url} holds '{member.filename}', outside its folder: it is not unpacked")
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if path.suffix in ATOMIC_SUFFIXES and not hidden and not member.is_dir():
            yield member, path.name


def _new_name(file_name, stem, name):
    """``<stem>.train.inter`` becomes ``<name>.train.inter``; of any other file only the suffix is kept."""
    rest = file_name[len(stem) :] if file_name.startswith(stem + ".") else PurePosixPath(file_name).suffix
    return name + rest


def _unpack(zip_path, folder, name, url):
    """Unpack the atomic files as ``<folder>/<name>.*``; returns their paths, .inter last."""
    stem = PurePosixPath(urlsplit(url).path).stem
    with zipfile.ZipFile(zip_path) as archive:
        paths = []
        for member, file_name in list(_members(archive, url)):
            path = folder / _new_name(file_name, stem, name)
            if path in paths:
                raise UsageError(f"the archive of {url} holds more than one file for '{path.name}', unzip it by hand")
            with archive.open(member) as packed, open(path, "wb") as file:
                file.writelines(iter(lambda: packed.read(_BLOCK), b""))
            paths.append(path)
    if not any(path.suffix == ".inter" for path in paths):
        raise UsageError(f"the archive of {url} holds no .inter file, use another --url or `prepare` on the raw files")
    return sorted(paths, key=lambda path: path.suffix == ".inter")


def download(name, out_dir="dataset", url=None, sha256=None, force=False, timeout=60, show_progress=True):
    """Fetch RecBole's published archive and unpack it to ``<out_dir>/<name>/<name>.*``.

    The archives of beauty, toys and sports are the unfiltered ratings: the filter in
    ``properties/dataset/<name>.yaml`` is applied each time the data are loaded.

    Args:
        name (str): name of the data set, ours or RecBole's.
        out_dir (str or Path): folder in which the folder ``<name>`` is made.
        url (str): address of a zip archive; None takes it from RecBole's list.
        sha256 (str): checksum that the archive must have, hexadecimal; None checks nothing.
        force (bool): replace existing files.
        timeout (float): seconds without an answer after which the attempt ends.
        show_progress (bool): show bytes received.

    Returns:
        list[pathlib.Path]: the files written.

    Raises:
        UsageError: when the name is unknown, the network refuses, the checksum differs, the archive is broken or
            would write outside its folder, or the target exists. Existing files are left as they were.
    """
    target = target_file(name, out_dir, force)
    url = url or archive_url(name)
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"url '{url}' must start with http:// or https://")
    make_folder(out_dir, "--out")
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as folder:
        folder = Path(folder)
        zip_path = folder / "archive.zip"
        try:
            found = _fetch(url, zip_path, timeout, show_progress)
        except (OSError, HTTPException) as error:
            raise UsageError(
                f"{url} cannot be downloaded ({error or type(error).__name__}): download it by hand elsewhere and "
                f"unzip it to {target.parent}/ as {name}.*, or use `prepare {name} --source=` on the raw files"
            ) from None
        if sha256 and found != sha256.lower():
            raise UsageError(f"{url} has the sha256 {found} but {sha256} is expected: download it again or ask why")
        try:
            unpacked = _unpack(zip_path, folder, name, url)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise UsageError(f"{url} is not a zip archive that can be read ({error}), try another --url") from None
        make_folder(target.parent, "--out")
        written = [target.parent / path.name for path in unpacked]
        for path, final in zip(unpacked, written):
            os.replace(path, final)
        return written
