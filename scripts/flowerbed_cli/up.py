"""`flowerbed up`: from a topology to a healthy federation. Every step can be run again; a second run changes nothing.

All checks come before the line marked below; what ran before a failed step goes on running.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from rich.console import Console
from rich.text import Text

from flowerbed_topology import Site, Topology

from . import (
    accounts,
    certificates,
    consumers,
    docker,
    firewall,
    lock,
    nginx,
    owned,
    preflight,
    reload,
    roster,
    secrets,
)
from .errors import DockerError, FlowerbedError
from .files import write_tree
from .health import keycloak_ready, started, wait_healthy
from .project import Project
from .render import render

CORE = ("postgres", "keycloak", "superlink", "serverapp", "edge")
SITE = ("gateway", "supernode", "clientapp")


@dataclass
class Progress:
    """Says what changed, a line for each step that changed something."""

    console: Console
    changes: list[str] = field(default_factory=list)

    def changed(self, what: str) -> None:
        """Note and show one change."""
        self.changes.append(what)
        self.console.print(Text.assemble(("  • ", "green"), what))

    def warn(self, what: str) -> None:
        """Show what is not as it should be, though the federation runs."""
        self.console.print(Text.assemble(("  ! ", "yellow"), what))

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show a spinner while something takes its time, or a line where nobody would see it turn."""
        if not self.console.is_terminal:
            self.console.print(Text(f"  … {what}"))
        with self.console.status(Text(what)):
            yield


def up(project: Project, topology: Topology, console: Console) -> list[str]:
    """Make the federation run as the topology says; return what changed (nothing, on a second run).

    Raises:
        PreflightError: something stands in the way; nothing was started.
        DockerError: a container did not become healthy; the message says which, and what it logged last.
        AccountError: the list of people, Keycloak or the edge refused or gave no answer.
        flowerbed_ca.errors.CaError: the authority refuses, for example because a certificate's subject changed.
        FlowerbedError: another command has been changing this federation for too long.
    """
    preflight.check(project, topology, project_id(project))
    # ---- from here on, things are made and started ----
    progress = Progress(console)
    with lock.changing(project, "flowerbed up"):
        make(project, topology, progress)
    return progress.changes


def make(project: Project, topology: Topology, progress: Progress) -> None:
    """Do all of that, checked and alone."""
    identity = secrets.ensure_project_id(project)
    keys = secrets.ensure_supernode_keys(project, topology)
    for line in certificates.ensure(project, topology, keys):
        progress.changed(line)
    for site in certificates.shut_out(project, topology):
        progress.warn(
            f"{site} is shut out, because its certificate was revoked: flowerbed ca issue {site} and make up admit it."
        )
    ensure_secrets(project, topology, progress)
    rendered = render(project, topology, keys, identity)
    nginx.check(project, rendered)
    for name in write_tree(project.build, rendered):
        progress.changed(f"rendered {name}")
    ensure_firewall(project, topology, progress)
    ensure_containers(project, topology, progress)


def project_id(project: Project) -> str | None:
    """Return this project's id, or None if it has none yet."""
    path = project.secrets / "kit" / "project-id"
    return path.read_text() if path.is_file() else None


def ensure_secrets(project: Project, topology: Topology, progress: Progress) -> None:
    """Lay out every container's secrets."""
    found = consumers.core_consumers(project, topology)
    for site in topology.sites:
        found += consumers.site_consumers(project, site.name)
    for name in secrets.ensure_deployed(project, found, before=lambda due: reload.note(project, due)):
        progress.changed(f"laid out secrets of {name}")


def ensure_firewall(project: Project, topology: Topology, progress: Progress) -> None:
    """Load the firewall table; where this user may not, say plainly what is missing, and go on."""
    try:
        if firewall.ensure_firewall(project, topology):
            progress.changed(f"loaded firewall table {firewall.table_name(topology)}")
    except DockerError as error:
        progress.warn(
            "The firewall table could not be loaded, so containers can reach services of this host that listen on all "
            f"addresses: run make up as root ({str(error).splitlines()[-1]})."
        )


def ensure_containers(project: Project, topology: Topology, progress: Progress) -> None:
    """Start the core, register SuperNodes, start the sites; wait until all are healthy."""
    before = started(topology)
    for name in ensure_departed(topology):
        progress.changed(f"removed {name}, whose site left federation.yaml")
    with progress.step("starting the core and the sites' gateways"):
        docker.run(docker.compose(project, "core", "up", "-d", "--remove-orphans", "--quiet-pull", *CORE))
        in_parallel(lambda site: ensure_site(project, site, ("gateway",)), topology.sites)
    # Before anything is waited for: a SuperNode is healthy only if its gateway shows the certificate that is valid now.
    restarted = reload.ensure_reloaded(project, topology)
    for name in restarted:
        progress.changed(f"restarted {name}")
    with progress.step("waiting for PostgreSQL, the SuperLink and the edge to be healthy"):
        wait_healthy(topology, [f"{topology.name}-{name}" for name in ("postgres", "superlink", "edge")])
    # Logins are brought in line beside the sites' start; where SuperNodes are new, before it: registering is an account's deed.
    ended = Event()
    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        told(pool.submit(ensure_logins, project, topology, ended), progress) as logins,
        ended_with_us(ended),
    ):
        missing = unregistered(project, topology)
        if missing:
            with progress.step("waiting for Keycloak, and bringing accounts in line with federation.yaml"):
                logins.result()
            register(project, topology, missing)
        with progress.step("starting SuperNodes and executors, and waiting for every container to be healthy"):
            in_parallel(lambda site: ensure_site(project, site, SITE), topology.sites)
            wait_healthy(topology, expected(project, topology))
            logins.result()
    for site in missing:
        progress.changed(f"registered SuperNode of {site}")
    for name, identity in sorted(started(topology).items()):
        if before.get(name) != identity and name not in restarted:
            progress.changed(f"started {name}")


@contextmanager
def ended_with_us(ended: Event) -> Iterator[None]:
    """Set an event when the block fails or is interrupted, for what goes on beside it."""
    try:
        yield
    except BaseException:
        ended.set()
        raise


def ensure_departed(topology: Topology) -> list[str]:
    """Remove the containers and networks, not the volumes, of sites that federation.yaml no longer names."""
    wanted = {topology.name} | {site.project for site in topology.sites}
    gone = {
        item["Name"].lstrip("/"): item["Id"]
        for item in docker.containers(topology.name)
        if item["Config"]["Labels"].get(owned.PROJECT) not in wanted
    }
    if gone:
        docker.run(["rm", "-f", *gone.values()])
    for network in owned.departed_networks(topology):
        docker.run(["network", "rm", network])
    return sorted(gone)


def expected(project: Project, topology: Topology) -> list[str]:
    """Return the containers that should be healthy: all but the SuperNodes of sites that the edge refuses."""
    refused = {f"{topology.name}-{site}-supernode" for site in certificates.shut_out(project, topology)}
    return [name for name in container_names(topology) if name not in refused]


def container_names(topology: Topology) -> list[str]:
    """Return the names of all containers that should run."""
    core = [f"{topology.name}-{service}" for service in CORE]
    return core + [f"{topology.name}-{site.name}-{service}" for site in topology.sites for service in SITE]


def ensure_site(project: Project, site: Site, services: Iterable[str]) -> None:
    """Start services of one site, after seeding its sample data where it has some."""
    if site.data.sample:
        ensure_seeded(project, site)
    docker.run(docker.compose(project, site.name, "up", "-d", "--remove-orphans", *services, overlay=site.settings.gpu))


def ensure_seeded(project: Project, site: Site) -> None:
    """Write the site's share of the sample table to its data volume, once; a file that is there is never touched."""
    marker = project.build / "seeded" / site.name
    written = marker.is_file() and marker.read_text() == site.data.share
    if written and docker.inspect("volume", [owned.data_volume(site)]):
        return
    arguments = [str(site.data.part), str(site.data.of), "/data/breast-cancer.csv"]
    docker.run(docker.compose(project, site.name, "run", "--rm", "-T", "seed", *arguments))
    write_tree(project.build, {f"seeded/{site.name}": site.data.share})


def in_parallel(work: Callable[[Site], object], sites: Iterable[Site]) -> None:
    """Do the same for every site, a few at a time; the first error is raised after all have ended."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(work, site) for site in sites]:
            done.result()


@dataclass(frozen=True)
class Logins:
    """What was brought in line of accounts and Keycloak's realm, and what could not be."""

    changes: list[str]
    warning: str = ""

    def show(self, progress: Progress) -> None:
        """Say so."""
        for line in self.changes:
            progress.changed(line)
        if self.warning:
            progress.warn(self.warning)


@contextmanager
def told(logins: Future[Logins], progress: Progress) -> Iterator[Future[Logins]]:
    """Show at the end what was done for logins, also where something else failed: where first passwords lie is said once."""
    try:
        yield logins
    except FlowerbedError as error:
        failed = logins.exception()
        if failed and failed is not error:
            progress.warn(str(failed))
        raise
    finally:
        if not logins.exception():
            logins.result().show(progress)


def ensure_logins(project: Project, topology: Topology, ended: Event | None = None) -> Logins:
    """Bring the list of people and Keycloak's realm in line with federation.yaml; wait for neither once it is `ended`."""
    from . import realm  # its libraries take most of a second to import

    changes = roster.ensure_roster(project, topology)
    # The slow starter, and all that is left to do waits for it: seconds count.
    wait_healthy(topology, [f"{topology.name}-keycloak"], ended, keycloak_ready)
    if certificates.operator_revoked(project):
        return Logins(
            changes,
            "Keycloak's realm was not compared with federation.yaml, because the operator's certificate was revoked: "
            "flowerbed ca issue operator and make up do that.",
        )
    # Asks for the list of people itself: what was listed before the wait, which is minutes at worst, may be old.
    return Logins(changes + realm.reconcile(project, topology))


def unregistered(project: Project, topology: Topology) -> list[str]:
    """Return the sites whose SuperNodes the SuperLink does not know yet."""
    known = {node["supernode"] for node in superlink_status(topology)["nodes"]}
    keys = secrets.supernode_keys(project, topology)
    return [site.name for site in topology.sites if keys[site.name] not in known]


def register(project: Project, topology: Topology, sites: list[str]) -> None:
    """Register SuperNodes with `flwr supernode register` as the kit's own account, in one container."""
    commands = "".join(f'flwr supernode register /keys/{site}.pub --name {site} & pids="$pids $!"\n' for site in sites)
    script = f"{accounts.LOGIN}pids=\n{commands}for pid in $pids; do wait $pid || exit 1; done\n"
    keys = ["-v", f"{project.build / 'supernode-keys'}:/keys:ro"]
    command = docker.compose(project, "core", "run", "--rm", "-T", *keys, "--entrypoint", "sh", "cli", "-euc", script)
    token = accounts.token(project, topology, accounts.KIT_CLIENT)
    docker.run(command, stdin=accounts.credentials(topology, token) + "\n")


def superlink_status(topology: Topology) -> dict[str, list[dict[str, Any]]]:
    """Return what the SuperLink's own container says of nodes and runs (`python -m flowerbed_superlink.status`)."""
    text = docker.run(["exec", f"{topology.name}-superlink", "python", "-m", "flowerbed_superlink.status"], timeout=60)
    answer: dict[str, list[dict[str, Any]]] = json.loads(text)
    return answer
