"""`python -m fastmask …`: see fastmask.cli."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
