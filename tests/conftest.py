"""What all tests share: no deadline for single hypothesis examples, because a busy host is not a bug."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("kit", deadline=None)
settings.load_profile("kit")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file together where tests run beside each other, and all of tests/e2e, which share one federation."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("e2e" if "/e2e/" in str(item.path) else item.path.stem))


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
