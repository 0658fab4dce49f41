"""What takes part is killed in the middle of runs: the stack recovers by itself, and nothing finished is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from .federation import Federation
from .running import (
    APP,
    PATIENCE_S,
    SHORT_ROUNDS,
    artefact,
    finished_run,
    kill,
    results,
    rounds,
    run_of,
    spent,
    started_again,
    superlink_status,
    wait_for,
)

SITES = ("north", "south", "west")
# One after another in the same run, for as long as it goes on; a run that failed is followed by another.
VICTIMS = ("edge", "north-gateway", "south-supernode", "postgres", "superlink", "keycloak")
# Those whose death no run notices.
UNNOTICED = ("keycloak",)


class Training:
    """A run that goes on while things are killed, followed by another when it has failed with a reason."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.runs: list[int] = []

    def going_on(self) -> int:
        """Return a run that goes on and has finished a round."""
        return int(wait_for("a run has finished a round and goes on", self._started, 2 * PATIENCE_S))

    def _started(self) -> int:
        """Return the last run if it has finished a round and goes on, else 0; start one where none goes on."""
        if not self.runs or run_of(self.federation, self.runs[-1]).get("status") == "finished":
            self.runs.append(self.federation.submit(APP, f"num-server-rounds=200 {SHORT_ROUNDS}"))
        return self.runs[-1] if rounds(self.federation, self.runs[-1]) else 0

    def goes_on_or_fails_with_a_reason(self, run: int, done: int) -> None:
        """Wait until the run has finished another round, or has ended in a way that says why."""

        def settled() -> bool:
            known = run_of(self.federation, run)
            return known.get("status") == "finished" or rounds(self.federation, run) > done

        wait_for(f"run {run} goes on after round {done}, or ends", settled, PATIENCE_S)
        known = run_of(self.federation, run)
        if known["status"] == "finished" and known["sub_status"] != "completed":
            assert known["details"], f"run {run} ended as {known['sub_status']} without a reason"

    def goes_on(self, run: int, done: int) -> None:
        """Wait until the run has finished another round."""

        def settled() -> bool:
            assert run_of(self.federation, run).get("status") != "finished", f"run {run} ended after round {done}"
            return rounds(self.federation, run) > done

        wait_for(f"run {run} finishes another round after round {done}", settled, PATIENCE_S)


@pytest.fixture(scope="module")
def training(federation: Federation) -> Iterator[Training]:
    made = Training(federation)
    yield made
    for run in made.runs:
        federation.flwr(f"flwr stop {run} flowerbed", check=False)


@pytest.fixture(scope="module")
def earlier(federation: Federation) -> dict[str, object]:
    """What there is before anything is killed: a finished run and its results, the registered SuperNodes."""
    run = finished_run(federation)
    return {
        "run": run,
        "results": artefact(federation, run),
        "spent": {site: spent(federation, site, run) for site in SITES},
        "nodes": {node["name"]: node["id"] for node in superlink_status(federation)["nodes"]},
    }


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.usefixtures("earlier")
def test_the_stack_recovers_by_itself(federation: Federation, training: Training, victim: str) -> None:
    run = training.going_on()
    done, before = rounds(federation, run), federation.inspect(victim)
    charged = {site: spent(federation, site, run) for site in SITES}
    kill(federation, victim)
    started_again(federation, victim, before, 240 if victim == "keycloak" else 90)
    if victim in UNNOTICED:
        training.goes_on(run, rounds(federation, run))
    else:
        training.goes_on_or_fails_with_a_reason(run, done)
    wait_for("every SuperNode is online again", lambda: online(federation) >= set(SITES), 120)
    for site in SITES:
        now = spent(federation, site, run)
        # what was charged stays charged, and every later charge is greater
        assert now[: len(charged[site])] == charged[site]
        assert now == sorted(set(now))
        assert not now or now[0] > 0
    wait_for("status is fine", lambda: federation.flowerbed("status", check=False).returncode == 0, 60)


def online(federation: Federation) -> set[str]:
    return {node["name"] for node in superlink_status(federation).get("nodes", []) if node["online"]}


def test_earlier_runs_and_registrations_are_all_still_there(federation: Federation, earlier: dict[str, object]) -> None:
    run = int(str(earlier["run"]))
    assert federation.run_status(run) == "finished:completed"
    assert artefact(federation, run) == earlier["results"]
    assert {site: spent(federation, site, run) for site in SITES} == earlier["spent"]
    assert {node["name"]: node["id"] for node in superlink_status(federation)["nodes"]} == earlier["nodes"]


def test_stopping_the_stack_in_a_round_loses_no_finished_round(
    federation: Federation, training: Training, earlier: dict[str, object]
) -> None:
    run = training.going_on()
    finished = results(federation, run)
    started = time.monotonic()
    federation.flowerbed("down")
    # The longest grace period of the sites and that of the core, one after the other (compose/*.yaml): 30 s and 60 s.
    assert time.monotonic() - started < 90
    federation.flowerbed("up")
    assert set(finished) <= set(results(federation, run))
    kept = artefact(federation, run)
    reports = [json.loads(kept[name]) for name in sorted(kept) if name.endswith(".json") and name != "summary.json"]
    assert len(reports) >= 1
    assert all(f"round-{report['round']:03}.npz" in kept for report in reports)
    ended = wait_for(
        "the interrupted run ends",
        lambda: (known := run_of(federation, run)).get("status") == "finished" and known,
        240,
    )
    assert ended["sub_status"] in ("failed", "stopped")
    assert ended["details"]
    assert artefact(federation, int(str(earlier["run"]))) == earlier["results"]
