"""Stops the runs of one account, as `python -m flowerbed_superlink.people stop NAME` asks; not for single runs (`flwr stop`).

A process of its own beside the serving SuperLink: both work through Flower's LinkState on the same database.
"""

from __future__ import annotations

from flwr.common.constant import Status
from sqlalchemy.exc import SQLAlchemyError

from flowerbed_superlink.errors import PeopleError
from flowerbed_superlink.federations import FlowerbedFederationManager
from flowerbed_superlink.kit import KIT_AID
from flowerbed_superlink.settings import settings
from flowerbed_superlink.state import PostgresLinkState, PostgresLinkStateFactory, PostgresObjectStoreFactory
from flowerbed_superlink.trail import TrailUnavailable, trail


def stop(aid: str, name: str) -> list[int]:
    """Stop what an account has pending or running; return the runs' ids.

    Raises:
        PeopleError: it could not be recorded, or Flower's database is away, so nothing more was stopped.
    """
    try:
        state = _state()
        runs = state.get_run_info(flwr_aids=[aid], statuses=[Status.PENDING, Status.STARTING, Status.RUNNING])
        return [run.run_id for run in runs if _stop(state, run.run_id, name)]
    except SQLAlchemyError as error:
        what = str(error).splitlines()[0]
        raise PeopleError(f"Flower's database does not answer, so runs of {name!r} may go on: {what}") from error


def _stop(state: PostgresLinkState, run: int, name: str) -> bool:
    _record(run, name, "started")
    stopped = state.stop_run(run)
    _record(run, name, "done" if stopped else "failed")
    return stopped


def _record(run: int, name: str, outcome: str) -> None:
    detail = f"all runs of {name} are stopped"
    try:
        trail().record(
            who=KIT_AID,
            aid=KIT_AID,
            organisation="",
            verb="stop-run",
            object=f"run {run}",
            outcome=outcome,
            source="local",
            run=run,
            detail=detail,
        )
    except TrailUnavailable as error:
        raise PeopleError(f"{error} Runs of {name!r} may go on.") from error


def _state() -> PostgresLinkState:
    database = settings().database
    store = PostgresObjectStoreFactory(database)
    state = PostgresLinkStateFactory(database, FlowerbedFederationManager(settings().config), store).state()
    if not isinstance(state, PostgresLinkState):
        raise PeopleError("Flower does not use flowerbed's LinkState: its hooks have changed.")
    return state
