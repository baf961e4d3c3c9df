"""How many rows of a product with the whole catalogue are held at a time."""

# On a CPU few enough numbers to stay in the cache between one pass over them and the next; a GPU would spend its time
# on launches. Never so few rows that a large catalogue is read again and again for little work.
NUMBERS_ON_CPU = 2**20
NUMBERS_ON_GPU = 2**25
FEWEST_ROWS = 128


def rows_at_a_time(table):
    """Rows of ``[M, d] @ table.T`` to compute at a time.

    Args:
        table (torch.Tensor): [V, d].

    Returns:
        int
    """
    numbers = NUMBERS_ON_CPU if table.device.type == "cpu" else NUMBERS_ON_GPU
    return max(FEWEST_ROWS, numbers // len(table))
