"""The verbs of `flowerbed` that have to do with accounts: people, pipelines, the realm, and views across accounts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from . import lock
from .errors import FlowerbedError
from .terminal import console, report, say, topology_of

app = typer.Typer(rich_markup_mode=None)
user_app = typer.Typer(help="The federation's people.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(user_app, name="user")

Name = Annotated[str, typer.Argument(help="The name that the person logs in with.")]


@app.command("run-as", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run_as(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A pipeline of federation.yaml.")],
    command: Annotated[list[str], typer.Argument(help="flwr ls, flwr run ., ...")],
) -> None:
    """Run a command with a pipeline's account, in this directory."""
    from .run_as import run_as as work

    project, topology = topology_of(context)
    # The parser leaves the dashes that end the options of this verb.
    given = command[1:] if command[0] == "--" else command
    if not given:
        raise FlowerbedError("COMMAND is missing: give one after the dashes, such as flwr ls.")
    raise typer.Exit(work(project, topology, name, given, Path.cwd()))


@app.command()
def runs(
    context: typer.Context,
    pipeline: Annotated[str | None, typer.Option("--as", help="As this pipeline sees them.")] = None,
) -> None:
    """Show the runs of every account."""
    from . import views

    project, topology = topology_of(context)
    console.print(views.runs(views.view(project, topology, "runs", pipeline)))


@app.command()
def sites(
    context: typer.Context,
    pipeline: Annotated[str | None, typer.Option("--as", help="As this pipeline sees them.")] = None,
) -> None:
    """Show the registered SuperNodes."""
    from . import views

    project, topology = topology_of(context)
    console.print(views.sites(views.view(project, topology, "sites", pipeline)))


@app.command()
def realm(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the difference, change nothing.")] = False,
) -> None:
    """Bring Keycloak's realm in line with federation.yaml."""
    from . import realm as work

    project, topology = topology_of(context)
    with nullcontext() if dry_run else lock.changing(project, "flowerbed realm"):
        found, announced = work.compare(project, topology, dry_run=dry_run)
    report([*found.lines, *announced], "The realm is as it should be.")
    for note in found.notes:
        say(note)
    if found.lines:
        say(f"{len(found.lines)} differences; {'nothing was changed' if dry_run else 'all corrected'}.")


@user_app.command("add")
def add(
    context: typer.Context,
    name: Name,
    organisation: Annotated[str, typer.Option(help="Name of the person's organisation.")],
    role: Annotated[list[str], typer.Option(help="operator, custodian, researcher or auditor; may be repeated.")],
    federation: Annotated[
        list[str] | None, typer.Option(help="May be repeated (default: all of the organisation's).")
    ] = None,
    email: Annotated[str, typer.Option(help="Where Keycloak can write to.")] = "",
    first_name: Annotated[str, typer.Option(help="As Keycloak shows it.")] = "",
    last_name: Annotated[str, typer.Option(help="As Keycloak shows it.")] = "",
) -> None:
    """Add a person, or change what is known of one."""
    from . import users

    project, topology = topology_of(context)
    wanted = users.Person(name, organisation, role, federation or (), email, first_name, last_name)
    report(users.add(project, topology, wanted), f"{name} is as given already.")


@user_app.command("list")
def listing(context: typer.Context) -> None:
    """Show people and pipelines."""
    from . import people, users

    _, topology = topology_of(context)
    console.print(users.table(people.everybody(topology)))


@user_app.command("disable")
def disable(context: typer.Context, name: Name) -> None:
    """Shut a person out, end their sessions and stop their runs."""
    from . import users

    project, topology = topology_of(context)
    report(users.disable(project, topology, name), f"{name} is disabled already; sessions were ended again.")
    say(f"Within two seconds the SuperLink refuses every token that {name} still holds.")


@user_app.command("enable")
def enable(context: typer.Context, name: Name) -> None:
    """Let a disabled person in again."""
    from . import users

    project, topology = topology_of(context)
    report(users.enable(project, topology, name), f"{name} is enabled already.")


@user_app.command("reset")
def reset(context: typer.Context, name: Name) -> None:
    """Give a person a new first password, and end their sessions."""
    from . import users

    project, topology = topology_of(context)
    report(users.reset(project, topology, name), "")
