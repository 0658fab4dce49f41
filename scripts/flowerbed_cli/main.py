"""The `flowerbed` command: calls one function per verb, turns errors into one sentence, exit code 2."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from flowerbed_ca.cli import app as ca_app
from flowerbed_ca.errors import CaError
from flowerbed_topology import TopologyError

from .audit_cli import app as audit_app
from .errors import FlowerbedError
from .identity_verbs import app as identity_app
from .project import Project
from .terminal import console, report, say, topology_of

app = typer.Typer(
    help="Stand up and run a Flower federation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ca_app, name="ca", help="The certificate authority.")
app.add_typer(identity_app)
app.add_typer(audit_app, name="audit")


@app.callback()
def options(
    context: typer.Context,
    project: Annotated[
        Path | None, typer.Option(help="Directory with federation.yaml and its state (default: this clone).")
    ] = None,
) -> None:
    """Find the project."""
    # Directories that containers read through a mount must be open to their users, whatever the operator's umask.
    os.umask(0o022)
    # A path, because the authority's verbs know no more of the project than that.
    context.obj = Project.find(project).root


@app.command()
def certificates(context: typer.Context) -> None:
    """Create the authority and every certificate that is due."""
    from . import certificates as work
    from . import secrets

    project, topology = topology_of(context)
    changes = work.ensure(project, topology, secrets.ensure_supernode_keys(project, topology))
    report(changes, f"Certificates are as they should be ({project.pki}).")


@app.command()
def names(
    context: typer.Context,
    *,
    options: Annotated[bool, typer.Option("--options", help="Also what scripts/host.sh names is to be told.")] = False,
) -> None:
    """Print the names that this host has to resolve."""
    _, topology = topology_of(context)
    told = ["--mark", topology.name, "--address", str(topology.edge.bind)] if options else []
    typer.echo(" ".join((*told, topology.domain, *topology.hostnames)))


@app.command()
def images(
    context: typer.Context,
    torch: Annotated[str, typer.Option(help="cpu, or cuda for sites with GPUs.")] = "cpu",
) -> None:
    """Build the images that are missing or older than this clone."""
    from . import images as work

    if torch not in ("cpu", "cuda"):
        raise FlowerbedError(f"--torch {torch}: give cpu or cuda.")
    built = work.build(Project(context.obj), console, torch=torch)
    report([f"built {name}" for name in built], "Images are up to date.")


@app.command()
def up(context: typer.Context) -> None:
    """Start the federation, or apply federation.yaml to it."""
    from .up import up as work

    project, topology = topology_of(context)
    changes = work(project, topology, console)
    say(f"{len(changes)} changes." if changes else "Nothing changed.")
    say(f"The federation {topology.name} is healthy at {topology.url('superlink')}; make run trains on it.")


@app.command()
def down(context: typer.Context) -> None:
    """Stop the federation; volumes, certificates and secrets stay."""
    from .down import down as work

    project, topology = topology_of(context)
    with console.status("stopping"):
        work(project, topology)
    say("Stopped; its data are kept.")


@app.command()
def status(context: typer.Context) -> None:
    """Show a line per service and site; exit code 1 on trouble."""
    from .status import status as work

    project, topology = topology_of(context)
    if not work(project, topology, console):
        raise typer.Exit(1)


@app.command()
def logs(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="superlink, edge, north-supernode, ... (default: all)")] = "",
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Show what the containers log."""
    from . import docker

    _, topology = topology_of(context)
    names = sorted(item["Name"].lstrip("/") for item in docker.containers(topology.name))
    if not names:
        raise FlowerbedError(f"The federation {topology.name} has no containers: run make up first.")
    wanted = [name for name in names if not service or name == f"{topology.name}-{service}"]
    if not wanted:
        known = ", ".join(name.removeprefix(f"{topology.name}-") for name in names)
        raise FlowerbedError(f"There is no container {service!r}; there are: {known}.")
    for name in wanted:
        for line in docker.capture(["logs", "--tail", str(lines), name]).splitlines():
            console.print(f"{name}  {line}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def run(
    context: typer.Context,
    app_folder: Annotated[Path | None, typer.Option("--app", help="Folder of a Flower app.")] = None,
    run_config: Annotated[list[str] | None, typer.Option(help="As `flwr run --run-config` takes it.")] = None,
    pipeline: Annotated[str, typer.Option("--as", help="The pipeline that submits it.")] = "demo",
) -> None:
    """Submit an app, follow it, and show what came out."""
    from . import runs, summary

    project, topology = topology_of(context)
    ended = runs.run(project, topology, app_folder or runs.APP, run_config or [], console, pipeline)
    summary.show(ended, console)


@app.command()
def demo(context: typer.Context) -> None:
    """Build images, start the federation, train the first app."""
    from . import images as build
    from . import runs, summary
    from .up import up as start

    project, topology = topology_of(context)
    for name in build.build(project, console):
        say(f"built {name}")
    start(project, topology, console)
    summary.show(runs.run(project, topology, runs.APP, [], console), console)
    say("Next: make status · make run CONFIG='num-server-rounds=5' · docs/researcher.md · make down")


@app.command()
def clean(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    identity: Annotated[bool, typer.Option("--identity", help="Also delete the CA, keys and passwords.")] = False,
) -> None:
    """Remove the federation with its volumes and generated files."""
    from .down import clean as work

    project, topology = topology_of(context)
    what = "runs, results and site state" + (", the CA, keys and passwords" if identity else "")
    if not yes and typer.prompt(f"This deletes all {what}. Type {topology.name} to go on") != topology.name:
        raise FlowerbedError("Nothing was removed, as the name was not typed.")
    work(project, topology, identity=identity)
    say("Removed.")


def main() -> None:
    """Run the command line; every known error is one sentence on standard error and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        place = f" See {error.ctx.command_path} --help." if error.ctx else ""
        sys.stderr.write(f"{error.format_message()}{place}\n")
        sys.exit(2)
    except click.Abort:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    except (FlowerbedError, TopologyError, CaError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'The system'}: {error.strerror or error}.\n")
        sys.exit(2)
    finally:
        gc.freeze()  # else the interpreter's end goes through everything that was imported, for some 30 ms


if __name__ == "__main__":
    main()
