"""Titles, brands, categories and image links of items: cleaned, and as the lines of an ``.item`` file.

Neither torch, RecBole nor pandas is imported.
"""

import ast
import csv
import html
import json
import re

from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.raw_lines import CONTROL, bad_line, fields, read_lines


def clean_text(text):
    """Text that can stand in an atomic file: entities decoded, control characters and blanks to one space,
    ``"`` to ``''`` because RecBole's reader takes it for a quote. None becomes an empty text."""
    if text is None:
        return ""
    return " ".join(CONTROL.sub(" ", html.unescape(str(text))).split()).replace('"', "''")


def clean_names(names):
    """Names (lists may be nested) as one text: ``_`` inside a name, spaces between names, each name once."""
    if names is None:
        return ""
    if isinstance(names, (list, tuple)):
        words = [word for name in names for word in clean_names(name).split()]
        return " ".join(dict.fromkeys(words))
    return clean_text(names).replace(" ", "_")


def metadata_record(line):
    """One line of Amazon's metadata as a dict with the text 'asin'. Raises ValueError with a reason."""
    try:
        record = json.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line)  # the metadata of 2014 are Python literals; never evaluated as code
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise ValueError("neither JSON nor a Python literal") from None
    if isinstance(record, dict) and "parent_asin" in record:  # of 2023, whose reviews name the parent
        record["asin"] = record["parent_asin"]
    if not isinstance(record, dict) or not isinstance(record.get("asin"), str):
        raise ValueError("an object with the text 'asin' is expected")
    return record


def read_amazon_texts(path, wanted, show_progress=True, with_images=False):
    """Title, brand, categories and, where any item has one, the price of the wanted items of an Amazon metadata file.

    Args:
        path (Path): JSON lines or Python literals, plain or .gz.
        wanted (Container[str]): item names.
        show_progress (bool): show bytes read.
        with_images (bool): the link of the image as a fourth column.

    Returns:
        tuple: header of the columns besides the item, and {item: fields}.

    Raises:
        UsageError: for a file or a line that cannot be read.
    """
    columns = {**_AMAZON_COLUMNS, **(_AMAZON_IMAGES if with_images else {})}
    texts, prices = {}, {}
    for number, line in read_lines(path, show_progress=show_progress):
        try:
            record = metadata_record(line)
        except ValueError as error:
            raise bad_line(path, number, str(error)) from None
        if record["asin"] in wanted:
            texts[record["asin"]] = tuple(read(record) for read in columns.values())
            prices[record["asin"]] = _price(record.get("price"))
    if not any(prices.values()):
        return "\t".join(columns), texts
    return "\t".join([*columns, "price:float"]), {item: (*found, prices[item]) for item, found in texts.items()}


def _price(value):
    """A price as a number in text: 9.99 (2014), "$1,009.99" (2018); empty where it is none, as a range of prices."""
    found = re.fullmatch(r"\$?\s*(\d[\d,]*(?:\.\d+)?)", clean_text(value))
    return found[1].replace(",", "") if found else ""


def _image_link(record):
    for key in ("imUrl", "imageURLHighRes", "imageURL"):  # 2014; 2018, which has lists
        link = record.get(key)
        if link:
            return clean_text(link[0] if isinstance(link, list) else link)
    images = record.get("images")  # 2023
    links = [image.get("large", "") for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return clean_text(links[0]) if links else ""


_AMAZON_COLUMNS = {
    "title:token_seq": lambda record: clean_text(record.get("title")),
    "brand:token_seq": lambda record: clean_text(record.get("brand", record.get("store"))),
    "categories:token_seq": lambda record: clean_names(record.get("categories", record.get("category"))),
}
_AMAZON_IMAGES = {"image_url:token": _image_link}


def read_movies(path, wanted, show_progress=True):
    """Title, year and genres of the wanted items of MovieLens' movies.dat (``1::Toy Story (1995)::Comedy``) or
    movies.csv (``1,"Toy Story (1995)",Comedy``).

    Args, returns and raises are those of :func:`read_amazon_texts`.
    """
    texts, is_csv = {}, path.suffix == ".csv"
    for number, line in read_lines(path, "utf-8" if is_csv else "latin-1", show_progress):
        try:
            item, title, genres = _csv_fields(line) if is_csv else fields(line, "::", 3)
        except ValueError as error:
            raise bad_line(path, number, str(error)) from None
        if item in wanted:
            title, year = re.fullmatch(r"(.*?)\s*(?:\((\d{4})\))?", clean_text(title)).groups()
            texts[item] = (title, year or "", clean_names(genres.split("|")))
    return "title:token_seq\trelease_year:token\tgenre:token_seq", texts


def _csv_fields(line):
    parts = next(csv.reader([line]))
    if len(parts) != 3:
        raise ValueError(f"3 fields separated by commas are expected, it has {len(parts)}")
    return parts


def item_lines(path, items, header, texts):
    """Lines of an ``.item`` file; items without a text get empty fields.

    Args:
        path (str or Path): where the texts come from, for the message.
        items (Sequence[str]): names, in the order in which they are written.
        header (str): columns besides the item.
        texts (dict): {item: fields}.

    Returns:
        list[str]

    Raises:
        UsageError: when there is no text at all.
    """
    if not texts:
        raise UsageError(f"'{path}' describes none of the {len(items)} items, give the metadata of the same data set")
    empty = ("",) * (header.count("\t") + 1)
    return [f"item_id:token\t{header}\n", *("\t".join((item, *texts.get(item, empty))) + "\n" for item in items)]
