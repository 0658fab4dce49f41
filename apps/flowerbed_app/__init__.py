"""What an app may ask of the kit: a run's state at a site, a place for results, the site's data.

Works in a federation and, unchanged, under Flower's simulation runtime. README.md beside this file has an example.
"""

from __future__ import annotations

from ._data import data_dir
from ._errors import ResultRefusedError, SdkError, StateCorruptError, StateMissingError
from ._results import Results
from ._state import SiteState

__all__ = [
    "ResultRefusedError",
    "Results",
    "SdkError",
    "SiteState",
    "StateCorruptError",
    "StateMissingError",
    "data_dir",
]
