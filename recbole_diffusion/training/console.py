"""What a run says at the console: a line each for data, model, device and log, one per epoch, and bars in terminals.

Everything else goes to the log only. ``console: verbose`` shows the whole log, ``quiet`` only warnings.
"""

import logging
import sys
from contextlib import contextmanager

from recbole.utils.logger import RemoveColorFilter
from tqdm.auto import tqdm

LABEL = "{:<8} {}"


class OnlyForConsole(logging.Filter):
    """Lets through what was said by :func:`say`, and warnings."""

    def __init__(self, quiet=False):
        super().__init__()
        self.quiet = quiet

    def filter(self, record):
        return record.levelno >= logging.WARNING or (getattr(record, "console", False) and not self.quiet)


class NotForConsole(logging.Filter):
    """Keeps back what was written by :func:`keep`."""

    def filter(self, record):
        return not getattr(record, "log_only", False)


def say(label, text):
    """A line for the console and the log.

    Args:
        label (str): what it is about, such as ``data``.
        text (str): the rest.
    """
    logging.getLogger().info(LABEL.format(label, text), extra={"console": True})


def keep(text):
    """Lines for the log only, also where the console shows all of it."""
    logging.getLogger().info(text, extra={"log_only": True})


def set_up_stream(handler, mode):
    """Make RecBole's handler of the console say what ``console`` asks for, without colours outside of terminals.

    Args:
        handler (logging.StreamHandler): RecBole's.
        mode (str): ``quiet``, ``normal`` or ``verbose``.
    """
    handler.setStream(sys.stdout)
    handler.addFilter(NotForConsole())
    if mode != "verbose":
        handler.addFilter(OnlyForConsole(quiet=mode == "quiet"))
        handler.addFilter(RemoveColorFilter())
        handler.setFormatter(PlainWarnings("%(message)s"))
    elif not sys.stdout.isatty():
        handler.addFilter(RemoveColorFilter())
        handler.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", "%d %b %H:%M"))


class PlainWarnings(logging.Formatter):
    """The message alone, with a word before warnings."""

    def format(self, record):
        text = super().format(record)
        return text if record.levelno < logging.WARNING else LABEL.format(record.levelname.lower(), text)


def shows_bars(config):
    """Whether bars can be seen: in a terminal or a notebook, and wanted."""
    visible = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    return bool(config["show_progress"]) and visible and config["console"] != "quiet"


def bar(batches, description, shown):
    """Batches with a bar that goes when they are over, or as they are."""
    return tqdm(batches, desc=description, leave=False, dynamic_ncols=True) if shown else batches


@contextmanager
def watched(loader, description, shown):
    """Show a bar while a loader of this package hands out its batches within the block."""
    if shown and hasattr(loader, "watch"):
        loader.watch = lambda batches: tqdm(
            batches, total=len(loader), desc=description, leave=False, dynamic_ncols=True
        )
    try:
        yield
    finally:
        vars(loader).pop("watch", None)


def describe_epoch(epoch, epochs, seconds, losses, steps, validation=None, is_best=False, report=None):
    """An epoch in one line.

    Args:
        epoch (int): counted from 0, shown from 0 as everywhere.
        epochs (int): most epochs.
        seconds (float): of training and validation.
        losses (dict[str, float]): parts of the loss, summed over the batches.
        steps (int): number of batches.
        validation (tuple[str, float], optional): metric and its value.
        is_best (bool): whether it is the best so far, which gets a mark.
        report (dict[str, float], optional): what the model says of itself.

    Returns:
        str: such as ``0 of 300   3.9 s   recommendation 5.4136   diffusion 0.5840   MRR@10 0.0115 *``.
    """
    parts = [f"{epoch:>{len(str(epochs))}} of {epochs}", f"{seconds:6.1f} s"]
    parts += [f"{name} {loss / max(steps, 1):.4f}" for name, loss in losses.items()]
    parts += [f"{name} {value:.4f}" for name, value in (report or {}).items()]
    if validation:
        parts.append(f"{validation[0]} {validation[1]:.4f}{' *' if is_best else ''}")
    return "   ".join(parts)
