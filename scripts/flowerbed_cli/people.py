"""The list of accounts as the SuperLink's container keeps it (docs/contracts.md, "Identity"). What a person may be: `users`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flowerbed_topology import Topology

from . import docker
from .errors import AccountError

Account = dict[str, Any]
# What the list takes of an account (docs/contracts.md).
FIELDS = ("name", "kind", "email", "first_name", "last_name", "organisation", "roles", "federations", "enabled")


def ask(topology: Topology, *arguments: str, stdin: str | None = None) -> list[Any]:
    """Return the answer of `python -m flowerbed_superlink.people` in the SuperLink's container.

    Raises:
        AccountError: it refused, in a sentence of its own, or its answer is none.
    """
    command = ["docker", "exec", "-i", f"{topology.name}-superlink", "python", "-m", "flowerbed_superlink.people"]
    done = docker.call([*command, *arguments], stdin=stdin, timeout=60)
    if done.returncode:
        said = (done.stderr.strip() or "The SuperLink's list of people cannot be asked.").splitlines()[-1]
        # Docker's own words: there is no such container, or it does not run.
        absent = said.startswith("Error")
        raise AccountError(f"The federation {topology.name} is not running: run make up first." if absent else said)
    try:
        return list(json.loads(done.stdout))
    except ValueError as error:
        raise AccountError(
            "The SuperLink's list of people gave no answer that can be read: make up updates it."
        ) from error


def everybody(topology: Topology) -> list[Account]:
    """Return every account that the federation keeps, by name."""
    return sorted(ask(topology, "list"), key=lambda item: str(item["name"]))


def put(topology: Topology, accounts: Sequence[Account]) -> list[Account]:
    """Add accounts, or change those of that name; return the resulting list."""
    return ask(topology, "put", stdin=json.dumps(list(accounts)))


def stop(topology: Topology, name: str) -> list[int]:
    """Stop the runs of an account; return their ids."""
    return [int(run) for run in ask(topology, "stop", name)]


def one(topology: Topology, name: str) -> Account:
    """Return one person, demo people included.

    Raises:
        AccountError: there is none of that name, or it is a pipeline's or the kit's account.
    """
    found = {item["name"]: item for item in everybody(topology)}.get(name)
    if found is None:
        raise AccountError(f"There is nobody called {name!r}: flowerbed user list shows everybody.")
    if found["kind"] not in ("person", "demo"):
        raise AccountError(f"{name!r} is no person but a {found['kind']}: edit federation.yaml, then make up.")
    return dict(found)
