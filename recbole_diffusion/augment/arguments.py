"""The words of ``augment``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""

import argparse

from recbole_diffusion.settings.properties import property_file
from recbole_diffusion.settings.schema import read_schema


def generator_schema():
    """Key -> documented setting of the generator."""
    return read_schema(property_file("augment", "DiffuASR"))


def add_augment(parser):
    """Add the words of ``augment`` to an ``argparse`` parser; all others are settings."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Generate items that stand before the histories of a data set (DiffuASR), for any model: run --augmented=auto.\n"
        "Other --KEY=VALUE words are settings of the generator, below, or of the data set, such as --data_path."
    )
    lines = [f"  {setting}" for setting in generator_schema().values()]
    parser.epilog = "\n".join([*lines, "  seed (int, default 2020): of the generator and its noise."])
    parser.epilog = "settings of the generator:\n" + parser.epilog.replace("%", "%%")
    parser.add_argument("name", help="name of the data set, e.g. beauty")
    parser.add_argument("--output", help="file to write (default: DATA_PATH/NAME/NAME.augmented.npz)")
    parser.add_argument("--cache", help="file of finished work (default: the output's name and .cache)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--force", action="store_true", help="replace a file that was made otherwise")
