"""`python -m flowerbed_ca`: the authority's commands on their own, as `flowerbed ca` runs them."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
