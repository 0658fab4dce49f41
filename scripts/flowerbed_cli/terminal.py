"""What every verb uses of the terminal, and how it finds its project. Not for what a verb does."""

from __future__ import annotations

from collections.abc import Sequence

import click
import typer
from rich.console import Console

from flowerbed_topology import Topology, load

from .project import Project

console = Console()


class Help(click.HelpFormatter):
    """Takes out the backslashes that Typer writes for rich, also where rich shows nothing (typer 0.20)."""

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: int, **kwargs: int) -> None:
        """Write a list of definitions."""
        super().write_dl([(term, text.replace("\\[", "[")) for term, text in rows], *args, **kwargs)


click.Context.formatter_class = Help


def topology_of(context: typer.Context) -> tuple[Project, Topology]:
    """Return the project and its validated topology."""
    project = Project(context.obj)
    return project, load(project.federation_file)


def report(changes: list[str], nothing: str) -> None:
    """Print each change, or the sentence for none."""
    for line in changes or [nothing]:
        say(line)


def say(text: str) -> None:
    """Print one line for the person at the terminal."""
    console.print(text, highlight=False, markup=False)
