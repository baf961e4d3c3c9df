"""RecBole's logger on standard output and in a file for each run, and where files go."""

import copy
import logging
import os
import sys
from functools import partial
from pathlib import Path

from recbole.utils import init_logger

from recbole_diffusion import processes
from recbole_diffusion.files import make_folder
from recbole_diffusion.training.console import set_up_stream


def check_places(config):
    """Raise UsageError when nothing can be written where the settings, or RecBole's log, want files."""
    make_folder(config["checkpoint_dir"], "checkpoint_dir")
    make_folder(Path("log", config["model"]), "RecBole's log")
    make_folder("log_tensorboard", "RecBole's TensorBoard files")
    for key in ("result_file", "ranks_file"):
        if config[key]:
            make_folder(Path(config[key]).parent, key)


def start_logging(config):
    """RecBole's logger, on standard output, with a file of its own for every run of a process.

    The settings go to the file only: on the terminal they would bury everything else. The file is UTF-8 whatever the
    system's encoding is, and a stream that cannot take a letter gets an escape in its place.
    """
    logger = logging.getLogger()
    if not processes.is_first():
        logger.setLevel(logging.ERROR)
        return
    end_logging()
    others, logger.handlers = logger.handlers, []  # RecBole's set-up does nothing beside other handlers
    streams = sys.stdout, sys.stderr
    try:
        init_logger(_Printable(config))
    finally:
        sys.stdout, sys.stderr = streams  # colorama wraps them again at every call, until Python's stack is too short
        logger.handlers, ours = [*logger.handlers, *others], list(logger.handlers)  # TensorBoard is named after the first file
    for handler in ours:
        handler.of_recbole_diffusion = True
        handler.handleError = partial(go_on_without, handler)
        if isinstance(handler, logging.FileHandler):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")
            handler.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, str(config), (), None))
        elif sys.stdout is None:  # closed by whoever started the program
            logger.removeHandler(handler)
        else:
            set_up_stream(handler, config["console"])


def log_file():
    """Path of the log of the present run, or None where there is none."""
    files = [handler.baseFilename for handler in logging.getLogger().handlers if is_ours(handler)]
    return os.path.relpath(files[0]) if files else None


def is_ours(handler):
    """Whether a handler writes the log file of a run."""
    return getattr(handler, "of_recbole_diffusion", False) and isinstance(handler, logging.FileHandler)


def end_logging():
    """Close the logs of a run; other handlers of the root logger stay."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        if getattr(handler, "of_recbole_diffusion", False):
            logger.removeHandler(handler)
            handler.close()


class _Printable:
    """A configuration for RecBole's logger, which hashes it as UTF-8, without the halves of letters that paths may hold."""

    def __init__(self, config):
        self._config = config
        self.final_config_dict = {key: ascii(value) for key, value in config.final_config_dict.items()}

    def __getitem__(self, key):
        return self._config[key]


def go_on_without(handler, record):
    """Escape a letter that a stream cannot take; do without a log whose disk is full or whose reader has gone.

    Python would print a traceback for every line.
    """
    if isinstance(sys.exc_info()[1], UnicodeError) and not getattr(record, "escaped", False):
        escaped = copy.copy(record)  # the other handlers get their letters
        escaped.msg, escaped.args = record.getMessage().encode("ascii", "backslashreplace").decode(), ()
        escaped.escaped = True
        return handler.emit(escaped)
    logging.getLogger().removeHandler(handler)
