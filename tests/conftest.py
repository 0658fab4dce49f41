"""What all tests share: no deadline for single hypothesis examples, because a busy host is not a bug."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("kit", deadline=None)
settings.load_profile("kit")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Keep a file together where tests run beside each other, and all of tests/e2e, which share one federation."""
    return Together(config, log)


class Together(LoadFileScheduling):
    """Hands out files, and the end-to-end tests as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else str(super()._split_scope(nodeid))


@pytest.fixture(scope="module", autouse=True)
def _no_variable_left_behind() -> Iterator[None]:
    """A variable that one module leaves behind changes what later ones start, such as a whole federation."""
    before = dict(os.environ)
    yield
    left = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    # The second is set by importing flwr.
    assert left <= {"PYTEST_CURRENT_TEST", "BROWSER_USE_SETUP_LOGGING"}, (
        f"environment variables changed: {sorted(left)}"
    )
