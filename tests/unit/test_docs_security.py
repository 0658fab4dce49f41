"""Every test that the documentation calls a proof exists, and every path of the clone that it names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from docs_support import KIT, code_spans, documents, name_of

# Made by the commands, not by git.
GENERATED = ("build/", "secrets/", "ca/pki", ".venv/", ".cache/")
FOLDERS = (
    "apps|ca|compose|docs|jupyterhub|keycloak|monitoring|networks|nginx|postgres|scripts|superlink|supernode|tests"
)


@cache
def existing_tests() -> frozenset[str]:
    sources = [path.read_text() for path in (KIT / "tests").rglob("test_*.py")]
    return frozenset(name for text in sources for name in re.findall(r"def (test_\w+)", text))


def test_the_threat_model_names_proofs() -> None:
    named = {span for span in code_spans(KIT / "docs" / "security.md") if re.fullmatch(r"test_\w+", span)}
    assert len(named) > 40
    assert named - existing_tests() == set()


def test_every_threat_has_a_proof() -> None:
    text = (KIT / "docs" / "security.md").read_text().partition("## Threats")[2].partition("## Known limits")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert [row for row in rows if "`test_" not in row.split("|")[-2]] == []


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_paths_that_are_named_exist(document: Path) -> None:
    paths = {span for span in code_spans(document) if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]+", span)}
    wanted = {path for path in paths if not path.startswith(GENERATED)}
    assert {path for path in wanted if not (KIT / path).exists()} == set()
