"""The command ``recbole-diffusion prepare``: rows, sessions and published archives."""

import shlex
import sys
from pathlib import Path

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.archives import download
from recbole_diffusion.prepare.columns import ROLES
from recbole_diffusion.prepare.raw_formats import TABLE_FORMATS
from recbole_diffusion.prepare.raw_lines import require_format
from recbole_diffusion.prepare.raw_rows import FORMATS
from recbole_diffusion.prepare.sequences import prepare
from recbole_diffusion.prepare.session_formats import SESSION_FORMATS
from recbole_diffusion.prepare.session_splits import prepare_sessions
from recbole_diffusion.prepare.table_header import SEPARATORS, TableOptions

SESSION_OPTIONS = ("valid_share", "test_share", "test_sessions", "prefixes", "shortest")


def add_arguments(parser):
    """Add the arguments of ``recbole-diffusion prepare`` to an argparse parser."""
    formats = ", ".join([*TABLE_FORMATS, *FORMATS, *SESSION_FORMATS])
    parser.add_argument("name", help="name of the data set, e.g. beauty")
    parser.add_argument(
        "--source", help="raw file (plain or .gz), or the folder of MovieLens, Instacart or pickled sessions"
    )
    parser.add_argument("--format", dest="input_format", help=f"one of {formats} (default: recognised)")
    _add_table_arguments(parser.add_argument_group("tables with a header (--format=csv|parquet)"))
    parser.add_argument("--meta", help="metadata of the items: Amazon's JSON lines, movies.dat or movies.csv")
    parser.add_argument(
        "--out", "--data_path", dest="out", default="dataset", help="folder of the data sets (default: dataset)"
    )
    parser.add_argument(
        "--to", choices=("text", "parquet"), default="text", help="how interactions are written (default: text)"
    )
    parser.add_argument("--min_user", type=int, help="least number of rows of a user (default: the data set's yaml)")
    parser.add_argument("--min_item", type=int, help="least number of rows of an item (default: the data set's yaml)")
    parser.add_argument("--download", action="store_true", help="fetch RecBole's published archive instead")
    parser.add_argument("--url", help="address of a zip archive of atomic files, with --download")
    parser.add_argument("--sha256", help="checksum that the archive must have, with --download")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    _add_session_arguments(parser.add_argument_group(f"session data (--format={'|'.join(SESSION_FORMATS)})"))


def _add_table_arguments(group):
    for role in ROLES:
        why = "optional" if role == "rating" else "guessed where the header leaves no doubt"
        group.add_argument(f"--{role}", help=f"name of the column of the {role} ({why})", metavar="COLUMN")
    group.add_argument("--separator", help=f"one character or {', '.join(SEPARATORS.values())} (default: guessed)")
    group.add_argument("--encoding", help="of the text file (default: utf-8)")
    group.add_argument("--time_format", help="of dates that are not ISO, such as %%d/%%m/%%Y", metavar="FORMAT")


def _add_session_arguments(group):
    group.add_argument("--valid_share", type=float, help="share of the sessions before the test part (default: 0.1)")
    group.add_argument("--test_share", type=float, help="share of the latest sessions for test (default: 0.1)")
    group.add_argument("--test_sessions", type=int, help="number of the latest sessions for test, instead of a share")
    group.add_argument("--prefixes", action="store_true", default=None, help="every item but the first is a target")
    group.add_argument("--shortest", type=float, help="share of the shortest Instacart orders to keep (default: 0.2)")


def main(args):
    """Run ``recbole-diffusion prepare`` with parsed arguments; returns the exit code 0, raises UsageError."""
    if args.download:
        if args.source:
            raise UsageError("--source and --download exclude each other, give one of them")
        if args.to != "text":
            raise UsageError("--to=parquet is for raw files, an archive is unpacked as it is: leave it out")
        download(args.name, args.out, args.url, args.sha256, args.force)
    else:
        counts = _prepare_source(args)
        print(f"{args.name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    _print_files_and_next_commands(args.name, args.out)
    return 0


def _prepare_source(args):
    """Counts of what was written from ``--source``."""
    if not args.source:
        raise UsageError(f"prepare {args.name} needs --source=PATH of a raw file, or --download")
    if args.url or args.sha256:
        raise UsageError("--url and --sha256 belong to --download, add it or leave them out")
    if args.input_format is not None:
        require_format(args.input_format, (*TABLE_FORMATS, *FORMATS, *SESSION_FORMATS))
    return (_prepare_sessions if args.input_format in SESSION_FORMATS else _prepare_rows)(args)


def _session_options(args):
    """{name: value} of the options of session data that were given."""
    return {name: getattr(args, name) for name in SESSION_OPTIONS if getattr(args, name) is not None}


def _prepare_rows(args):
    options = _session_options(args)
    if options:
        formats = ", ".join(SESSION_FORMATS)
        raise UsageError(f"--{next(iter(options))} belongs to session data, name the --format: one of {formats}")
    return prepare(
        args.name,
        args.source,
        args.out,
        args.input_format,
        args.meta,
        args.min_user,
        args.min_item,
        args.force,
        sys.stderr.isatty(),
        options=_table_options(args),
        say=_say,
        parquet=args.to == "parquet",
    )


def _table_options(args):
    columns = {role: getattr(args, role) for role in ROLES if getattr(args, role) is not None}
    return TableOptions(columns, args.separator, args.encoding or "utf-8", args.time_format)


def _say(line):
    print(line, file=sys.stderr if line.startswith("warning: ") else sys.stdout)


def _prepare_sessions(args):
    if _table_options(args):
        raise UsageError(f"--format={args.input_format} has columns of its own: leave out --user, --item and the like")
    if args.min_user is not None:
        raise UsageError("--min_user is for other formats: sessions of one item are always left out")
    return prepare_sessions(
        args.name,
        args.source,
        args.input_format,
        args.out,
        args.meta,
        args.min_item,
        force=args.force,
        show_progress=sys.stderr.isatty(),  # no bars in files
        parquet=args.to == "parquet",
        **_session_options(args),
    )


def _print_files_and_next_commands(name, out):
    folder = Path(out) / name
    print(f"files in {folder}: {', '.join(sorted(path.name for path in folder.glob(f'{name}.*')))}")
    place = "" if out == "dataset" else f" --data_path={shlex.quote(out)}"
    print(f"check: recbole-diffusion check-data {name}{place}")
    print(f"train: recbole-diffusion run --model=SASRec --dataset={name}{place}")
