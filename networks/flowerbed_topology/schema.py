"""The JSON Schema of federation.yaml, for editors: `python -m flowerbed_topology.schema` writes it.

Not for checking: rules between keys are in the models alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from .topology import Topology

SCHEMA_PATH = Path(__file__).resolve().parent.parent / "federation.schema.json"


def schema() -> str:
    """The schema as text (JSON Schema, draft 2020-12)."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Topology.model_json_schema()}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema(), encoding="utf-8")
