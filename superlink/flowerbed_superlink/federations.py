"""Who and which node belongs to which federation, as Flower asks: the topology's federations, the account that asks.

Not for roles by verb, which `access` decides before Flower sees a request. A federation's id is `@<consortium>/<name>`; it
reaches the SuperNodes of its organisations' sites and no others, told apart by the SHA-256 of their keys. What would
change a federation is refused by Flower's own manager, from which this one inherits only refusals.
"""

from __future__ import annotations

from pathlib import Path

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.proto.federation_pb2 import Account, Member
from flwr.supercore.constant import ActionType
from flwr.supercore.error import ApiErrorCode, EntitlementError, FlowerError
from flwr.supercore.typing import ActionContext, StartRunContext
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.federation.typing import Federation

from flowerbed_superlink import asking, sight
from flowerbed_superlink.directory import directory
from flowerbed_superlink.identity import Federation as Topology
from flowerbed_superlink.identity import parse_federation
from flowerbed_superlink.roles import VERBS, Scope
from flowerbed_superlink.status import fingerprint
from flowerbed_superlink.tokens import Claims
from flowerbed_superlink.watched import WatchedFile

NOT_ENTITLED = 1  # the code of our one entitlement


class FlowerbedFederationManager(NoOpFederationManager):
    """Federations and their nodes from `federation.json`, members from their tokens."""

    def __init__(self, config: Path) -> None:
        """Take the directory of `federation.json`."""
        super().__init__(simulation=False)
        self._topology: WatchedFile[Topology] = WatchedFile(config / "federation.json", parse_federation)
        self._keys: dict[int, str | None] = {}

    @property
    def topology(self) -> Topology:
        """The topology as it is now.

        Raises:
            MaterialError: the file cannot be used.
        """
        return self._topology.get()

    def name_of(self, federation_id: str) -> str | None:
        """Return the name of a federation that exists, None for any other id."""
        topology = self.topology
        name = federation_id.removeprefix(f"@{topology.consortium}/")
        return name if name in topology.federations and federation_id == f"@{topology.consortium}/{name}" else None

    def id_of(self, name: str) -> str:
        """Return the id of a federation's name."""
        return f"@{self.topology.consortium}/{name}"

    def names_for(self, claims: Claims) -> list[str]:
        """Return the federations that an account is in, by name."""
        return sorted(claims.federations & set(self.topology.federations))

    def exists(self, federation_id: str) -> bool:
        """Whether the topology has that federation; for one that oversees all, whether it has it or had it once.

        Runs outlive the federation that they were started in, and an operator must be able to stop them.
        """
        return self.name_of(federation_id) is not None or self._oversees(asking.claims())

    def has_member(self, flwr_aid: str, federation_id: str) -> bool:
        """Whether the account that asks is in the federation, or oversees all; nobody else is known to be."""
        claims, name = asking.claims_of(flwr_aid), self.name_of(federation_id)
        return claims is not None and self._sees(claims, name)

    def _sees(self, claims: Claims, name: str | None) -> bool:
        return name in claims.federations or self._oversees(claims)

    def _oversees(self, claims: Claims | None) -> bool:
        return claims is not None and Scope.ALL in VERBS["show-federation"].scopes_of(claims)

    def site_of(self, node_id: int) -> str | None:
        """Return the site whose SuperNode a node is, None for one that is no site's."""
        if node_id not in self._keys:
            found = self.linkstate.get_node_info(node_ids=[node_id])
            if not found:
                return None
            self._keys[node_id] = fingerprint(found[0].public_key)
        key = self._keys[node_id]
        return next((name for name, site in self.topology.sites.items() if site.supernode == key), None)

    def filter_nodes(self, node_ids: set[int], federation_id: str) -> set[int]:
        """Return those nodes that are the SuperLink or a SuperNode of a site of this federation."""
        name = self.name_of(federation_id)
        sites = set(self.topology.federations[name]) if name is not None else set()
        return {node for node in node_ids if node == SUPERLINK_NODE_ID or self.site_of(node) in sites}

    def has_node(self, node_id: int, federation_id: str) -> bool:
        """Whether a node is in the federation."""
        return bool(self.filter_nodes({node_id}, federation_id))

    def get_federations(self, flwr_aid: str) -> list[Federation]:
        """Return the federations that the account that asks is in, or all for one that oversees."""
        if (claims := asking.claims_of(flwr_aid)) is None:
            return []
        return [self._summary(name) for name in self.topology.federations if self._sees(claims, name)]

    def get_details(self, federation_id: str) -> Federation:
        """Return a federation with its SuperNodes, and the runs that the account that asks may see.

        Raises:
            FlowerError: there is no such federation; the answer is the one that Flower gives to who is no member.
        """
        if (name := self.name_of(federation_id)) is None:
            code = ApiErrorCode.FEDERATION_NOT_FOUND_OR_NOT_MEMBER
            raise FlowerError(code, f"Federation '{federation_id}' does not exist.")
        federation, claims = self._summary(name), asking.claims()
        nodes = self.linkstate.get_node_info()
        kept = self.filter_nodes({node.node_id for node in nodes}, federation_id)
        federation.nodes = [node for node in nodes if node.node_id in kept]
        if claims is not None:
            federation.runs = [run for run in sight.runs(self, claims, only=name) if run.federation_id == federation_id]
        return federation

    def _summary(self, name: str) -> Federation:
        accounts = directory().accounts().items()
        members = [
            Member(account=Account(id=aid, name=account.name), role="member")
            for aid, account in sorted(accounts, key=lambda item: item[1].name)
            if account.enabled and name in account.federations
        ]
        return Federation(
            id=self.id_of(name),
            description=f"Sites: {', '.join(self.topology.federations[name])}",
            members=members,
            nodes=[],
            runs=[],
            archived=False,
            simulation=False,
            config=None,
            can_invite_members=False,
            can_add_supernodes=False,
            member_count=len(members),
        )

    def get_simulation_config(self, federation_id: str) -> SimulationConfig | None:
        """Return None: nothing is simulated here."""
        _ = federation_id
        return None

    def can_execute(self, flwr_aid: str, action: ActionType, context: ActionContext) -> None:
        """Check what the middleware has checked already, for the two actions that this SuperLink offers.

        Raises:
            EntitlementError: the account may not.
        """
        claims = asking.claims_of(flwr_aid)
        if claims is not None and self._entitled(claims, action, context):
            return
        raise EntitlementError(f"{flwr_aid} may not {action.value}", "Your role does not allow it.", NOT_ENTITLED)

    def _entitled(self, claims: Claims, action: ActionType, context: ActionContext) -> bool:
        if action == ActionType.REGISTER_SUPERNODE:
            return bool(VERBS["register-node"].scopes_of(claims))
        if action == ActionType.START_RUN and isinstance(context, StartRunContext):
            name = self.name_of(context.federation_id)
            return name in claims.federations and bool(VERBS["start-run"].scopes_of(claims))
        return False
