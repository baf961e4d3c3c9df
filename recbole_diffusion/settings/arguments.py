"""Words that several commands share."""


def add_trust_argument(parser):
    """Add ``--trust-checkpoint`` to an argparse parser of a command that reads a checkpoint."""
    parser.add_argument(
        "--trust-checkpoint",
        "--trust_checkpoint",
        action="store_true",
        help="read a checkpoint that is a pickle from elsewhere, running any code in it",
    )
