"""The words of ``plot``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""

from recbole_diffusion.settings.arguments import add_trust_argument


def add_plot(parser):
    """Add the kinds of pictures and their words to an ``argparse`` parser."""
    kinds = parser.add_subparsers(dest="kind", metavar="curves | sweep | groups | tsne", required=True)
    words = {
        "curves": "losses and validation by epoch, from result files or checkpoints",
        "sweep": "a metric over a setting, from a folder of compare",
        "groups": "metrics by length of history and by popularity of the target, from checkpoints",
        "tsne": "sequence or item embeddings in two dimensions, from checkpoints",
    }
    for kind, text in words.items():
        sub = kinds.add_parser(kind, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--out", default="runs/plots", help="folder for PNG, SVG and CSV (default runs/plots)")
        sub.add_argument("--name", help="name of the files (default that of the kind)")
        if kind == "sweep":
            sub.add_argument("--folder", default="runs/compare", help="--out of compare (default runs/compare)")
            sub.add_argument("--key", required=True, help="the setting on the axis, such as alpha")
            sub.add_argument("--metric", default="HR@10", help="default HR@10")
            sub.add_argument("--datasets", default="", help="names, separated by commas (default all)")
            sub.add_argument("--part", default="test", help="test or valid (default test)")
            sub.add_argument("--masked", action="store_true", help="with the history masked")
            continue
        what = "result file (JSON) or checkpoint (.pth)" if kind == "curves" else "checkpoint"
        sub.add_argument("files", nargs="+", metavar="LABEL=FILE", help=f"{what}; without LABEL the file names it")
        if kind == "curves":
            sub.add_argument("--metric", help="validation metric (default the one that chose the epoch)")
        else:
            sub.add_argument("--data_path", help="where the data sets are now, if they moved")
            add_trust_argument(sub)
        if kind == "groups":
            sub.add_argument("--metric", default="HR@10", help="default HR@10")
            sub.add_argument("--groups", default="5", help="groups of histories of about equal number (default 5)")
        if kind == "tsne":
            what = "sequences, items or, for DiffSBR, neighbors (default sequences)"
            sub.add_argument("--what", default="sequences", help=what)
            sub.add_argument("--points", default="1000", help="most points per checkpoint (default 1000)")
            sub.add_argument("--users", default="8", help="users whose items are coloured, for items (default 8)")
            sub.add_argument("--seed", default="2020", help="of the choice of points and of t-SNE (default 2020)")
