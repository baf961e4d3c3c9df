"""The words of ``compare`` and ``tune``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""


def add_compare(parser):
    """Add the words of ``compare`` to an ``argparse`` parser; all others are settings for every cell."""
    parser.description = "Train rows x data sets x seeds, keep every cell and write tables. Other --KEY=VALUE words are"
    parser.description += " settings of all cells. A second call runs only what is missing."
    parser.add_argument("--models", default="", help="model names, separated by commas")
    parser.add_argument(
        "--rows",
        help="yaml file: label -> {model: NAME, key: value, datasets: {name: {key: value}}}; with --paper also more "
        "settings for its rows",
    )
    parser.add_argument("--paper", help="rows, data sets and published figures of a table, such as simdiffrec.table2")
    parser.add_argument("--datasets", default="", help="names of data sets, separated by commas")
    parser.add_argument("--only", default="", help="labels of rows, separated by commas: leave out the others")
    parser.add_argument("--ours", help="label of the row that is tested against the others (default the last)")
    parser.add_argument(
        "--show",
        default="",
        help="metrics of the tables, such as HR@10,NDCG@10 (default all; these two in LaTeX); HR, NDCG, MRR, ... at "
        "any cut-off up to the largest of topk come from the kept ranks",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="show the best validation figures over the epochs beside the test figures and the published ones",
    )
    parser.add_argument("--name", default="", help="begins the names of the tables, so that others in --out stay")
    parser.add_argument("--seeds", default="3", help="how many, counted from --seed (default 3, from 2020)")
    parser.add_argument("--jobs", default="1", help="runs side by side (default 1)")
    parser.add_argument("--order", default="given", help="given, or cost: one seed of all rows first, cheap cells before dear ones")
    parser.add_argument("--out", default="runs/compare", help="folder for cells and tables (default runs/compare)")
    parser.add_argument("--only-tables", action="store_true", help="run nothing, write the tables of the kept cells")
    parser.add_argument(
        "--any-code", action="store_true", help="accept kept cells of other versions of the code, newest first"
    )


def add_tune(parser):
    """Add the words of ``tune`` to an ``argparse`` parser; all others are settings of every trial."""
    parser.description = "Search settings on the validation part; the test part is never ranked. Other"
    parser.description += " --KEY=VALUE words are settings of all trials. The same command goes on with the study."
    parser.add_argument("--model", default="", help="name of the model")
    parser.add_argument("--dataset", default="", help="name of the data set")
    parser.add_argument("--trials", default="20", help="finished trials that the study shall have (default 20)")
    parser.add_argument("--space", help="yaml file: key -> list of values, or {low: , high: , log: True, step: }")
    parser.add_argument("--study", help="name of the study (default MODEL-DATASET)")
    parser.add_argument("--storage", help="database URL, shared by machines (default sqlite in --out)")
    parser.add_argument("--search", default="tpe", help="tpe, random or grid (default tpe)")
    parser.add_argument("--pruner", default="median", help="median, halving or none (default median)")
    parser.add_argument("--search-seed", default="2020", help="seed of the search (default 2020)")
    parser.add_argument("--out", default="runs/tune", help="folder for the study and its best settings")
