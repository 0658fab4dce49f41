"""One structured line per event of ours, on standard error; not for Flower's own log, which keeps its format."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def event(name: str, **fields: object) -> None:
    """Write one JSON line: when (UTC), which event, and its fields. Values are escaped, so a line stays one line."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "component": "superlink", "event": name}
    sys.stderr.write(json.dumps(record | fields, default=str) + "\n")
    sys.stderr.flush()
