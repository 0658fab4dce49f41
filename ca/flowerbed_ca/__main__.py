"""`python -m flowerbed_ca`: the authority's commands on their own, as `flowerbed ca` runs them."""

import gc
import sys

gc.disable()  # before anything is imported: a command makes little garbage, and what it imports stays to its end

from .cli import main  # noqa: E402 - see above

if __name__ == "__main__":
    sys.exit(main())
