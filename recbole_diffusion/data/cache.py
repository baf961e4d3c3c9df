"""Prepared data kept in memory, for programs that train several models on one data set."""

import copy
from pathlib import Path

from recbole.data.interaction import Interaction

from recbole_diffusion.data.build import stock_class
from recbole_diffusion.data.pseudo_items import augmented_file
from recbole_diffusion.settings.leaks import leaking_setting

ABSENT = object()


class WatchedConfig:
    """A configuration that remembers which settings were read; everything else passes through."""

    def __init__(self, config, read=None):
        self._config, self._read = config, {} if read is None else read

    def __getitem__(self, key):
        value = self._config[key]
        self._read.setdefault(key, copy.deepcopy(value))
        return value

    def __contains__(self, key):
        self._read.setdefault(key, copy.deepcopy(self._config[key]) if key in self._config else ABSENT)
        return key in self._config

    def __getattr__(self, name):
        if name.startswith("_"):  # asked for while a copy of this object is still empty
            raise AttributeError(name)
        return getattr(self._config, name)


class DataCache:
    """Data sets and their split parts, prepared once and handed out as often as all settings they read are the same.

    Which settings matter is not listed anywhere: the configuration is watched while a data set is made, and a later
    run gets the same data only if every setting that was read has the same value, the files are the same and the
    models ask the same of data. A hit is a shallow copy, so that loaders may mark and sort it.

    Args:
        size (int): how many prepared data sets are kept; the one that was used longest ago goes first.
    """

    def __init__(self, size=4):
        self.size, self._entries = size, []
        self.hits = 0

    def get(self, config, make):
        """Data for a configuration, from memory where possible.

        Args:
            config (DiffusionConfig): settings.
            make (callable): takes a configuration, returns ``(dataset, counts, parts)``: the whole data after its
                split, its counts before and the list of its parts.

        Returns:
            tuple: as of ``make``.
        """
        place = (type(config), *asked_by_model(config), file_states(config))
        for entry in self._entries:
            if entry["place"] == place and all(same(config, key, value) for key, value in entry["read"].items()):
                self._entries.remove(entry)
                self._entries.append(entry)
                self.hits += 1
                return hand_out(entry, config)
        read = {}
        dataset, counts, parts = make(WatchedConfig(config, read))
        entry = {"place": place, "read": read, "data": (dataset, counts, parts)}
        self._entries = [*self._entries, entry][-self.size :]
        return hand_out(entry, config)


def asked_by_model(config):
    """What a model asks of data that no setting says by itself, as a tuple: their class, its side, whether examples have names,
    and whether it sees what it is tested with."""
    named, leaks = getattr(config.model_class, "reads_places", False), leaking_setting(config.final_config_dict)
    return stock_class(config).__name__, config.is_plugin_model, bool(named), bool(leaks)


def same(config, key, value):
    """Whether a setting has the value that was read before."""
    return config[key] == value if key in config else value is ABSENT or value is None


def file_states(config):
    """Path, size and time of change of all files of the data set, as a tuple that can be compared."""
    files = sorted(path for path in Path(config["data_path"]).glob("*") if path.is_file())
    augmented = augmented_file(config)
    if augmented and augmented.is_file():
        files.append(augmented)
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def hand_out(entry, config):
    """Copies whose marks, order and settings are their own and whose tensors are shared."""
    dataset, counts, parts = entry["data"]
    return copy_of(dataset, entry, config), dict(counts), [copy_of(part, entry, config) for part in parts]


def copy_of(dataset, entry, config):
    """One shallow copy; its later reads of settings are watched as well."""
    twin = copy.copy(dataset)
    for name, value in vars(twin).items():
        if isinstance(value, (dict, list, set)):  # loaders register fields of their own
            setattr(twin, name, copy.copy(value))
    twin.config = WatchedConfig(config, entry["read"])
    if isinstance(twin.inter_feat, Interaction):
        twin.inter_feat = Interaction(dict(twin.inter_feat.interaction))
    return twin
