"""Which role may use which verb, on what: the one table, which docs/roles.md shows and the tests try cell by cell.

Not how a request is refused (`access`), nor what a token says (`tokens`). An account with several roles may what any of
them may. A verb that is not here is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from flowerbed_superlink.tokens import ROLES, Claims


class Scope(Enum):
    """What of a kind an account may use a verb on; the value is the table's word for it."""

    ALL = "all"
    FEDERATIONS = "their federations'"
    SITE = "their organisation's site"
    OWN = "their own, in their federations"


@dataclass(frozen=True)
class Verb:
    """One verb of the SuperLink."""

    name: str
    command: str
    does: str
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    changes: bool = False  # recorded before it is done, and not done unrecorded

    def scopes_of(self, claims: Claims) -> frozenset[Scope]:
        """Return what the account may use it on; empty: nothing."""
        return frozenset(scope for role, scope in self.scopes.items() if role in claims.roles)


_ALL, _FEDERATIONS, _SITE, _OWN = Scope.ALL, Scope.FEDERATIONS, Scope.SITE, Scope.OWN
_OVERSEERS = {"operator": _ALL, "auditor": _ALL}
_EVERYBODY = _OVERSEERS | {"researcher": _FEDERATIONS, "custodian": _FEDERATIONS}

_VERBS = (
    Verb("start-run", "flwr run", "Start a run in a federation.", {"researcher": _FEDERATIONS}, changes=True),
    Verb("stop-run", "flwr stop", "Stop a run.", {"researcher": _OWN, "operator": _ALL}, changes=True),
    Verb(
        "list-runs",
        "flwr list",
        "List one's own runs, or one run by its id.",
        _OVERSEERS | {"researcher": _FEDERATIONS},
    ),
    Verb("stream-logs", "flwr log", "Read a run's log.", {"researcher": _FEDERATIONS}),
    # Leaves a link that gives results away without a login: recorded like a change.
    Verb("pull-artifacts", "flwr pull", "Download a run's results.", {"researcher": _OWN}, changes=True),
    Verb("register-node", "flwr supernode register", "Register a SuperNode.", {"operator": _ALL}, changes=True),
    Verb("unregister-node", "flwr supernode unregister", "Remove a SuperNode.", {"operator": _ALL}, changes=True),
    Verb("list-nodes", "flwr supernode list", "List SuperNodes.", _OVERSEERS | {"custodian": _SITE}),
    Verb("list-federations", "flwr federation list", "List federations.", _EVERYBODY),
    Verb("show-federation", "flwr federation show", "Show a federation, its SuperNodes and runs.", _EVERYBODY),
    Verb("runs", "flowerbed runs", "List runs of all accounts.", _EVERYBODY | {"custodian": _SITE}),
    Verb("sites", "flowerbed sites", "List sites and their SuperNodes.", _EVERYBODY | {"custodian": _SITE}),
)
VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _VERBS}

# What anybody may call, since it is how somebody becomes known; `login` records what comes of it.
LOGIN_VERBS = frozenset({"get-login-details", "get-auth-tokens", "refresh-auth-tokens"})


def allows_run(scopes: Iterable[Scope], claims: Claims, owner: str, federation: str) -> bool:
    """Return whether an account may use a verb on a run of this owner (an account's id) in this federation (a name)."""
    inside = federation in claims.federations
    holds = {Scope.ALL: True, Scope.FEDERATIONS: inside, Scope.OWN: inside and owner == claims.aid, Scope.SITE: False}
    return any(holds[scope] for scope in scopes)


def table() -> str:
    """Return the table in Markdown: what each role may use each verb on; a dash means not at all."""
    heads = ["verb", "command", "what it does", *ROLES]
    rows = [heads, ["---"] * len(heads)]
    for verb in VERBS.values():
        cells = [verb.scopes[role].value if role in verb.scopes else "-" for role in ROLES]
        rows.append([f"`{verb.name}`", f"`{verb.command}`", verb.does, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
