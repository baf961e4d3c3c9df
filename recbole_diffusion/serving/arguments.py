"""The words of ``evaluate``, ``recommend``, ``index`` and ``export``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""

from recbole_diffusion.settings.arguments import add_trust_argument

# Settings that an evaluation reads and that neither data nor weights depend on, beside those of sampling.
CHANGEABLE = (
    "metrics", "topk", "mask_history", "eval_args", "eval_batch_size", "metric_decimal_place", "tail_ratio",
    "float32_matmul_precision", "data_path", "data_cache", "data_cache_gb", "ranks_file", "console", "show_progress",
    "use_gpu", "gpu_id", "threads", "worker",
)  # fmt: skip


def add_evaluate(parser):
    """Add the arguments of ``recbole-diffusion evaluate`` to an argparse parser."""
    parser.usage = "%(prog)s CHECKPOINT [--part=test|valid|both] [--output=FILE.json] [--KEY=VALUE ...]"
    parser.description = "Measure a checkpoint on its data, as its training did. --nproc=N and torchrun share out the users."
    parser.epilog = (
        f"Settings that may be changed: {', '.join(CHANGEABLE)} (of eval_args the mode, such as {{mode: uni100}}), and how the model "
        f"samples, where it does: sampling_steps, sampler, ensemble_seeds and others. All else is as it was in training."
    )
    parser.add_argument("checkpoint", help="file written by a training")
    parser.add_argument("--part", default="test", help="test, valid or both (default: test)")
    parser.add_argument("--output", "--result_file", "--result-file", help="JSON file for the metrics and how they were found")
    add_trust_argument(parser)


def add_recommend(parser):
    """Add the arguments of ``recbole-diffusion recommend`` to an argparse parser."""
    parser.add_argument("checkpoint", help="file written by a training")
    parser.add_argument("--input", help="histories, .csv, .jsonl or .parquet, or a folder of such files")
    parser.add_argument("--output", help="recommendations, .csv or .jsonl; a folder where --input is one")
    parser.add_argument("--format", help="csv or jsonl, with a folder (default: as each input file; of Parquet jsonl)")
    parser.add_argument("--user", action="append", help="a user of the data set instead of --input; may be repeated")
    parser.add_argument("--data-path", "--data_path", help="folder of the data, for --user (default: as in training)")
    parser.add_argument("--k", type=int, default=10, help="items per history (default: 10)")
    parser.add_argument("--exclude-seen", "--exclude_seen", action="store_true", help="leave out items of the history")
    parser.add_argument("--unknown", default="drop", help="items that the model does not know: drop or error")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=256, help="histories at once (default: 256)")
    parser.add_argument("--explain", action="store_true", help="with --user: what each factor of MFGAN says of every item")
    parser.add_argument("--sampling-steps", "--sampling_steps", type=int, help="reverse steps, for models that sample")
    parser.add_argument("--index", nargs="?", const="auto", help="approximate lists: a file of 'index', or the one beside the checkpoint")
    parser.add_argument("--probes", type=int, help="with --index: how many of its lists a history looks at")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: as in training)")
    add_trust_argument(parser)


def add_index(parser):
    """Add the arguments of ``recbole-diffusion index`` to an argparse parser."""
    parser.description = "Sort the items of a model into lists, so that recommend --index ranks those of a few lists only."
    parser.add_argument("checkpoint", help="file written by a training")
    parser.add_argument("--output", help="file to write (default: <checkpoint>.index.npz beside it)")
    parser.add_argument("--lists", type=int, default=0, help="how many (default: the square root of the number of items)")
    parser.add_argument("--probes", type=int, default=16, help="lists that a history looks at (default: 16)")
    parser.add_argument("--input", help="histories by which recall is measured (default: drawn by the counts of items)")
    parser.add_argument("--k", type=int, default=10, help="of recall@k (default: 10)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: as in training)")
    add_trust_argument(parser)


def add_export(parser):
    """Add the arguments of ``recbole-diffusion export`` to an argparse parser."""
    parser.add_argument("checkpoint", help="file written by a training")
    parser.add_argument("--format", default="onnx", help="onnx (default)")
    parser.add_argument("--output", required=True, help="file to write")
    add_trust_argument(parser)
