"""Relative links lead somewhere, headings that they name exist, and nothing is left to be written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs_support import KIT, documents, name_of, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
UNFINISHED = re.compile(r"\b(TODO|TBD|FIXME|XXX|lorem ipsum|coming soon|to be written)\b", re.IGNORECASE)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(document: Path, link: str) -> str | None:
    """Why a link leads nowhere, None if it does not or leads out of the clone."""
    if re.match(r"[a-z]+:", link):
        return None
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.is_relative_to(KIT) or not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: no such heading"
    return None


def test_a_wrong_link_would_be_found() -> None:
    readme = KIT / "README.md"
    assert problem(readme, "docs/no-such.md")
    assert problem(readme, "docs/operator.md#no-such-heading")
    assert problem(readme, "../elsewhere.md")
    assert problem(readme, "docs/operator.md#certificates") is None


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_relative_links_resolve(document: Path) -> None:
    links = LINK.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))
    assert [found for link in links if (found := problem(document, link))] == []


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_nothing_is_left_to_be_written(document: Path) -> None:
    assert UNFINISHED.findall(prose(document)) == []


@pytest.mark.parametrize("folder", ["runbooks", "decisions"])
def test_every_page_is_in_its_list(folder: str) -> None:
    pages = {path.name for path in (KIT / "docs" / folder).glob("*.md")} - {"README.md"}
    listed = set(LINK.findall((KIT / "docs" / folder / "README.md").read_text()))
    assert pages <= listed


@pytest.mark.parametrize("guide", ["operator", "custodian", "researcher", "security"])
def test_the_readme_leads_to_every_guide(guide: str) -> None:
    assert f"docs/{guide}.md" in LINK.findall((KIT / "README.md").read_text())
