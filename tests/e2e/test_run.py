"""The shipped app on the real stack: every site in every round, privacy accounted, results kept, rows at home."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest

from .evidence import Value, changed_files, containers, content, database, writable
from .federation import CANARY, STACK, Federation, docker
from .running import APP, artefact, demo_run, download, pull, results, spent, superlink_status

ROUNDS = 3


@pytest.fixture(scope="module")
def run(federation: Federation) -> int:
    return demo_run(federation)[0]


@pytest.fixture(scope="module")
def pulled(federation: Federation, run: int) -> dict[str, bytes]:
    return artefact(federation, run)


def test_the_run_ends_completed_and_the_closing_table_names_every_site(federation: Federation, run: int) -> None:
    printed = demo_run(federation)[1]
    assert federation.run_status(run) == "finished:completed"
    for site in federation.topology.sites:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {site.name} ")]
        assert f"│ {ROUNDS:>6} │" in line
    assert f"after {ROUNDS} rounds" in printed


def test_every_site_takes_part_in_every_round_and_epsilon_grows(
    federation: Federation, run: int, pulled: dict[str, bytes]
) -> None:
    names = [site.name for site in federation.topology.sites]
    reports = [json.loads(pulled[f"round-{number:03}.json"]) for number in range(1, ROUNDS + 1)]
    for report in reports:
        assert sorted(report["sites"]) == sorted(names)
        assert report["refused"] == []
    for name in names:
        reported = [report["sites"][name]["epsilon"] for report in reports]
        assert 0 < reported[0] < reported[1] < reported[2] <= 5.0
        # what left the site is what its own durable record holds
        assert spent(federation, name, run) == pytest.approx(reported)


def test_the_model_is_better_than_chance(pulled: dict[str, bytes]) -> None:
    summary = json.loads(pulled["summary.json"])
    # 63 % of the patients are benign; DP-SGD at this epsilon reaches 90 to 98 %
    assert 0.8 < summary["accuracy"] <= 1.0
    with np.load(io.BytesIO(pulled["round-003.npz"]), allow_pickle=False) as model:
        assert {name: model[name].shape for name in model} == {"weight": (1, 30), "bias": (1,)}
        assert all(np.isfinite(model[name]).all() and model[name].any() for name in model)


def test_what_flwr_pull_returns_matches_its_checksums(pulled: dict[str, bytes]) -> None:
    sums = dict(reversed(line.split("  ")) for line in pulled["SHA256SUMS"].decode().splitlines())
    assert set(sums) == set(pulled) - {"SHA256SUMS"}
    assert {name: hashlib.sha256(pulled[name]).hexdigest() for name in sums} == sums
    assert set(sums) == {"summary.json", *(f"round-00{n}.{kind}" for n in (1, 2, 3) for kind in ("npz", "json"))}


def test_a_link_works_once(federation: Federation, run: int) -> None:
    link = pull(federation, run)
    assert link.startswith(federation.topology.url("superlink") + "/artifacts/")
    assert download(federation, link).status_code == 200
    second = download(federation, link)
    assert second.status_code == 410
    assert "used or has expired" in second.text
    guessed = link[:-1] + ("A" if link[-1] != "A" else "B")
    assert download(federation, guessed).status_code == 404


def test_each_run_has_a_record_of_its_own_at_each_site(federation: Federation, run: int) -> None:
    second = federation.submit(APP, "num-server-rounds=1 min-sites=3")
    federation.flwr(f"flwr log {second} flowerbed --stream", check=False)
    assert federation.run_status(second) == "finished:completed"
    for site in federation.topology.sites:
        assert len(spent(federation, site.name, run)) == ROUNDS
        assert len(spent(federation, site.name, second)) == 1
    assert "round-001.npz" in results(federation, second)


def test_registered_supernodes_are_online_under_their_sites_names(federation: Federation, run: int) -> None:
    assert run
    nodes = {node["name"]: node for node in superlink_status(federation)["nodes"]}
    for site in federation.topology.sites:
        assert nodes[site.name]["online"]


@pytest.mark.usefixtures("run")
def test_no_row_has_left_its_site(federation: Federation) -> None:
    values = {site.name: Value(f"{CANARY}{site.number}") for site in federation.topology.sites}
    places = {(name, place) for name in containers() for place in writable(federation, name)}
    found: dict[str, set[tuple[str, str]]] = {site: set() for site in values}
    for name, place in sorted(places):
        data = content(federation, name, place)
        for site, value in values.items():
            if value.found_in(data):
                found[site].add((name, place))
    # In the site's own executor, on the data volume, and so the search is known to find it; and nowhere else.
    assert found == {site: {(f"{STACK}-{site}-clientapp", "/data")} for site in values}
    mounts = [mount for name in containers() for mount in federation.inspect(name.removeprefix(f"{STACK}-"))["Mounts"]]
    searched = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    kept = docker("volume", "ls", "-q", "--filter", f"name={STACK}-").split()
    wanted = [name for name in kept if name.split("-")[1] in {"postgres", "results", *values}]
    assert set(wanted) <= searched, "a volume was not searched"


@pytest.mark.usefixtures("run")
def test_no_row_is_in_a_log_or_the_database_or_beside_an_image(federation: Federation) -> None:
    values = [Value(f"{CANARY}{site.number}") for site in federation.topology.sites]
    texts = {name: docker("logs", name).encode() for name in containers()}
    texts["pg_dumpall"] = database()
    # the dump is one of this very run's database, models included
    assert b"@flowerbed/breast-cancer" in texts["pg_dumpall"]
    assert [(name, value.text) for name, text in texts.items() for value in values if value.found_in(text)] == []
    assert {name: changed for name in containers() if (changed := changed_files(federation, name))} == {}


@pytest.mark.parametrize("form", sorted(Value(f"{CANARY}1").forms))
def test_the_search_knows_the_form(form: str) -> None:
    value = Value(f"{CANARY}1")
    assert form in value.found_in(b"before" + value.forms[form] + b"after")
    assert not Value(f"{CANARY}2").found_in(np.arange(1000, dtype=np.float64).tobytes())
