"""Where the yaml files are and how they are read.

``properties/`` and the data set ``toy`` stand at the top of a checkout. A wheel carries the same files within
``recbole_diffusion``; both places, and an editable install, are found here.
"""

import re
from functools import cache
from pathlib import Path

import yaml

from recbole_diffusion.errors import UsageError, did_you_mean, one_line
from recbole_diffusion.files import expand_home


class YamlLoader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a float, as users of RecBole expect (YAML 1.1 says string).

    A key that is given twice with different values is an error; YAML would silently take the last.
    """

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if seen.setdefault(str(key.value), value.value) != value.value:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


@cache
def properties_dir():
    """Folder of the yaml files (pathlib.Path). Raises FileNotFoundError in a broken installation."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no properties/overall.yaml beside or above {package}: reinstall recbole_diffusion")


INTER_ENDS = (".inter", ".inter.parquet")  # of files of interactions
PACKAGED = ("toy",)  # data sets that this package brings along


def default_data_path(name, folder="dataset"):
    """Where a data set lies when nobody says where.

    Args:
        name (str): name of the data set.
        folder (str or Path): the default for all data sets.

    Returns:
        str: ``folder``, or the folder of the package's own copy where ``folder`` has no such data set.
    """
    if not any(path for end in INTER_ENDS for path in (Path(folder) / name).glob(f"*{end}")):
        for own in own_copies(name):
            if (own / name).is_dir():
                return str(own)
    return str(folder)


def own_copies(name):
    """Folders in which this package may keep a data set, in its order: a list of pathlib.Path."""
    package = Path(__file__).resolve().parents[1]
    return [package / "dataset", package.parent / "dataset"] if name in PACKAGED else []


def property_file(kind, name):
    """Path of ``properties/<kind>/<name>.yaml``; the file need not exist."""
    return properties_dir() / kind / f"{name}.yaml"


def property_names(kind):
    """Sorted names of the yaml files under ``properties/<kind>``."""
    return sorted(path.stem for path in (properties_dir() / kind).glob("*.yaml"))


def dataset_properties(name):
    """Settings of a data set in ``properties/dataset/<name>.yaml`` as a dict, empty where there is no such file.

    Raises:
        UsageError: when the file cannot be read.
    """
    path = property_file("dataset", name)
    return load_yaml(path) if path.is_file() else {}


def settings_beside(name, data_path):
    """Settings in ``<data_path>/<name>/<name>.yaml`` as a dict, empty where there is no such file.

    Raises:
        UsageError: when the file cannot be read, or says where the data are.
    """
    path = Path(str(data_path)).expanduser() / name / f"{name}.yaml"
    settings = load_yaml(path) if path.is_file() else {}
    for key in ("data_path", "dataset", "model"):
        if key in settings:
            raise UsageError(f"'{path}' belongs to the data beside it, it must not hold {key}: remove that line")
    return settings


def settings_of_data(name, data_path):
    """What is known of a data set: :func:`dataset_properties`, and over them :func:`settings_beside`."""
    return {**dataset_properties(name), **settings_beside(name, data_path)}


def data_sets(folder):
    """Sorted names of the data sets under a folder, ready-made splits included.

    Args:
        folder (str or Path): a data set is a folder in it with files ``<name>.inter`` or ``<name>.<part>.inter``,
            as text or as Parquet (``.inter.parquet``).
    """
    files = [file for end in INTER_ENDS for file in Path(folder).glob(f"*/*{end}")]
    return sorted({file.parent.name for file in files if file.name.startswith(f"{file.parent.name}.")})


def missing_file_message(name, data_path, file_name=None):
    """What to tell a user whose data set lacks a file.

    Args:
        name (str): name of the data set.
        data_path (str or Path): folder that should hold the folder ``<name>``.
        file_name (str, optional): the file that is not there, by default ``<name>.inter``.

    Returns:
        str: one line with the path, the nearest name that exists and what to do.
    """
    path = Path(data_path) / name / (file_name or f"{name}.inter")
    known = {*data_sets(data_path), *property_names("dataset")} - {name}
    return (
        f"data set '{name}' is not there, no file '{path}'{did_you_mean(name, known)}: set --data_path to the folder "
        f"that holds {name}/, or build it with 'recbole-diffusion prepare {name} --source=PATH'"
    )


def parse_scalar(text):
    """Value of one command-line word, read as YAML and never evaluated as code."""
    try:
        return yaml.load(text, Loader=YamlLoader)
    except (yaml.YAMLError, ValueError):  # ValueError: words that look like an impossible date
        return text


def parse_separator(text):
    """Separator of one command-line word, as it stands where it is a sign of YAML; ``\\t`` is a tabulator."""
    value = parse_scalar(text)
    if isinstance(value, (int, float)):  # no separator, and refused as such
        return value
    return (value if value and isinstance(value, str) else text).replace("\\t", "\t")


def load_yaml(path):
    """Read one yaml file into a dict.

    Raises:
        UsageError: when the file is missing, is not YAML or does not hold key-value pairs.
    """
    path = expand_home(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, Loader=YamlLoader)
    except FileNotFoundError:
        raise UsageError(f"config file '{path}' does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError, ValueError) as error:
        raise UsageError(f"config file '{path}' cannot be read: {one_line(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"config file '{path}' must hold 'key: value' lines, it holds a {type(content).__name__}")
    return content
