"""The words of ``atlas``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""


def add_atlas(parser):
    """Add the words of ``atlas`` to an ``argparse`` parser."""
    parser.description = "Every row of the papers' tables beside kept runs: figures, deviation, and a verdict that is computed."
    parser.add_argument(
        "plan", nargs="?", default="results/atlas.yaml", help="yaml file: which runs stand for which row (default results/atlas.yaml)"
    )
    parser.add_argument("--runs", default="", help="folders of compare and CSV pages, separated by commas, in place of those of the file")
    parser.add_argument("--tables", default="", help="names such as simdiffrec.table2, separated by commas (default all)")
    parser.add_argument("--out", default="results", help="folder for atlas.md, atlas.csv and pictures (default results)")
    parser.add_argument("--pictures", action="store_true", help="draw each table, and accuracy against time")
