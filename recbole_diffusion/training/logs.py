"""RecBole's logger on standard output and in a file for each run, and where files go."""

import logging
import sys
from functools import partial
from pathlib import Path

from recbole.utils import init_logger
from recbole.utils.logger import RemoveColorFilter

from recbole_diffusion import processes
from recbole_diffusion.files import make_folder


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

    The settings go to the file only: on the terminal they would bury everything else.
    """
    logger = logging.getLogger()
    if not processes.is_first():
        logger.setLevel(logging.ERROR)
        return
    for handler in list(logger.handlers):
        if getattr(handler, "of_recbole_diffusion", False):
            logger.removeHandler(handler)
            handler.close()
    root_handlers, logger.handlers = logger.handlers, []  # RecBole's set-up does nothing beside other handlers
    streams = sys.stdout, sys.stderr
    init_logger(config)
    sys.stdout, sys.stderr = streams  # colorama wraps them again at every call, until Python's stack is too short
    ours, logger.handlers = logger.handlers, [*root_handlers, *logger.handlers]
    for handler in ours:
        handler.of_recbole_diffusion = True
        handler.handleError = partial(stop_logging, handler)
        if isinstance(handler, logging.FileHandler):
            handler.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, str(config), (), None))
        else:
            handler.setStream(sys.stdout)
            if not sys.stdout.isatty():  # colours are for terminals, not for files and pipes
                handler.addFilter(RemoveColorFilter())
                handler.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", "%d %b %H:%M"))


def stop_logging(handler, record):
    """Do without a log whose disk is full or whose reader has gone; Python would print a traceback for every line."""
    logging.getLogger().removeHandler(handler)
