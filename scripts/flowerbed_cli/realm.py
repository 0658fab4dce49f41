"""Keycloak as this kit reaches it: its realm made equal to federation.yaml and the list of people; single people's logins.

What the realm should be, and how Keycloak is asked, is `flowerbed_keycloak`'s; here are the project's secrets and passwords.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flowerbed_keycloak import Access, IdentityError, Password, Report, desired_state
from flowerbed_keycloak import disable as keycloak_disable
from flowerbed_keycloak import enable as keycloak_enable
from flowerbed_keycloak import reconcile as keycloak_reconcile
from flowerbed_keycloak import set_password as keycloak_set_password
from flowerbed_keycloak.state import KINDS
from flowerbed_topology import Topology

from . import consumers, passwords, people
from .errors import AccountError
from .project import Project
from .secrets import ensure_kept, token

# More lines than these say nothing that one does not.
MANY = 12


@dataclass
class FirstPasswords:
    """Gives people whom Keycloak does not know their first password, and remembers whom."""

    project: Project
    demo: frozenset[str]
    given: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> Password:
        """Return a password, and whether it has to be changed: demo people's are for good, others' are always new ones."""
        if name in self.demo:
            return passwords.kept(self.project, name), False
        self.given.append(name)
        return passwords.new(self.project, name), True

    def announced(self) -> list[str]:
        """Return a sentence for each person who is to be given one."""
        return [passwords.announcement(self.project, name) for name in self.given]


def access(project: Project, topology: Topology) -> Access:
    """Return the way to Keycloak's admin API.

    Raises:
        AccountError: there is no valid operator's certificate.
    """
    certificate, key = project.pki / "issued" / "operator.crt", project.pki / "private" / "operator.key"
    if not certificate.is_file() or not key.is_file():
        text = f"There is no operator's certificate ({certificate}), without which Keycloak cannot be administered"
        raise AccountError(f"{text}: run flowerbed ca issue operator, then make up.")
    return Access(
        url=topology.url("admin"),
        address=str(topology.edge.local),
        ca=project.pki / "ca.crt",
        operator=(certificate, key),
        kit_secret=ensure_kept(project, "keycloak-admin.secret", token).decode(),
        bootstrap_secret=ensure_kept(project, "keycloak-bootstrap.secret", token).decode(),
    )


def compare(project: Project, topology: Topology, *, dry_run: bool) -> tuple[Report, list[str]]:
    """Make Keycloak equal to federation.yaml and the list of people, or only look; return that, and whom it gave passwords.

    Raises:
        AccountError: Keycloak, the edge or the SuperLink does not answer, or refuses; it says whose first passwords were
            made until then.
    """
    listed = people.everybody(topology)
    first = FirstPasswords(project, frozenset(item["name"] for item in listed if item["kind"] == "demo"))
    try:
        wanted = desired_state(topology, listed, consumers.client_secrets(project, topology))
        report = keycloak_reconcile(access(project, topology), wanted, password_for=first, dry_run=dry_run)
    except IdentityError as error:
        raise AccountError("\n".join([str(error), *first.announced()])) from error
    return report, first.announced()


def reconcile(project: Project, topology: Topology) -> list[str]:
    """Make it equal; return a line for each difference, and for each first password where it lies."""
    report, announced = compare(project, topology, dry_run=False)
    return [*summary(report.lines), *announced]


def summary(lines: Sequence[str]) -> list[str]:
    """Return the lines as they are, or one that counts them where they are many, as in an empty Keycloak."""
    if len(lines) <= MANY:
        return [f"realm: {line}" for line in lines]
    counts = Counter(next((kind for kind in KINDS if line.startswith(f"{kind} ")), "other") for line in lines)
    return [f"realm: {len(lines)} differences ({', '.join(f'{kind} {count}' for kind, count in counts.items())})"]


def disable(project: Project, topology: Topology, name: str) -> None:
    """Let a person log in no more and end their sessions; may be done again."""
    change(project, topology, lambda way: keycloak_disable(way, name))


def enable(project: Project, topology: Topology, name: str) -> None:
    """Let a person log in, and forget their wrong attempts; may be done again."""
    change(project, topology, lambda way: keycloak_enable(way, name))


def set_password(project: Project, topology: Topology, name: str, password: str, *, temporary: bool) -> None:
    """Give a person a password, end their sessions, and forget their wrong attempts."""
    change(project, topology, lambda way: keycloak_set_password(way, name, password, temporary=temporary))


def change(project: Project, topology: Topology, work: Callable[[Access], None]) -> None:
    """Do one thing at Keycloak.

    Raises:
        AccountError: Keycloak or the edge does not answer, or refuses.
    """
    try:
        work(access(project, topology))
    except IdentityError as error:
        raise AccountError(str(error)) from error
