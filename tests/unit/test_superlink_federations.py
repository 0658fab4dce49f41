"""The federation manager: ids, entitlements, and that what it leaves to Flower's own manager is refused there."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest
from flwr.supercore.constant import ActionType, RunTime
from flwr.supercore.error import EntitlementError, FlowerError
from flwr.supercore.typing import ActionContext, RegisterSupernodeContext, StartRunContext
from flwr.superlink.federation import FederationManager, NoOpFederationManager

from flowerbed_superlink import sight
from flowerbed_superlink.asking import Asking, ask_as, claims_of
from flowerbed_superlink.errors import MaterialError
from flowerbed_superlink.federations import FlowerbedFederationManager
from flowerbed_superlink.submissions import chosen_federation
from flowerbed_superlink.tokens import Claims

AID = "p-" + "0" * 20
# Of Flower's own manager, what does nothing at all.
HARMLESS = {"ensure_default_federations_exist", "report_run_usage"}


@pytest.fixture
def manager(tmp_path: Path) -> FlowerbedFederationManager:
    site = {"organisation": "North Clinic", "supernode": "0" * 64}
    topology = {"domain": "flowerbed.test", "consortium": "testers", "sites": {"north": site}}
    (tmp_path / "federation.json").write_text(json.dumps(topology | {"federations": {"main": ["north"], "rare": []}}))
    return FlowerbedFederationManager(tmp_path)


@pytest.fixture(autouse=True)
def _nobody_asks() -> Iterator[None]:
    ask_as(Asking("192.0.2.1"))
    yield
    ask_as(Asking("192.0.2.1"))


def _asks(*roles: str, federations: tuple[str, ...] = ("main",)) -> None:
    claims = Claims(AID, "somebody", "north", frozenset(federations), frozenset(roles), 0.0, "flwr")
    ask_as(Asking("192.0.2.1", claims))


def _methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_what_is_left_to_flowers_manager_changes_nothing(manager: FlowerbedFederationManager) -> None:
    ours = {name for name in vars(FlowerbedFederationManager) if not name.startswith("_")}
    left = _methods(FederationManager) - ours
    assert left > HARMLESS
    for name in left - HARMLESS:
        method = getattr(NoOpFederationManager, name)
        arguments = [AID, "@testers/main", "x", "y"][: len(inspect.signature(method).parameters) - 1]
        with pytest.raises(FlowerError):
            method(manager, *arguments)


def test_ids_are_exact(manager: FlowerbedFederationManager) -> None:
    assert manager.name_of("@testers/main") == "main"
    assert manager.id_of("main") == "@testers/main"
    for other in ("main", "@testers/", "@testers/MAIN", "@others/main", "testers/main", "@testers/main/x", ""):
        assert manager.name_of(other) is None
        assert not manager.exists(other)
    with pytest.raises(FlowerError, match="does not exist"):
        manager.get_details("@testers/gone")
    assert manager.get_simulation_config("@testers/main") is None


def _start(federation_id: str) -> StartRunContext:
    return StartRunContext(federation_id=federation_id, runtime=RunTime.DEPLOYMENT)


def test_entitlements_follow_role_and_federation(manager: FlowerbedFederationManager) -> None:
    _asks("researcher")
    manager.can_execute(AID, ActionType.START_RUN, _start("@testers/main"))
    refused: list[tuple[ActionType, ActionContext]] = [
        (ActionType.START_RUN, _start("@testers/rare")),
        (ActionType.START_RUN, _start("@testers/gone")),
        (ActionType.REGISTER_SUPERNODE, RegisterSupernodeContext()),
        (ActionType.CREATE_FEDERATION, ActionContext()),
        (ActionType.START_RUN, ActionContext()),
    ]
    for action, context in refused:
        with pytest.raises(EntitlementError):
            manager.can_execute(AID, action, context)
    _asks("operator")
    manager.can_execute(AID, ActionType.REGISTER_SUPERNODE, RegisterSupernodeContext())
    with pytest.raises(EntitlementError):
        manager.can_execute(AID, ActionType.START_RUN, _start("@testers/main"))


def test_nobody_is_entitled_or_a_member_outside_of_their_own_request(manager: FlowerbedFederationManager) -> None:
    with pytest.raises(EntitlementError):
        manager.can_execute(AID, ActionType.REGISTER_SUPERNODE, RegisterSupernodeContext())
    assert not manager.has_member(AID, "@testers/main")
    copy_context().run(_asks, "researcher")
    assert claims_of(AID) is None
    _asks("researcher")
    assert manager.has_member(AID, "@testers/main")
    assert not manager.has_member("p-" + "1" * 20, "@testers/main")


def test_who_oversees_all_reaches_a_federation_that_is_no_more(manager: FlowerbedFederationManager) -> None:
    gone = "@testers/gone"
    for role, reaches in {"operator": True, "auditor": True, "researcher": False, "custodian": False}.items():
        _asks(role, federations=("main", "gone"))
        assert (manager.exists(gone), manager.has_member(AID, gone)) == (reaches, reaches), role
    ask_as(Asking("192.0.2.1"))
    assert not manager.exists(gone)
    _asks("operator", "researcher", federations=("main", "gone"))
    with pytest.raises(EntitlementError):
        manager.can_execute(AID, ActionType.START_RUN, _start(gone))


def test_a_topology_that_cannot_be_read_decides_nothing(manager: FlowerbedFederationManager, tmp_path: Path) -> None:
    (tmp_path / "federation.json").unlink()
    _asks("operator")
    with pytest.raises(MaterialError):
        manager.has_member(AID, "@testers/main")


def test_the_only_federation_is_chosen() -> None:
    from fastapi import HTTPException

    assert chosen_federation(["@testers/main"]) == "@testers/main"
    with pytest.raises(HTTPException, match="name one: --federation @a/b or @a/c"):
        chosen_federation(["@a/b", "@a/c"])
    with pytest.raises(HTTPException, match="in no federation"):
        chosen_federation([])


def test_a_sites_federations_are_named_to_who_is_in_them_or_answers_for_the_site(tmp_path: Path) -> None:
    sites = {name: {"organisation": f"{name} clinic", "supernode": "0" * 64} for name in ("north", "west")}
    topology = {"domain": "flowerbed.test", "consortium": "testers", "sites": sites}
    federations = {"main": ["north", "west"], "rare": ["west"]}
    (tmp_path / "federation.json").write_text(json.dumps(topology | {"federations": federations}))
    made = FlowerbedFederationManager(tmp_path)

    def seen(role: str, site: str) -> list[str]:
        return sight.federations(
            made, Claims(AID, "somebody", "west", frozenset({"rare"}), frozenset({role}), 0.0, "flwr"), site
        )

    assert seen("researcher", "west") == ["rare"]
    assert seen("custodian", "west") == ["main", "rare"]
    assert seen("operator", "north") == seen("auditor", "north") == ["main"]
    assert seen("researcher", "north") == seen("custodian", "north") == []
