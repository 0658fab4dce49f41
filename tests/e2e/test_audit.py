"""The audit trail of a running federation: what is in it, what must not be, and that anybody can verify an export."""

from __future__ import annotations

from pathlib import Path

from .client import PROTOBUF, Edge, bearer, identity, signed, supernode_key
from .federation import KIT, Federation
from .trail import recorded, records

ACTIVATE = "/v1/fleet/activate-node"


def test_every_site_is_in_it_from_its_registration_on(federation: Federation) -> None:
    for site in federation.topology.sites:
        registered = recorded(federation, verb="register-node", outcome="done", object=f"supernode {site.name}")
        assert registered["aid"] == "flowerbed"
        activated = recorded(federation, verb="activate-node", outcome="done", who=site.name)
        assert activated["organisation"] == site.organisation
        assert activated["source"].count(".") == 3
    assert not records(federation, verb="send-node-heartbeat", outcome="done")


def test_a_refused_supernode_is_recorded_by_its_certificates_name(federation: Federation, edge: Edge) -> None:
    north = identity(federation.root / "ca" / "pki", "north")
    wanted = {"verb": "activate-node", "outcome": "refused", "who": "north"}
    before = len(records(federation, **wanted))
    for _ in range(3):
        reply = edge.ask("fleet", ACTIVATE, who=north, **signed(supernode_key(federation, "south")), **PROTOBUF)
        assert reply.status == 403, reply
    assert "certificate bound to another SuperNode key" in recorded(federation, **wanted)["detail"]
    assert len(records(federation, **wanted)) <= before + 1, "one that repeats itself is recorded once a minute"


def test_a_route_that_is_closed_is_recorded(federation: Federation, edge: Edge) -> None:
    assert edge.ask("superlink", "/v1/control/start-automation", **bearer(federation)).status == 404
    assert recorded(federation, verb="other", outcome="refused")["detail"].startswith("404")


def test_the_live_trail_and_an_export_elsewhere_are_whole(federation: Federation, tmp_path: Path) -> None:
    assert "The audit trail is whole" in federation.flowerbed("audit", "verify").stdout
    export, ca = tmp_path / "audit.jsonl", tmp_path / "ca.crt"
    federation.flowerbed("audit", "export", str(export))
    ca.write_bytes((federation.root / "ca" / "pki" / "ca.crt").read_bytes())
    nowhere = Federation(tmp_path)
    assert "The export is whole" in nowhere.flowerbed("audit", "verify", str(export), "--ca", str(ca)).stdout
    export.write_bytes(export.read_bytes().replace(b'"outcome":"done"', b'"outcome":"none"', 1))
    done = nowhere.flowerbed("audit", "verify", str(export), "--ca", str(ca), check=False)
    assert (done.returncode, done.stderr.startswith("Record ")) == (1, True), done
    assert "activate-node" in federation.flowerbed("audit", "show", "--verb", "activate-node").stdout


def test_nothing_secret_is_in_it(federation: Federation) -> None:
    federation.flowerbed("audit", "export", str(federation.root / "build" / "audit.jsonl"))
    lines = (federation.root / "build" / "audit.jsonl").read_text().splitlines()
    trail = "\n".join(lines[:-1])
    secrets = [
        path for path in (federation.root / "secrets").rglob("*") if path.suffix in (".password", ".secret", ".token")
    ]
    assert len(secrets) > 5
    for path in secrets:
        assert path.read_text().strip() not in trail, path.name
    for sign in ("eyJ", "Bearer", "PRIVATE KEY", "BEGIN"):
        assert sign not in trail
    assert str(KIT) not in trail
