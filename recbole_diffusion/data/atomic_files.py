"""Where the atomic files of a data set are: as text, or as Parquet beside it under the same name and ``.parquet``.

Neither pandas nor RecBole is imported.
"""

import importlib
from pathlib import Path

from recbole_diffusion.errors import UsageError, one_line

PARQUET = ".parquet"
NEEDED = "Parquet files need pyarrow: pip install pyarrow, or the extra [parquet] of this package"


def is_parquet(path):
    """Whether an atomic file is Parquet, by its name."""
    return str(path).endswith(PARQUET)


def find_atomic(folder, file_name):
    """The file of a name in a folder, text or Parquet.

    Args:
        folder (str or Path): of the data set.
        file_name (str): such as ``beauty.inter``.

    Returns:
        Path or None: None where there is neither.

    Raises:
        UsageError: when both are there: one of them may be older, and none can be guessed to be meant.
    """
    text = Path(folder) / file_name
    parquet = text.with_name(file_name + PARQUET)
    if text.is_file() and parquet.is_file():
        raise UsageError(f"'{text}' is there as text and as Parquet ('{parquet.name}'): remove the one that is not meant")
    return next((path for path in (text, parquet) if path.is_file()), None)


def inter_files(folder, pattern="*"):
    """Files of interactions in a folder whose names without ``.inter`` fit a pattern (list of Path), text and Parquet."""
    return [path for end in ("", PARQUET) for path in Path(folder).glob(f"{pattern}.inter{end}")]


def stem_of(path):
    """Name of an atomic file without ``.parquet``, such as ``beauty.inter``."""
    return Path(path).name.removesuffix(PARQUET)


def open_parquet(path):
    """``pyarrow.parquet.ParquetFile`` of a file. Raises UsageError without pyarrow, and for a file that is none."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(NEEDED) from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these types
        raise UsageError(f"'{path}' cannot be read as Parquet: {one_line(error, 200)}") from None
