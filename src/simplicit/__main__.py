"""``python -m simplicit``: the command line."""

import sys

from simplicit.cli import main

if __name__ == "__main__":
    sys.exit(main())
