"""TensorBoard's files, which must not end a training."""

from contextlib import contextmanager

import recbole.trainer.trainer


@contextmanager
def writing_files(wanted):
    """Let a trainer of RecBole that is made within the block have TensorBoard's files, which appear at once, or not."""
    maker = recbole.trainer.trainer.get_tensorboard
    if not wanted:
        recbole.trainer.trainer.get_tensorboard = no_tensorboard
    try:
        yield
    finally:
        recbole.trainer.trainer.get_tensorboard = maker


def no_tensorboard(logger):
    """Stands for RecBole's maker of TensorBoard's writer, whose files appear as soon as it exists."""


class LenientWriter:
    """TensorBoard's writer, which stops instead of the training when its disk is full.

    Args:
        writer (torch.utils.tensorboard.SummaryWriter | None): without one, nothing is written.
    """

    def __init__(self, writer, logger):
        self._writer, self._logger = writer, logger

    def __getattr__(self, name):
        def call(*values):
            try:
                return self._writer and getattr(self._writer, name)(*values)
            except OSError as error:
                self._writer = None
                self._logger.warning(f"TensorBoard's files cannot be written any more: {error.strerror or error}")

        return call
