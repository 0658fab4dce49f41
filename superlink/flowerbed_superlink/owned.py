"""One service identity owns all SuperNodes, and deliveries are remembered; a part of our LinkState.

Flower lists and removes nodes by their owner's account, so that what one operator registered no other could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import Message
from flwr.common.constant import NOOP_FLWR_AID
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.error import EntitlementError
from flwr.supercore.state.schema.linkstate_models import Node, Run
from sqlalchemy import update

from flowerbed_superlink import asking, sight
from flowerbed_superlink.directory import disabled
from flowerbed_superlink.federations import NOT_ENTITLED, FlowerbedFederationManager
from flowerbed_superlink.kit import KIT_AID
from flowerbed_superlink.log import event

_AID = 6  # position of `flwr_aid` among the arguments of `create_run`


class OwnedLinkState(SqlLinkState):
    """LinkState whose nodes all belong to `flowerbed`."""

    @property
    def manager(self) -> FlowerbedFederationManager:
        """Return our federation manager."""
        manager = self.federation_manager
        if not isinstance(manager, FlowerbedFederationManager):
            raise TypeError("Flower does not use flowerbed's federation manager")
        return manager

    def create_run(self, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  as Flower has it
        """Create a run, and stop it if its account has been disabled.

        Asked after it was created: either the account was disabled before, which is seen here, or it is disabled later, and
        then `people stop` finds the run.

        Raises:
            EntitlementError: the account is disabled.
            psycopg.Error: that cannot be found out, so the run is stopped.
        """
        aid = kwargs.get("flwr_aid", args[_AID] if len(args) > _AID else None)
        run_id = super().create_run(*args, **kwargs)
        refused = True
        try:
            refused = bool(run_id and aid and aid in disabled())
        finally:
            if refused:
                self.stop_run(run_id)
        if refused:
            raise EntitlementError(f"{aid} is disabled", "This account is disabled: ask an operator.", NOT_ENTITLED)
        return run_id

    def create_node(self, owner_aid: str, owner_name: str, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  as Flower has it
        """Register a node for the service identity, whoever asks."""
        _ = owner_aid, owner_name
        return super().create_node(KIT_AID, KIT_AID, *args, **kwargs)

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Remove a node, whoever asks: that they may, the middleware has decided."""
        _ = owner_aid
        super().delete_node(KIT_AID, node_id)

    def get_node_info(
        self,
        *,
        node_ids: Sequence[int] | None = None,
        owner_aids: Sequence[str] | None = None,
        statuses: Sequence[str] | None = None,
    ) -> Sequence[NodeInfo]:
        """Return nodes; asked for an account's own, those that the account may list."""
        if owner_aids is None:
            return super().get_node_info(node_ids=node_ids, statuses=statuses)
        claims = asking.claims()
        if claims is None or claims.aid not in owner_aids:
            return []
        nodes = super().get_node_info(node_ids=node_ids, owner_aids=[KIT_AID], statuses=statuses)
        return sight.nodes(self.manager, claims, nodes)

    def get_message_ins(self, node_id: int, *args: Any, **kwargs: Any) -> list[Message]:  # noqa: ANN401  as Flower has it
        """Return a node's messages, and remember which runs it was given work of; neither without the other."""
        with self.session():
            messages = super().get_message_ins(node_id, *args, **kwargs)
            if messages and (site := self.manager.site_of(node_id)) is not None:
                for run in {message.metadata.run_id for message in messages}:
                    sight.ran().remember(run, site)
        return messages

    def adopt(self) -> None:
        """Give the service identity every node, and what was registered before logins existed; changes nothing twice.

        Runs of that time were in Flower's one federation without accounts: they move to the first of ours by name.
        """
        federation = self.manager.id_of(min(self.manager.topology.federations))
        with self.session() as session:
            nodes = session.execute(
                update(Node).where(Node.owner_aid != KIT_AID).values(owner_aid=KIT_AID, owner_name=KIT_AID)
            )
            runs = session.execute(update(Run).where(Run.flwr_aid == NOOP_FLWR_AID).values(flwr_aid=KIT_AID))
            moved = session.execute(
                update(Run).where(Run.federation_id == NOOP_FEDERATION_ID).values(federation_id=federation)
            )
        counts = [getattr(result, "rowcount", 0) for result in (nodes, runs, moved)]
        if any(counts):
            event("adopted", nodes=counts[0], runs=counts[1], moved=counts[2], federation=federation)
