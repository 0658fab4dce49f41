"""`flowerbed ca`: the authority's verbs. Calls `authority` with what `project` reads, and prints.

Errors are raised, not printed: whoever calls `app` shows them as one sentence and exits with 2 (`__main__` here).
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import custody, display, issuing
from .authority import Authority
from .errors import CaError, RequestRefused
from .index import REASONS
from .issuing import Issued
from .plan import Leaf, supernode_fingerprint
from .project import Project

app = typer.Typer(
    name="ca",
    help="The project's certificate authority, in ca/pki, in easy-rsa's layout.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Names = Annotated[list[str] | None, typer.Argument(help="Names of certificates; none means all that are due.")]
HANDED_OUT = "make up hands it to the containers"
Name = Annotated[str, typer.Argument(help="Name of a certificate, as in `flowerbed ca list`.")]


@app.callback()
def _options(
    context: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(envvar="FLOWERBED_PROJECT", show_envvar=False, help="Directory with federation.yaml."),
    ] = None,
) -> None:
    given = context.get_parameter_source("project")
    if isinstance(context.obj, Path) and (given is None or given.name != "COMMANDLINE"):
        project = context.obj  # from `flowerbed --project DIR`, which has looked at the environment already
    context.obj = Project(project or Path())


@app.command()
def init(
    context: typer.Context,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Encrypt the CA key with a passphrase.")] = False,
    root_only: Annotated[bool, typer.Option("--root-only", help="Make no other certificate and no list yet.")] = False,
) -> None:
    """Create the authority and every certificate of federation.yaml.

    What exists stays as it is.
    """
    project: Project = context.obj
    authority = project.authority()
    secret = custody.ask_new_passphrase() if passphrase and not authority.exists() else None
    created = authority.ensure_root(project.topology.title, passphrase=secret)
    typer.echo(f"{project.pki}: {'authority created' if created else 'authority exists, nothing changed'}")
    if not root_only:
        plan = project.plan()
        _report(authority.ensure_leaves(plan), len(plan))
        _report_crl(authority, signed=authority.ensure_crl())


@app.command()
def issue(context: typer.Context, names: Names = None) -> None:
    """Issue and renew what is due, or exactly the names given.

    Revoked ones included.
    """
    project: Project = context.obj
    authority, plan = project.authority(), project.plan()
    done = [authority.issue(project.leaf(name)) for name in names] if names else authority.ensure_leaves(plan)
    _report(done, len(plan))
    for site in project.sites_without_key():
        typer.echo(f"{site}: no client certificate yet, because {project.key_path(site)} is not there")


@app.command()
def renew(context: typer.Context, names: Annotated[list[str], typer.Argument(help="Names of certificates.")]) -> None:
    """Issue certificates again, as planned, before they are due."""
    project: Project = context.obj
    authority = project.authority()
    _report([authority.renew(project.leaf(name)) for name in names], len(names))


@app.command()
def sign(
    context: typer.Context,
    name: Name,
    request: Annotated[Path, typer.Option(help="The CSR, in PEM or DER.")],
    supernode_key: Annotated[Path | None, typer.Option(help="The site's SuperNode public key.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs both fingerprints.")] = False,
    request_sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the CSR in DER.")] = None,
    supernode_sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the SuperNode key in DER.")] = None,
) -> None:
    """Sign the public key of a custodian's CSR.

    Names and validity come from federation.yaml.
    """
    project: Project = context.obj
    content = _read(request)
    issuing.public_key_of_request(content)  # what cannot be signed is not asked about
    fingerprints = {"request": issuing.request_fingerprint(content)}
    keys = project.supernode_keys()
    if supernode_key:
        keys[name] = supernode_fingerprint(_read(supernode_key))
    leaf = project.leaf(name, keys)
    if name in keys:
        fingerprints["supernode"] = keys[name]
    _confirm(leaf, fingerprints, {"request": request_sha256, "supernode": supernode_sha256}, yes=yes)
    done = project.authority().sign(leaf, content)
    _report([done], 1)
    typer.echo(f"certificate: {project.pki / 'issued' / f'{name}.crt'}")


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name (all its valid certificates) or one serial.")],
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(REASONS)}.")] = "unspecified",
) -> None:
    """Revoke certificates and sign the revocation list."""
    project: Project = context.obj
    serials = project.authority().revoke(name, reason)
    for serial in serials:
        typer.echo(f"revoked {name} {serial}")
    typer.echo(HANDED_OUT if serials else f"{name}: was revoked before, nothing changed")


@app.command()
def crl(context: typer.Context) -> None:
    """Sign the revocation list if it is due.

    It is when something was revoked, or fewer than 20 days of it are left.
    """
    project: Project = context.obj
    authority = project.authority()
    _report_crl(authority, signed=authority.ensure_crl())


@app.command(name="list")
def list_(context: typer.Context) -> None:
    """List every certificate of the index."""
    project: Project = context.obj
    authority = project.authority()
    for line in display.listing(authority.status(), authority.store.index()):
        typer.echo(line)


@app.command()
def show(context: typer.Context, name: Name) -> None:
    """Show one certificate; `ca` is the root."""
    project: Project = context.obj
    for line in display.details(project.authority().certificate(name)):
        typer.echo(line)


@app.command()
def check(context: typer.Context) -> None:
    """Check root, leaves, keys, modes and revocation list.

    Exit code 2 if something must not be used as it is.
    """
    project: Project = context.obj
    found = project.authority().check()
    for finding in found:
        typer.echo(f"{'refused' if finding.refused else 'note'}: {finding.text}", err=finding.refused)
    if any(finding.refused for finding in found):
        raise typer.Exit(2)
    typer.echo(f"{project.pki}: {len(found)} notes" if found else f"{project.pki}: all is well")


def _report_crl(authority: Authority, *, signed: bool) -> None:
    days = authority.status().crl_days_left
    typer.echo(f"revocation list: {'signed' if signed else 'nothing changed'}, {days} days left")


def _report(done: list[Issued], total: int) -> None:
    for issued in done:
        typer.echo(f"{issued.action} {issued.name} until {issued.expires:%Y-%m-%d}, serial {issued.serial}")
    typer.echo(HANDED_OUT if done else f"{total} certificates, nothing changed")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestRefused(f"{path} cannot be read ({error.strerror}); name the file that was handed in.") from error


def _confirm(leaf: Leaf, found: dict[str, str], expected: dict[str, str | None], *, yes: bool) -> None:
    """Show what is about to be bound together; go on only if a person or the given fingerprints agree."""
    for line in display.binding(leaf, found):
        typer.echo(line)
    for what, fingerprint in found.items():
        given = expected[what]
        if given is not None and given.replace(":", "").lower() != fingerprint:
            raise RequestRefused(f"the {what}'s SHA-256 is {fingerprint}, not the {given} that was given.")
        if yes and given is None:
            raise RequestRefused(f"--yes needs --{what}-sha256; ask the custodian for it over another channel.")
    if not yes and not _agreed("Did the custodian confirm these fingerprints over another channel?"):
        raise RequestRefused("the fingerprints were not confirmed; nothing was signed.")


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:  # the end of the input is no consent
        typer.echo()
        return False


def main() -> int:
    """Run the commands on their own; an error is one sentence on stderr and exit code 2."""
    from flowerbed_topology import TopologyError

    try:
        app()
    except (CaError, TopologyError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'The system'}: {error.strerror or error}.\n")
        return 2
    finally:
        gc.freeze()  # else the interpreter's end goes through everything that was imported, for some 30 ms
    return 0
