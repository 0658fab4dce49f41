"""First passwords of people, in `secrets/people/<name>.password` for the operator's eyes alone. Not for anybody's later ones."""

from __future__ import annotations

import secrets
from pathlib import Path

from .files import write
from .project import Project


def path(project: Project, name: str) -> Path:
    """Return where the first password of a person lies."""
    return project.secrets / "people" / f"{name}.password"


def new(project: Project, name: str) -> str:
    """Make a first password, keep it, and return it; an earlier one is replaced.

    144 random bits, with a letter of each case, a digit and a hyphen, whatever chance gives: policies ask for them.
    """
    made = f"{secrets.token_urlsafe(24)}-aA1"
    place = path(project, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.parent.chmod(0o700)
    write(place, made.encode(), 0o600)
    return made


def kept(project: Project, name: str) -> str:
    """Return the password that is kept; make one where there is none."""
    place = path(project, name)
    return place.read_text().strip() if place.is_file() else new(project, name)


def announcement(project: Project, name: str) -> str:
    """Return the sentence that says where a new first password lies."""
    return f"first password of {name}, to be changed at the first login: {path(project, name)}"
