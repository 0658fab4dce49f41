"""What the edge and the SuperLink behind it refuse, seen by the client and in the server's log, and what they serve."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from flowerbed_ca.authority import Authority
from flowerbed_ca.plan import certificate_plan, supernode_fingerprint

from . import probe
from .client import (
    PROTOBUF,
    Edge,
    Identity,
    Log,
    Reply,
    ask,
    bearer,
    copied_authority,
    identity,
    new_supernode_key,
    signed,
    supernode_key,
)
from .federation import STACK, Federation, docker

HEARTBEAT = "/v1/fleet/send-node-heartbeat"
TLS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def north(federation: Federation) -> Identity:
    return identity(federation.root / "ca" / "pki", "north")


def heartbeat(federation: Federation, site: str) -> bytes:
    node = int(federation.sql(f"SELECT node_id FROM node WHERE name = '{site}' AND status <> 'unregistered'"))  # noqa: S608 - a site of ours
    # The SQL type is signed, the protocol's is not.
    return SendNodeHeartbeatRequest(node=Node(node_id=node % 2**64), heartbeat_interval=30).SerializeToString()


def beat(edge: Edge, who: Identity, site: str, key: str | None = None) -> Reply:
    """Send a heartbeat as `site`, with the SuperNode key of `key` (its own by default)."""
    headers = signed(supernode_key(edge.federation, key or site))
    return edge.ask("fleet", HEARTBEAT, who=who, body=heartbeat(edge.federation, site), **headers, **PROTOBUF)


def stranger(federation: Federation, directory: Path, name: str, **options: object) -> tuple[Authority, Identity]:
    """Return a copy of the federation's authority in which `name` has no certificate yet, and where it will be."""
    copied = copied_authority(federation, directory, **options)
    found = identity(directory / "pki", name)
    found.certificate.unlink()
    return copied, found


def reissue(federation: Federation, authority: Authority, name: str, keys: dict[str, str] | None = None) -> None:
    known = keys or json_keys(federation)
    authority.issue(next(leaf for leaf in certificate_plan(federation.topology, known) if leaf.name == name))


def json_keys(federation: Federation) -> dict[str, str]:
    content = json.loads((federation.root / "build" / "superlink" / "federation.json").read_text())
    return {name: site["supernode"] for name, site in content["sites"].items()}


def test_a_site_with_its_own_certificate_and_key_is_served(edge: Edge, north: Identity, log: Log) -> None:
    reply = beat(edge, north, "north")
    assert reply.status == 200, reply
    line = log.find("edge", path=HEARTBEAT, status=200, client=str(edge_bridge(edge.federation)))
    assert (line["verify"], line["subject"]) == ("SUCCESS", "CN=north,OU=site,O=North Clinic")


def edge_bridge(federation: Federation) -> IPv4Address:
    """The address that every request from the host comes with."""
    return federation.topology.subnet("edge")[1]


def test_without_a_client_certificate_nothing_is_served(edge: Edge, federation: Federation, log: Log) -> None:
    headers = signed(supernode_key(federation, "north"))
    reply = edge.ask("fleet", HEARTBEAT, body=heartbeat(federation, "north"), **headers, **PROTOBUF)
    assert reply.status == 400
    assert b"No required SSL certificate was sent" in reply.body
    line = log.find("edge", status=400, verify="NONE", server=f"fleet.{federation.topology.domain}")
    assert line["subject"] == ""


def test_a_certificate_of_a_foreign_authority_is_refused(
    edge: Edge, federation: Federation, log: Log, tmp_path: Path
) -> None:
    """Same names, same binding, even the same name of the root: only the root's key differs."""
    foreign = Authority(tmp_path / "foreign")
    foreign.ensure_root(federation.topology.title)
    reissue(federation, foreign, "north")
    reply = beat(edge, identity(tmp_path / "foreign", "north"), "north")
    assert reply.status == 400
    assert b"The SSL certificate error" in reply.body
    line = log.find("edge", status=400, path=HEARTBEAT)
    assert line["subject"] == "CN=north,OU=site,O=North Clinic"
    assert line["verify"].startswith("FAILED:")


def test_an_expired_certificate_is_refused(edge: Edge, federation: Federation, log: Log, tmp_path: Path) -> None:
    two_years_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=730)
    copied, expired = stranger(federation, tmp_path, "north", now=lambda: two_years_ago)
    reissue(federation, copied, "north")
    reply = beat(edge, expired, "north")
    assert reply.status == 400
    assert b"The SSL certificate error" in reply.body
    assert log.find("edge", status=400, path=HEARTBEAT)["verify"] == "FAILED:certificate has expired"


def test_a_server_certificate_is_none_for_clients(edge: Edge, federation: Federation, log: Log) -> None:
    reply = beat(edge, identity(federation.root / "ca" / "pki", "gateway-north"), "north")
    assert reply.status == 400
    assert log.find("edge", status=400, path=HEARTBEAT)["verify"].startswith("FAILED:")


def test_the_operators_certificate_speaks_for_no_site(edge: Edge, federation: Federation, log: Log) -> None:
    reply = beat(edge, identity(federation.root / "ca" / "pki", "operator"), "north")
    assert (reply.status, reply.detail) == (403, "The client certificate or SuperNode key is not valid.")
    assert log.find("superlink", event="refused")["why"] == "the certificate is bound to no SuperNode key"


def test_one_organisations_certificate_does_not_serve_anothers_key(edge: Edge, north: Identity, log: Log) -> None:
    reply = beat(edge, north, "south")
    assert (reply.status, reply.detail) == (403, "The client certificate does not belong to this SuperNode.")
    line = log.find("superlink", event="refused", site="north", status=403)
    assert line["why"] == "certificate bound to another SuperNode key"
    assert line["organisation"] == "North Clinic"
    assert line["supernode"] == json_keys(edge.federation)["south"]
    assert log.find("edge", path=HEARTBEAT, status=403)["verify"] == "SUCCESS"


def test_a_key_that_no_certificate_is_bound_to_is_refused(
    edge: Edge, federation: Federation, north: Identity, log: Log
) -> None:
    headers = signed(new_supernode_key())
    reply = edge.ask("fleet", HEARTBEAT, who=north, body=heartbeat(federation, "north"), **headers, **PROTOBUF)
    assert reply.status == 403
    assert log.find("superlink", event="refused", site="north")["why"] == "certificate bound to another SuperNode key"


@pytest.fixture
def newcomer(federation: Federation, tmp_path: Path) -> tuple[Identity, dict[str, str], str]:
    """A new SuperNode key, with a certificate for north that is truly bound to it."""
    key = new_supernode_key()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = supernode_fingerprint(public)
    copied, found = stranger(federation, tmp_path, "north")
    found.key.unlink()
    reissue(federation, copied, "north", json_keys(federation) | {"north": digest})
    return found, signed(key), digest


def test_a_key_that_is_not_the_sites_is_refused(
    edge: Edge, federation: Federation, newcomer: tuple[Identity, dict[str, str], str], log: Log
) -> None:
    who, headers, digest = newcomer
    reply = edge.ask("fleet", HEARTBEAT, who=who, body=heartbeat(federation, "north"), **headers, **PROTOBUF)
    assert (reply.status, reply.detail) == (403, "The client certificate does not belong to this SuperNode.")
    assert log.find("superlink", event="refused", supernode=digest)["why"] == "SuperNode key not the site's"


def test_a_key_that_is_not_registered_is_refused(
    edge: Edge, federation: Federation, newcomer: tuple[Identity, dict[str, str], str]
) -> None:
    """The topology knows the key and the certificate is bound to it, but nobody has registered it: Flower refuses."""
    who, headers, digest = newcomer
    path = federation.root / "build" / "superlink" / "federation.json"
    original = path.read_text()
    try:
        replace(path, original.replace(json_keys(federation)["north"], digest))
        reply = edge.ask("fleet", HEARTBEAT, who=who, body=heartbeat(federation, "north"), **headers, **PROTOBUF)
    finally:
        replace(path, original)
    assert (reply.status, reply.detail) == (401, "Invalid SuperNode authentication")


def replace(path: Path, content: str) -> None:
    """Replace a mounted file by rename, as `flowerbed up` does, and give the SuperLink its second to notice."""
    fresh = path.with_name(".fresh")
    fresh.write_text(content)
    fresh.chmod(0o644)
    fresh.replace(path)
    time.sleep(1.2)


@pytest.fixture
def replaced(federation: Federation, tmp_path: Path) -> Iterator[tuple[Identity, str]]:
    """West's certificate after west was given a new one: still valid, and its serial; put away, as a thief would."""
    pki = federation.root / "ca" / "pki"
    held = identity(pki, "west")
    old = Identity(tmp_path / "west.crt", tmp_path / "west.key")
    old.certificate.write_bytes(held.certificate.read_bytes())
    old.key.write_bytes(held.key.read_bytes())
    listing = federation.flowerbed("ca", "list").stdout
    serial = next(line.split()[4] for line in reversed(listing.splitlines()) if line.endswith("/CN=west"))
    federation.flowerbed("ca", "renew", "west")
    federation.flowerbed("up")
    yield old, serial
    federation.flowerbed("up")


def test_a_revoked_certificate_is_refused_on_open_connections_too(
    edge: Edge, federation: Federation, replaced: tuple[Identity, str], log: Log
) -> None:
    old, serial = replaced
    body, headers = heartbeat(federation, "west"), {**signed(supernode_key(federation, "west")), **PROTOBUF}
    with closing(edge.connection("fleet", old)) as connection:
        assert ask(connection, HEARTBEAT, body=body, **headers).status == 200
        federation.flowerbed("ca", "revoke", serial)
        revoked = time.monotonic()
        hand_crl_to_superlink(federation)
        while (reply := ask(connection, HEARTBEAT, body=body, **headers)).status == 200:
            assert time.monotonic() - revoked < 5, "a revoked certificate is served for more than 5 s"
            time.sleep(0.1)
    assert (reply.status, reply.detail) == (403, "The client certificate is revoked.")
    line = log.find("superlink", event="refused", why="revoked", site="west")
    assert line["serial"].lstrip("0") == serial.lstrip("0")

    changed = federation.flowerbed("up").stdout
    assert "laid out secrets of edge" in changed
    assert ask_again(edge, old, body, headers).status == 400
    assert log.find("edge", status=400, path=HEARTBEAT)["verify"] == "FAILED:certificate revoked"
    assert beat(edge, identity(federation.root / "ca" / "pki", "west"), "west").status == 200
    assert federation.flowerbed("status", check=False).returncode == 0


def test_a_site_whose_only_certificate_is_revoked_is_shut_out_and_admitted_again(federation: Federation) -> None:
    try:
        federation.flowerbed("ca", "revoke", "west")
        shut_out = federation.flowerbed("up").stdout
        assert "west is shut out" in " ".join(shut_out.split())
        deadline = time.monotonic() + 60
        while federation.flowerbed("status", check=False).returncode == 0:
            assert time.monotonic() < deadline, "a site that is shut out still counts as healthy"
            time.sleep(1)
    finally:
        federation.flowerbed("ca", "issue", "west")
        federation.flowerbed("up")
    assert federation.flowerbed("status", check=False).returncode == 0


def ask_again(edge: Edge, who: Identity, body: bytes, headers: dict[str, str]) -> Reply:
    """Ask on new connections until the edge's new workers have taken over from the old ones, 10 s at most."""
    deadline = time.monotonic() + 10
    while (reply := edge.ask("fleet", HEARTBEAT, who=who, body=body, **headers)).status != 400:
        assert time.monotonic() < deadline, reply
        time.sleep(0.2)
    return reply


def hand_crl_to_superlink(federation: Federation) -> None:
    """Give the new list to the SuperLink alone; NGINX neither gets it nor reloads."""
    secrets = federation.root / "secrets" / "superlink"
    fresh = secrets / ".crl.pem.test"
    fresh.write_bytes((federation.root / "ca" / "pki" / "crl.pem").read_bytes())
    os.chown(fresh, 9703, 9703)
    fresh.chmod(0o400)
    fresh.replace(secrets / "crl.pem")


CLOSED = [
    ("fleet", "/v1/runtime/acquire-task"),
    ("fleet", "/v1/control/list-runs"),
    ("fleet", "/docs"),
    ("fleet", "/openapi.json"),
    ("fleet", "/health"),
    ("fleet", "/v1/fleet/register-node"),
    ("fleet", "/v1/fleet/unregister-node"),
    ("fleet", "/v1/fleet/nothing-of-this-name"),
    ("superlink", "/v1/runtime/acquire-task"),
    ("superlink", "/v1/runtime/create-task"),
    ("superlink", "/v1/runtime/start-automation"),
    ("superlink", "/v1/fleet/send-node-heartbeat"),
    ("superlink", "/v1/control/start-automation"),
    ("superlink", "/v1/control/list-automations"),
    ("superlink", "/v1/control/list-connectors"),
    ("superlink", "/v1/control/begin-connector-oauth"),
    ("superlink", "/v1/control/add-app"),
    ("superlink", "/v1/control/create-federation"),
    ("superlink", "/v1/control/nothing-of-this-name"),
    ("superlink", "/docs"),
    ("superlink", "/openapi.json"),
    ("superlink", "/"),
]


@pytest.mark.parametrize(("server", "path"), CLOSED)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_is_not_offered_is_not_found(
    edge: Edge, north: Identity, federation: Federation, log: Log, server: str, path: str, method: str
) -> None:
    who = north if server == "fleet" else None
    headers = signed(supernode_key(federation, "north")) if server == "fleet" else {}
    reply = edge.ask(server, path, method=method, who=who, **headers, **PROTOBUF)
    assert reply.status in ((404,) if method == "POST" or "/v1/" not in path else (403, 404)), reply
    assert log.find("edge", path=path, method=method)["status"] == reply.status
    assert b"swagger" not in reply.body.lower()


TRICKS = [
    ("superlink", "//v1/runtime/acquire-task"),
    ("superlink", "/v1//runtime/acquire-task"),
    ("superlink", "/v1/control/../runtime/acquire-task"),
    ("superlink", "/v1/control/..%2fruntime/acquire-task"),
    ("superlink", "/v1/control/%2e%2e/runtime/acquire-task"),
    ("superlink", "/v1/control/..;/runtime/acquire-task"),
    ("superlink", "/v1/control/.%2e%2fruntime%2facquire-task"),
    ("superlink", "/v1/control/%2e%2e%2f%2e%2e%2fdocs"),
    ("superlink", "/v1/control//start-automation"),
    ("superlink", "/v1/control/start-automation/"),
    ("superlink", "/v1/control/start%2dautomation"),
    ("superlink", "/V1/CONTROL/START-AUTOMATION"),
    ("superlink", "/v1/control/start-automation?x=/v1/control/list-runs"),
    ("superlink", "/v1/control/list-runs%00/../start-automation"),
    ("superlink", "/artifacts/../v1/runtime/acquire-task"),
    ("superlink", "/v1/control/\\..\\runtime\\acquire-task"),
    ("fleet", "/v1/fleet/../control/list-runs"),
    ("fleet", "/v1/fleet/..%2fcontrol/list-runs"),
    ("fleet", "/v1/fleet/..;/control/list-runs"),
    ("fleet", "//v1/fleet/send-node-heartbeat/../../runtime/acquire-task"),
    ("fleet", "/v1/fleet/%252e%252e/control/list-runs"),
]


@pytest.mark.parametrize(("server", "path"), TRICKS)
def test_no_spelling_of_a_path_leads_around_the_lists(
    edge: Edge, north: Identity, federation: Federation, server: str, path: str
) -> None:
    who = north if server == "fleet" else None
    headers = signed(supernode_key(federation, "north")) if server == "fleet" else {}
    reply = edge.ask(server, path, who=who, **headers, **PROTOBUF)
    assert reply.status in (400, 403, 404), reply


@pytest.mark.parametrize("target", ["https://superlink:8000/v1/runtime/acquire-task", "superlink:8000"])
def test_the_edge_is_no_open_proxy(edge: Edge, target: str) -> None:
    method = "GET" if "/" in target else "CONNECT"
    assert edge.ask("superlink", target, method=method).status in (400, 405, 421)


def test_a_client_cannot_bring_the_edges_own_headers(edge: Edge, federation: Federation, north: Identity) -> None:
    """The edge overwrites them: a request without a certificate gains nothing, and one that is served loses nothing."""
    forged = {
        "X_Flowerbed_Edge": "x" * 64,
        "X_Flowerbed_Client_Cert": "-----BEGIN%20CERTIFICATE-----",
        "X_Forwarded_For": "127.0.0.1",
    }
    headers = signed(supernode_key(federation, "north"))
    reply = edge.ask(
        "fleet", HEARTBEAT, who=north, body=heartbeat(federation, "north"), **headers, **PROTOBUF, **forged
    )
    assert reply.status == 200
    assert edge.ask("superlink", "/v1/control/list-federations", **PROTOBUF, **forged).status == 401
    forged |= bearer(federation)
    assert edge.ask("superlink", "/v1/control/list-federations", **PROTOBUF, **forged).status == 200
    assert edge.ask("superlink", "/v1/runtime/acquire-task", **PROTOBUF, **forged).status == 404


def test_plain_http_is_answered_with_a_redirect_or_not_at_all(federation: Federation) -> None:
    topology = federation.topology
    answers = {}
    for host in (f"superlink.{topology.domain}", f"fleet.{topology.domain}", "localhost", "unknown.test"):
        connection = http.client.HTTPConnection("127.0.0.1", topology.edge.http_port, timeout=10)
        try:
            reply = ask(connection, "/v1/control/list-runs", Host=host)
            answers[host] = (reply.status, reply.headers.get("location", ""))
        except http.client.RemoteDisconnected:
            answers[host] = (0, "closed")
        connection.close()
    assert answers.pop(f"superlink.{topology.domain}") == (301, f"{topology.url('superlink')}/v1/control/list-runs")
    assert set(answers.values()) == {(0, "closed")}


def test_plain_http_on_the_tls_port_is_refused(federation: Federation, log: Log) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", federation.topology.edge.https_port, timeout=10)
    try:
        reply = ask(connection, "/v1/control/list-runs", Host=f"superlink.{federation.topology.domain}")
        assert reply.status == 400
        assert b"plain HTTP request was sent to HTTPS port" in reply.body
    except http.client.RemoteDisconnected:
        pass  # the server that rejects handshakes answers it by closing
    assert [line for line in log.lines("superlink") if line.get("path") == "/v1/control/list-runs"] == []


def s_client(federation: Federation, *options: str, server_name: bool = True) -> str:
    """Run openssl's own client, which speaks versions that Python no longer offers."""
    port, name = federation.topology.edge.https_port, f"superlink.{federation.topology.domain}"
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
    command += ["-servername", name] if server_name else ["-noservername"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_tls_is_refused_by_the_server(federation: Federation, version: str) -> None:
    answer = s_client(federation, version, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert protocol version" in answer, answer
    assert "BEGIN CERTIFICATE" not in answer


@pytest.mark.parametrize(("version", "name"), [(TLS[0], "TLSv1.2"), (TLS[1], "TLSv1.3")])
def test_new_tls_is_served(federation: Federation, version: ssl.TLSVersion, name: str, north: Identity) -> None:
    edge = Edge(federation, versions=(version, version))
    connection = edge.connection("fleet", north)
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.version() == name
    assert connection.sock.cipher()[0].startswith(("ECDHE-ECDSA-", "TLS_"))  # type: ignore[index]  # connected, so there is one
    headers = signed(supernode_key(federation, "north"))
    body = heartbeat(federation, "north")
    assert ask(connection, HEARTBEAT, body=body, **headers, **PROTOBUF).status == 200
    connection.close()


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256", "DHE-RSA-AES256-GCM-SHA384"])
def test_ciphers_without_forward_secrecy_or_authentication_of_data_are_refused(
    federation: Federation, cipher: str
) -> None:
    assert "alert handshake failure" in s_client(federation, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")


@pytest.mark.parametrize("name", ["unknown.test", "localhost", "edge", "grafana.{domain}", "hub.{domain}", "{domain}"])
def test_an_unknown_server_name_gets_no_certificate(federation: Federation, edge: Edge, name: str) -> None:
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        edge.connection(name.format(domain=federation.topology.domain) + ("" if "." in name else "."))


def test_no_server_name_gets_no_certificate(federation: Federation) -> None:
    answer = s_client(federation, server_name=False)
    assert "unrecognized name" in answer
    assert "BEGIN CERTIFICATE" not in answer


def test_a_host_that_is_not_the_server_name_reaches_nothing_more(
    edge: Edge, federation: Federation, north: Identity, log: Log
) -> None:
    """The handshake of one name must not open another: `superlink.` asks for no certificate, `fleet.` does."""
    domain, body = federation.topology.domain, heartbeat(federation, "north")
    headers = {**signed(supernode_key(federation, "north")), **PROTOBUF}
    as_fleet = edge.ask("superlink", HEARTBEAT, body=body, **headers, Host=f"fleet.{domain}:{edge.port}")
    assert as_fleet.status == 421, as_fleet
    as_superlink = edge.ask(
        "fleet", "/v1/control/list-runs", who=north, Host=f"superlink.{domain}:{edge.port}", **PROTOBUF
    )
    assert as_superlink.status == 421, as_superlink
    unknown = edge.ask("superlink", "/v1/control/list-runs", Host="unknown.test", **PROTOBUF)
    assert unknown.status == 421, unknown
    assert [line for line in log.lines("superlink") if line.get("event") == "refused"] == []


OPENSSL = """{ timeout 10 openssl s_client -connect ADDRESS -servername NAME -CAfile /secrets/ca.crt \\
-quiet -ign_eof <<'END' 2>&1 || true; } | head -c 4000
POST /v1/control/list-runs HTTP/1.1
Host: NAME
Content-Length: 0
Connection: close

END
"""


def test_on_the_clients_network_only_fleet_answers(federation: Federation) -> None:
    """Also not with `fleet.` in the handshake, the gateway's own certificate, and `superlink.` as Host."""
    topology = federation.topology
    address = f"{topology.address('edge', 'clients')}:{topology.edge.https_port}"
    script = OPENSSL.replace("ADDRESS", address)
    asked = {
        name: probe.inside(federation, "gateway-north", script.replace("NAME", f"{name}.{topology.domain}"))
        for name in ("superlink", "fleet")
    }
    assert "unrecognized name" in asked["superlink"]
    assert "HTTP/1.1 400" in asked["fleet"]
    certificate = "-cert /secrets/client.crt -key /secrets/client.key -CAfile"
    crossed = script.replace("-CAfile", certificate).replace("-servername NAME", f"-servername fleet.{topology.domain}")
    answer = probe.inside(federation, "gateway-north", crossed.replace("NAME", f"superlink.{topology.domain}"))
    assert "HTTP/1.1 421" in answer


@pytest.mark.parametrize(("network", "place"), [("notebooks", "cli"), ("services", "superlink")])
@pytest.mark.parametrize("name", ["fleet", "admin"])
def test_on_inner_networks_neither_fleet_nor_the_administration_answers(
    federation: Federation, network: str, place: str, name: str
) -> None:
    topology = federation.topology
    address = f"{topology.address('edge', network)}:{topology.edge.https_port}"
    script = OPENSSL.replace("ADDRESS", address).replace("NAME", f"{name}.{topology.domain}")
    assert "unrecognized name" in probe.inside(federation, place, script)


AROUND = """
import http.client, json, ssl, sys
context = ssl.create_default_context(cafile="/tmp/ca.crt")
context.check_hostname = True
found = {}
for path, headers in json.loads(REQUESTS):
    connection = http.client.HTTPSConnection("superlink", 8000, context=context, timeout=10)
    connection.request("POST", path, body=b"", headers={"Content-Type": "application/protobuf", **headers})
    answer = connection.getresponse()
    found[path + " " + ",".join(sorted(headers))] = [answer.status, answer.read().decode(errors="replace")]
print("FOUND " + json.dumps(found))
"""


def test_around_the_edge_a_forged_certificate_header_is_worth_nothing(
    federation: Federation, north: Identity, log: Log
) -> None:
    """From a container on the services network, past NGINX, straight at the SuperLink."""
    certificate = quote(north.certificate.read_text()[north.certificate.read_text().index("-----BEGIN") :], safe="")
    key = {name.replace("_", "-"): value for name, value in signed(supernode_key(federation, "north")).items()}
    forged = {"X-Flowerbed-Client-Cert": certificate, **key}
    requests = [
        (HEARTBEAT, forged),
        (HEARTBEAT, {**forged, "X-Flowerbed-Edge": "0" * 64}),
        ("/v1/control/list-runs", {}),
        ("/v1/control/list-runs", {"X-Flowerbed-Edge": ""}),
        ("/v1/runtime/acquire-task", {}),
        ("/v1/runtime/create-task", {}),
        ("/v1/runtime/start-automation", {}),
        ("/docs", {}),
    ]
    found = from_services(federation, requests)
    assert {status for status, _ in found.values()} <= {401, 403, 404}
    assert [status for status, _ in found.values()].count(403) == 4
    assert found["/v1/runtime/acquire-task "][0] == 401
    lines = [line for line in log.lines("superlink") if line.get("event") == "refused"]
    assert [line["why"] for line in lines].count("no valid edge token") == 4
    assert {line["client"] for line in lines} != {str(federation.topology.address("edge", "services"))}


def from_services(federation: Federation, requests: list[tuple[str, dict[str, str]]]) -> dict[str, tuple[int, str]]:
    authority = (federation.root / "ca" / "pki" / "ca.crt").read_text()
    text = "import pathlib; pathlib.Path('/tmp/ca.crt').write_text(" + repr(authority) + ")\n"
    program = text + AROUND.replace("REQUESTS", repr(json.dumps(requests)))
    answer = docker(
        "run", "--rm", "-i", "--label", f"flowerbed.stack={STACK}", "--network", f"{STACK}-fl-services-network",
        "--tmpfs", "/tmp:mode=1777", federation.inspect("superlink")["Config"]["Image"], "python", "-", stdin=program,
    )  # fmt: skip
    found: dict[str, tuple[int, str]] = json.loads(answer.split("FOUND ", 1)[1])
    return found


HARDENED = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@pytest.mark.parametrize(
    ("server", "path", "method", "status"),
    [
        ("superlink", "/health", "GET", 200),
        ("superlink", "/v1/control/list-federations", "POST", 401),
        ("superlink", "/v1/control/start-automation", "POST", 404),
        ("superlink", "/nothing", "GET", 404),
        ("fleet", "/v1/fleet/nothing", "POST", 404),
    ],
)
def test_every_answer_carries_the_hardened_headers_and_no_version(
    edge: Edge, north: Identity, server: str, path: str, method: str, status: int
) -> None:
    who = north if server == "fleet" else None
    extra = signed(supernode_key(edge.federation, "north")) if server == "fleet" else {}
    reply = edge.ask(server, path, method=method, who=who, **extra, **PROTOBUF)
    assert reply.status == status
    assert {name: reply.headers.get(name) for name in HARDENED} == HARDENED
    assert reply.headers.get("server", "nginx") == "nginx"
    assert not any(char.isdigit() for char in reply.headers.get("server", ""))
    assert "x-powered-by" not in reply.headers
