"""The audit trail of the tests' federation, read as anybody reads it who is handed an export."""

from __future__ import annotations

import json
import time
from typing import Any

from .federation import Federation


def records(federation: Federation, after: int = 0, **wanted: object) -> list[dict[str, Any]]:
    """Return what an export holds beyond its first `after` records, without the checkpoint."""
    export = federation.root / "build" / "audit.jsonl"
    federation.flowerbed("audit", "export", str(export))
    found = [json.loads(line)["record"] for line in export.read_text().splitlines()[after:-1]]
    return [record for record in found if wanted.items() <= record.items()]


def recorded(federation: Federation, seconds: float = 5, after: int = 0, **wanted: object) -> dict[str, Any]:
    """Return the last record with these values, waiting for it."""
    deadline = time.monotonic() + seconds
    while not (found := records(federation, after, **wanted)):
        assert time.monotonic() < deadline, wanted
        time.sleep(0.2)
    return found[-1]
