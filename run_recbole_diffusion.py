"""Train and evaluate a model: ``python run_recbole_diffusion.py --model=SimDiffRec --dataset=ml-100k``."""

import sys


def start():
    """The command line, or one line where ``pip install`` was forgotten."""
    try:
        from recbole_diffusion.cli import main

        return main()
    except ModuleNotFoundError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: the package '{error.name}' is missing in this Python: run 'pip install -e .'", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(start())
