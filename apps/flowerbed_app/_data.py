"""Where things lie: at a site, what the executor names in the environment; else, a directory of the simulation."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

SIMULATION = "FLOWERBED_SIMULATION_DIR"


def data_dir() -> Path:
    """Return the directory of the site's own data (read-only in a federation).

    Under the simulation runtime it is ``data`` in the directory that FLOWERBED_SIMULATION_DIR names.
    """
    at_site = os.environ.get("FLOWERBED_DATA")
    return Path(at_site) if at_site else simulation_dir() / "data"


@functools.cache
def _temporary() -> Path:
    path = Path(tempfile.mkdtemp(prefix="flowerbed-simulation-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def simulation_dir() -> Path:
    """Return the simulation's directory, or a temporary one that lasts as long as this process."""
    named = os.environ.get(SIMULATION)
    return Path(named) if named else _temporary()
