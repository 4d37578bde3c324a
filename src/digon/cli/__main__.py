"""`python -m digon.cli`, which torchrun starts."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
