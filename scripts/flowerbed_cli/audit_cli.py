"""`flowerbed audit show|export|verify`: the verbs of the audit trail. Exit code 1 says that it was tampered with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .errors import FlowerbedError, Tampered
from .project import Project
from .terminal import console, say, topology_of

app = typer.Typer(help="The audit trail.", no_args_is_help=True, rich_markup_mode=None)
TAMPERED = 1


@app.command()
def show(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, help="How many of the last records that match.")] = 20,
    who: Annotated[str, typer.Option(help="Of this account or site, by name or id.")] = "",
    verb: Annotated[str, typer.Option(help="start-run, activate-node, ...")] = "",
    run: Annotated[str, typer.Option(help="About this run, by its id.")] = "",
) -> None:
    """Show the last records: who did what, and how it ended."""
    from . import audit_show as work

    _, topology = topology_of(context)
    if records := work.last(topology.name, work.Wanted(last, who, verb, run)):
        console.print(work.table(records))
    else:
        say("No record matches.")


@app.command()
def export(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="Where to write; an older export is replaced.")]
) -> None:
    """Write all records to a file that anybody can verify."""
    from . import audit as work

    project, topology = topology_of(context)
    with finding():
        say(work.export(project, topology, file))


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An export (default: the live trail).")] = None,
    ca: Annotated[Path | None, typer.Option(help="The authority's certificate (default: this project's).")] = None,
    crl: Annotated[Path | None, typer.Option(help="The authority's revocation list (default: this project's).")] = None,
    earlier: Annotated[Path | None, typer.Option(help="An older export, which FILE has to go on from.")] = None,
) -> None:
    """Find the first record that was changed, removed or inserted."""
    from . import audit as work

    project = Project(context.obj)
    with finding():
        if file is None:
            if ca or crl or earlier:
                raise FlowerbedError("--ca, --crl and --earlier are for an export: give its FILE, too.")
            say(work.verify_table(*topology_of(context)))
            return
        own = project.pki / "crl.pem"
        lists = crl or (own if ca is None and own.is_file() else None)
        say(work.verify_file(file, ca or project.pki / "ca.crt", lists, earlier))


@contextmanager
def finding() -> Iterator[None]:
    """Show what was found about the trail as one sentence, with an exit code of its own."""
    try:
        yield
    except Tampered as found:
        sys.stderr.write(f"{found}\n")
        raise typer.Exit(TAMPERED) from found
