"""The words of ``features``, apart from what they start: ``--help`` imports no PyTorch and no RecBole."""

DEFAULT_TEXT_MODEL = "bert-base-uncased"


def add_features(parser):
    """Add the arguments of ``recbole-diffusion features`` to an argparse parser."""
    parser.add_argument("--dataset", required=True, help="name of the data set, e.g. games-session")
    parser.add_argument("--data_path", default="dataset", help="folder of the data sets (default: dataset)")
    parser.add_argument(
        "--columns", help="columns of the item file, joined by commas (default: title,brand where they exist)"
    )
    parser.add_argument(
        "--text_model",
        default=DEFAULT_TEXT_MODEL,
        help=f"folder or Hugging Face name of a BERT-family encoder (default: {DEFAULT_TEXT_MODEL})",
    )
    parser.add_argument(
        "--of",
        default="text",
        help="what the vectors are of: text (columns and labels of images), images, labels (default: text)",
    )
    parser.add_argument("--image_weights", help="state dict of GoogLeNet (default: torchvision's own download)")
    parser.add_argument("--dims", type=int, default=100, help="values per item after PCA, 0: no PCA (default: 100)")
    parser.add_argument("--max_length", type=int, default=128, help="tokens read of a text (default: 128)")
    parser.add_argument("--batch_size", type=int, default=32, help="texts or images per step (default: 32)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--output", help="file to write (default: DATA_PATH/NAME/NAME.features.npz for text)")
    parser.add_argument("--cache", help="file of finished work (default: the output's name and .cache)")
