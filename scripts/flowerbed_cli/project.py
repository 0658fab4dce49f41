"""Where things lie: the kit (this clone) and the project (one federation's file and state)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """One federation: a directory with a `federation.yaml`, and its state beside it (see docs/contracts.md)."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> Project:
        """Return the project at `given`, else at `FLOWERBED_PROJECT`, else the clone itself."""
        return cls((given or Path(os.environ.get("FLOWERBED_PROJECT", KIT))).resolve())

    @property
    def federation_file(self) -> Path:
        """The one file that an operator edits."""
        return self.root / "federation.yaml"

    @property
    def pki(self) -> Path:
        """The certificate store."""
        return self.root / "ca" / "pki"

    @property
    def secrets(self) -> Path:
        """One directory per container, mounted at `/secrets`."""
        return self.root / "secrets"

    @property
    def build(self) -> Path:
        """What was rendered: never edited, never read back as input."""
        return self.root / "build"

    @cached_property
    def versions(self) -> dict[str, str]:
        """The pinned versions, from `versions.env`."""
        return read_env(KIT / "versions.env")


def read_env(path: Path) -> dict[str, str]:
    """Read `KEY=value` lines; comments and blank lines are skipped. For files of the kit's own only."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
