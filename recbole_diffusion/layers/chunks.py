"""How much of a large result is held at a time."""

import torch

# On a CPU few enough numbers to stay in the cache between one pass over them and the next; a GPU would spend its time
# on launches. Never so few rows that a large catalogue is read again and again for little work.
NUMBERS_ON_CPU = 2**20
NUMBERS_ON_GPU = 2**25
FEWEST_ROWS = 128


def numbers_at_a_time(tensor: torch.Tensor) -> int:
    """Numbers to compute at a time where a tensor is: few enough for the cache, enough for a GPU's launches."""
    return NUMBERS_ON_CPU if tensor.device.type == "cpu" else NUMBERS_ON_GPU


def rows_at_a_time(table: torch.Tensor) -> int:
    """Rows of ``[M, d] @ table.T`` to compute at a time.

    Args:
        table (torch.Tensor): [V, d].

    Returns:
        int
    """
    return max(FEWEST_ROWS, numbers_at_a_time(table) // len(table))
