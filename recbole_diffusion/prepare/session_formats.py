"""The formats of session data: one record for each says how it is read and what belongs to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.prepare.item_texts import item_lines, read_amazon_texts
from recbole_diffusion.prepare.pickled_sessions import read_pickled
from recbole_diffusion.prepare.session_sources import read_amazon, read_atomic, read_instacart, read_instacart_texts


@dataclass(frozen=True)
class RawSessions:
    """Raw session data and how they are to be read.

    Attributes:
        source (Path): file or folder.
        meta (str or Path or None): Amazon's metadata lines.
        properties (dict): settings of the data set.
        prefixes (bool): whether pickled files hold every prefix of a session.
        shortest (float): share of the shortest Instacart orders that is kept.
        show_progress (bool): show bytes read.
    """

    source: Path
    meta: Path
    properties: dict
    prefixes: bool
    shortest: float
    show_progress: bool


def _no_items(raw, items):
    return None


def _amazon_items(raw, items):
    if raw.meta is None:
        return None
    texts = read_amazon_texts(Path(raw.meta), set(items), raw.show_progress, with_images=True)
    return item_lines(raw.meta, items, *texts)


def _instacart_items(raw, items):
    path = raw.source / "products.csv"
    return item_lines(path, items, *read_instacart_texts(path, set(items))) if path.is_file() else None


@dataclass(frozen=True)
class SessionFormat:
    """What makes a format of session data.

    Attributes:
        read (callable): takes a :class:`RawSessions`; returns the :class:`~recbole_diffusion.prepare.sessions.Sessions`
            and, for data with a test part of their own, how many of the last ones it has, else None.
        items (callable): takes a :class:`RawSessions` and the names of items; returns the lines of an ``.item`` file,
            or None where there are no texts.
        is_filtered (bool): the data come filtered, and their test part is to stay what it is.
        has_test_part (bool): which sessions are for test is no question.
        takes_meta (bool): item texts are read from a file that the caller names.
    """

    read: Callable
    items: Callable = _no_items
    is_filtered: bool = False
    has_test_part: bool = False
    takes_meta: bool = False


SESSION_FORMATS = {
    "amazon-sessions": SessionFormat(
        lambda raw: (read_amazon(raw.source, raw.show_progress), None), _amazon_items, takes_meta=True
    ),
    "instacart-sessions": SessionFormat(lambda raw: (read_instacart(raw.source, raw.shortest), None), _instacart_items),
    "atomic-sessions": SessionFormat(lambda raw: (read_atomic(raw.source, raw.properties), None), is_filtered=True),
    "pickled-sessions": SessionFormat(
        lambda raw: read_pickled(raw.source, raw.prefixes), is_filtered=True, has_test_part=True
    ),
}
