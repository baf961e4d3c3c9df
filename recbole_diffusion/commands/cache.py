"""``recbole-diffusion cache``: what prepared data are kept on disk, and away with them."""

import shutil
import time
from pathlib import Path

from recbole_diffusion.data.kept_files import cache_folder, entries, last_use, read_meta, size_of
from recbole_diffusion.errors import UsageError
from recbole_diffusion.settings.properties import default_data_path


def add_arguments(parser):
    """Add the words of ``cache`` to an ``argparse`` parser."""
    parser.description = "Prepared data that are kept on disk for the next run (setting data_cache). All of them can be deleted at any time."
    parser.add_argument("name", nargs="?", help="name of a data set (default: all)")
    parser.add_argument("--data_path", "--data-path", help="folder of the data sets (default: dataset)")
    parser.add_argument("--data_cache", "--data-cache", default="auto", help="folder of the kept data, as the setting (default: auto)")
    parser.add_argument("--clear", action="store_true", help="delete them")


def main(args):
    """Run ``recbole-diffusion cache``; returns 0.

    Args:
        args (argparse.Namespace): see :func:`add_arguments`.

    Raises:
        UsageError: when something cannot be deleted.
    """
    found = [entry for folder in folders(args) for entry in entries(folder, args.name)]
    total = 0
    for entry in found:
        size, used = size_of(entry), time.strftime("%Y-%m-%d %H:%M", time.localtime(last_use(entry)))
        total += size
        print(f"{size / 2**20:8.0f} MB  last used {used}  {entry}{'' if read_meta(entry) else '  (damaged)'}")
        if args.clear:
            try:
                shutil.rmtree(entry)
            except OSError as error:
                raise UsageError(f"'{entry}' cannot be deleted: {error.strerror or error}") from None
    what = f"{len(found)} prepared data set{'' if len(found) == 1 else 's'}, {total / 2**20:.0f} MB"
    print(f"{what}, deleted" if args.clear and found else what)
    return 0


def folders(args):
    """Folders that may hold kept data: the one named, or one beside each data set."""
    if args.data_cache != "auto":
        return [cache_folder(str(Path(args.data_cache).expanduser()), None)]
    place = Path(args.data_path or default_data_path(args.name or "")).expanduser()
    return [cache_folder("auto", folder) for folder in ([place / args.name] if args.name else sorted(place.glob("*")))]
