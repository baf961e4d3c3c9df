"""Train and evaluate a model: ``python run_recbole_diffusion.py --model=SimDiffRec --dataset=ml-100k``."""

import sys

from recbole_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
