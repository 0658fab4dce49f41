"""`python -m flowerbed_superlink`: start the SuperLink in its container; takes no arguments, only the environment."""

import sys

from flowerbed_superlink.launcher import main

sys.exit(main())
