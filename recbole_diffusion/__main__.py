"""``python -m recbole_diffusion``: the command line where it is not on the path."""

import sys

from recbole_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
