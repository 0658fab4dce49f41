"""Where the documentation lies and how its parts are found, for the tests that compare it with the code."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

KIT = Path(__file__).resolve().parents[1]
OPERATOR = KIT / "docs" / "operator.md"
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


@cache
def documents() -> tuple[Path, ...]:
    """Every Markdown file of the clone that git knows or would take, those of ignored directories left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=KIT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return tuple(sorted(path for line in listed.stdout.splitlines() if (path := KIT / line).is_file()))


def name_of(document: Path) -> str:
    """A document's path in the clone."""
    return str(document.relative_to(KIT))


def code_spans(document: Path) -> set[str]:
    """What stands between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)))


def prose(document: Path) -> str:
    """A document's text without its code."""
    return CODE.sub("", document.read_text())
