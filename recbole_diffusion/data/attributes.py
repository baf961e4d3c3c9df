"""Attributes of items, such as their category: columns of the item file that need not be among the loaded ones."""

import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_diffusion.data.atomic_files import is_parquet
from recbole_diffusion.data.atomic_reader import AtomicReader, header_cells
from recbole_diffusion.data.item_table import item_file
from recbole_diffusion.data.parquet_reader import parquet_cells
from recbole_diffusion.errors import UsageError

# What ``auto`` looks for, the first that there is.
USUAL = ("category", "categories", "class", "genre", "genres", "brand", "artist", "attributes")


class ItemFile(AtomicReader):
    """The item file of a data set, read as strictly as the others, beside what is loaded.

    Args:
        config (DiffusionConfig): settings, for names of fields and separators.
        path (Path): the file.
    """

    def __init__(self, config, path):
        self.config, self.path, self._wanted = config, path, None
        self.iid_field, self.uid_field, self.time_field = (
            config[f"{kind}_FIELD"] for kind in ("ITEM_ID", "USER_ID", "TIME")
        )
        self.field2source, self.field2type, self.field2seqlen, self.field2bucketnum = {}, {}, {}, {}

    def columns(self):
        """Name -> FeatureType of its columns. Raises UsageError for a header that is none."""
        if is_parquet(self.path):
            cells = parquet_cells(self.path)
        else:
            cells = header_cells(self.path, self.config["field_separator"], self.config["encoding"])
        return self._read_header(self.path, FeatureSource.ITEM, cells, "of the item file", None, None)

    def values(self, name):
        """Tokens of the items and of the values that they have in a column: list[tuple[str, str]], no pair twice.

        Raises:
            UsageError: for a column that there is not, and as all atomic files do.
        """
        self._wanted = [self.iid_field, name]
        frame = self._load_feat(self.path, FeatureSource.ITEM)
        rows = (
            frame[name] if self.field2type[name] == FeatureType.TOKEN_SEQ else frame[name].dropna().map(lambda x: [x])
        )
        items = frame[self.iid_field]
        return list(dict.fromkeys((items[row], str(value)) for row, values in rows.items() for value in values))

    def _get_load_and_unload_col(self, source):
        return self._wanted, None


class ItemAttributes:
    """The part of a data set that knows attributes of its items, to be mixed in before RecBole's class."""

    def item_attributes(self, choice):
        """Attributes of the items of this data set.

        Args:
            choice (str): ``none``, ``auto`` for the first of the usual columns that the item file has, or names of columns
                with commas between them.

        Returns:
            dict[str, tuple]: name -> ``(items, values)``, LongTensors [n]: an item and a value that it has, numbered from
            0, no pair twice.

        Raises:
            UsageError: for a column that there is not or that holds numbers, or that says nothing of the items.
        """
        if choice == "none":
            return {}
        file = ItemFile(self.config, item_file(self.config["data_path"], self.dataset_name))
        names = self._usual(file) if choice == "auto" else self._named(file, choice)
        attributes = {name: self._numbered(file, name) for name in names}
        if not attributes:
            self.logger.warning(f"no attributes of items: {self.config['model']} goes without")
        return attributes

    @staticmethod
    def _usual(file):
        columns = file.columns() if file.path.is_file() else {}
        return [name for name in USUAL if columns.get(name) in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)][:1]

    def _named(self, file, choice):
        names = [name.strip() for name in choice.split(",")]
        if len(set(names)) < len(names):
            raise UsageError(f"attribute '{choice}' names a column twice")
        if not file.path.is_file():
            raise UsageError(
                f"attribute '{choice}' is a column of '{file.path.name}', which dataset '{self.dataset_name}' lacks: "
                f"leave it out"
            )
        columns = file.columns()
        for name in names:
            if name == file.iid_field:
                raise UsageError(f"attribute '{name}' is a column of names: all of its values differ")
            if name in columns and columns[name] not in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ):
                raise UsageError(f"attribute '{name}' is a column of numbers ({columns[name].value}): it is for tokens")
        return names

    def _numbered(self, file, name):
        number_of = self.field2token_id[self.iid_field]
        pairs = [(number_of[item], value) for item, value in file.values(name) if item in number_of]
        if not pairs:
            raise UsageError(
                f"attribute '{name}': '{file.path}' says nothing of the items of dataset '{self.dataset_name}'"
            )
        values = {value: number for number, value in enumerate(dict.fromkeys(value for _, value in pairs))}
        items = torch.tensor([item for item, _ in pairs])
        missing = self.item_num - 1 - len(items.unique())
        self.logger.info(f"attribute {name}: {len(values)} values, {missing} of {self.item_num - 1} items without")
        return items, torch.tensor([values[value] for _, value in pairs])
