"""The commands: where their words and their work are. Nothing of them is imported before it is asked for."""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module (str): has ``main(arguments)``.
        adder (str): ``module:function`` that adds its words to an ``argparse`` parser, without PyTorch.
        takes_settings (bool): words that are no arguments are settings, and go to ``main`` as a second value.
        in_parts (bool): processes that ``torchrun`` starts share out its work.
    """

    module: str
    adder: str
    takes_settings: bool = False
    in_parts: bool = False

    def add_arguments(self, parser):
        """Add the words of the command to an ``argparse`` parser."""
        module, _, function = self.adder.partition(":")
        getattr(importlib.import_module(f"recbole_diffusion.{module}"), function)(parser)

    def run(self, *arguments):
        """Run it with parsed arguments; returns the exit code."""
        return importlib.import_module(f"recbole_diffusion.{self.module}").main(*arguments)


COMMANDS = {
    "compare": Command("experiments.compare", "experiments.arguments:add_compare", takes_settings=True),
    "tune": Command("experiments.tune", "experiments.arguments:add_tune", takes_settings=True),
    "atlas": Command("atlas.command", "atlas.arguments:add_atlas"),
    "plot": Command("reports.plot", "reports.arguments:add_plot"),
    "prepare": Command("prepare.command", "prepare.command:add_arguments"),
    "check-data": Command("prepare.check", "prepare.check:add_arguments", takes_settings=True),
    "features": Command("prepare.extract", "prepare.arguments:add_features", in_parts=True),
    "augment": Command("augment.command", "augment.arguments:add_augment", takes_settings=True),
    "evaluate": Command("serving.evaluation", "serving.arguments:add_evaluate", takes_settings=True, in_parts=True),
    "recommend": Command("serving.recommend", "serving.arguments:add_recommend", in_parts=True),
    "index": Command("serving.index", "serving.arguments:add_index"),
    "export": Command("serving.export", "serving.arguments:add_export"),
    "cache": Command("commands.cache", "commands.cache:add_arguments"),
    "list": Command("commands.listing", "commands.listing:add_arguments"),
    "doctor": Command("doctor", "doctor:add_arguments"),
}
