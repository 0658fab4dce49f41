"""Every rule of the reachability table, allowed and denied, tried from inside the containers.

What lies beyond the containers is stood in for by listeners of the tests' own, so that no packet leaves this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowerbed_topology import Topology
from flowerbed_topology.policy import HOST, OUTSIDE, Rule, containers, reachability

from . import beyond, probe
from .beyond import PORT, Listener
from .federation import FEDERATION, STACK, Federation, docker
from .probe import OPEN, Target
from .running import wait_for

TOPOLOGY = Topology.model_validate(FEDERATION)
RULES = reachability(TOPOLOGY)
SOURCES = tuple(containers(TOPOLOGY))
# A look-up that leaks is caught by its first label; the control's and the direct queries' are let through.
LEAK = f"{beyond.LABEL}.example.test"
ANSWER = "127.0.0.9"
Reach = dict[str, dict[Target, str]]


def named(rule: Rule) -> Target | None:
    """The address and port of a rule that names both."""
    return (str(rule.address), rule.port) if rule.address and rule.port else None


@pytest.fixture(scope="module")
def host(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:  # noqa: ARG001 - for its bridges
    log = tmp_path_factory.mktemp("host") / "log"
    with beyond.listener(log, beyond.host_addresses()) as found:
        yield found


@pytest.fixture(scope="module")
def outside(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:  # noqa: ARG001 - as above
    with beyond.outside(tmp_path_factory.mktemp("outside") / "log") as found:
        yield found


def everywhere(federation: Federation, host: Listener, outside: Listener) -> Reach:
    """Try from every container whatever the table names, every address of the host, and what lies behind it."""
    others = {(address, PORT) for address in (*host.addresses, *outside.addresses)}
    others |= {(str(rule.address), PORT) for rule in RULES if rule.target == HOST}

    def reach(source: str) -> dict[Target, str]:
        own = {target for rule in RULES if rule.source == source and (target := named(rule))}
        return probe.connect(federation, source, own | others)

    with ThreadPoolExecutor(max_workers=3) as pool:
        return dict(zip(SOURCES, pool.map(reach, SOURCES), strict=True))


@pytest.fixture(scope="module")
def reached(federation: Federation, host: Listener, outside: Listener) -> Reach:
    return everywhere(federation, host, outside)


@pytest.mark.parametrize("source", SOURCES)
def test_every_rule_of_the_table_holds(reached: Reach, source: str) -> None:
    rules = {target: rule for rule in RULES if rule.source == source and (target := named(rule))}
    assert len(rules) > 10
    wrong = [
        f"{rule.target} at {target} on {rule.network}: {reached[source][target]}, but {rule.why}"
        for target, rule in rules.items()
        if (reached[source][target] == OPEN) != rule.allowed
    ]
    assert wrong == []


def test_the_table_allows_something_to_every_container_that_needs_it(reached: Reach) -> None:
    needing = set(SOURCES) - {"edge", "superlink", "postgres"}
    assert all(OPEN in reached[source].values() for source in needing)
    assert ("edge", "superlink") in {(rule.source, rule.target) for rule in RULES if rule.allowed}


@pytest.mark.parametrize("target", sorted({rule.target for rule in RULES if rule.port is None} - {HOST, OUTSIDE}))
def test_a_container_that_opens_no_port_listens_nowhere(federation: Federation, target: str) -> None:
    assert probe.listeners(federation, target) == []


@pytest.mark.parametrize("source", SOURCES)
def test_containers_listen_where_the_table_says_and_speak_no_ipv6(federation: Federation, source: str) -> None:
    heard = {local.partition(":")[2] for local in probe.listeners(federation, source)}
    stated = {f"{rule.port:04X}" for rule in RULES if rule.target == source and rule.port}
    assert heard <= stated
    interfaces = probe.inside(federation, source, "cat /proc/net/if_inet6")
    assert re.findall(r"^[0-9a-f]{32} .*", interfaces, re.MULTILINE) in ([], [line_of_loopback(interfaces)])


def line_of_loopback(interfaces: str) -> str:
    found = re.search(r"^0{31}1 .* +lo$", interfaces, re.MULTILINE)
    return found.group(0) if found else ""


@pytest.mark.usefixtures("federation")
def test_the_bridges_have_the_addresses_that_the_table_says() -> None:
    stated = {str(rule.address) for rule in RULES if rule.target == HOST}
    assert stated <= set(beyond.host_addresses())


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_on_the_host_or_behind_it_is_reached(
    reached: Reach, host: Listener, outside: Listener, source: str
) -> None:
    assert len(host.addresses) > len({rule.network for rule in RULES if rule.target == HOST})
    beyond_reach = [(address, PORT) for address in (*host.addresses, *outside.addresses)]
    assert [target for target in beyond_reach if reached[source][target] == OPEN] == []


@pytest.mark.usefixtures("reached")
def test_the_listeners_work_and_saw_no_container(federation: Federation, host: Listener, outside: Listener) -> None:
    networks = [str(subnet).rpartition(".")[0] for subnet in federation.topology.all_subnets]
    for one in (host, outside):
        before = len(one.seen())
        for address in one.own:
            beyond.run("bash", "-c", f"exec 3<>/dev/tcp/{address}/{PORT}")
        seen = one.seen()
        assert len(seen) - before >= len(one.own)
        # The host's own connections come from its own addresses, bridges among them.
        peers = {line.split()[1] for line in seen} - set(beyond.host_addresses()) - {"127.0.0.1"}
        assert [peer for peer in peers if any(peer.startswith(f"{prefix}.") for prefix in networks)] == []


RESOLVE = """
for name in NAMES; do
    if answer=$(timeout 4 getent ahostsv4 "$name"); then echo "$name $(echo "$answer" | head -n 1 | cut -d ' ' -f 1)"
    else echo "$name none"; fi
done
"""


def resolve(federation: Federation, source: str, *names: str) -> dict[str, str]:
    answers = probe.inside(federation, source, RESOLVE.replace("NAMES", " ".join(names)))
    return dict(re.findall(r"^(\S+) ([\d.]+|none)\s*$", answers, re.MULTILINE))


LOCAL = {
    "postgres": ("superlink",),
    "keycloak": ("postgres", "superlink", "edge"),
    "superlink": ("postgres", "keycloak", "edge", "serverapp", f"auth.{TOPOLOGY.domain}"),
    "serverapp": ("superlink",),
    "edge": ("superlink", "keycloak"),
    "cli": ("edge", f"superlink.{TOPOLOGY.domain}", f"auth.{TOPOLOGY.domain}"),
    "gateway": ("supernode", f"fleet.{TOPOLOGY.domain}"),
    "supernode": ("gateway", "clientapp"),
    "clientapp": ("supernode",),
}


@pytest.fixture(scope="module")
def resolved(
    federation: Federation, host: Listener, outside: Listener
) -> tuple[dict[str, dict[str, str]], int, list[str]]:
    """What every container's resolver says, how many leaked queries were caught, what the DNS servers saw."""

    def ask(source: str) -> dict[str, str]:
        role = source.partition("-")[0]
        return resolve(federation, source, LEAK, f"{beyond.LABEL}.{TOPOLOGY.domain}", *LOCAL[role])

    with beyond.trap():
        before = len(host.seen()) + len(outside.seen())
        with ThreadPoolExecutor(max_workers=3) as pool:
            found = dict(zip(SOURCES, pool.map(ask, SOURCES), strict=True))
        seen = (host.seen() + outside.seen())[before:]
        caught = beyond.caught()
        # The trap works: the host's own look-up is caught.
        beyond.run("timeout", "2", "getent", "hosts", LEAK, check=False)
        assert beyond.caught() > caught
    return found, caught, seen


def test_no_look_up_of_an_outside_name_is_answered_or_leaves_a_container(
    resolved: tuple[dict[str, dict[str, str]], int, list[str]],
) -> None:
    found, caught, seen = resolved
    outside_names = (LEAK, f"{beyond.LABEL}.{TOPOLOGY.domain}")
    assert {found[source][name] for source in SOURCES for name in outside_names} == {"none"}
    assert caught == 0
    assert [line for line in seen if line.startswith("dns")] == []


@pytest.mark.parametrize("source", SOURCES)
def test_local_names_still_resolve(resolved: tuple[dict[str, dict[str, str]], int, list[str]], source: str) -> None:
    found, _, _ = resolved
    assert {
        name: found[source][name] for name in LOCAL[source.partition("-")[0]] if found[source][name] == "none"
    } == {}


# One DNS query, sent straight to a server: id, flags, one question, `direct.example.test`, A, IN.
QUERY = "12340100000100000000000006646972656374076578616d706c6504746573740000010001"
DIRECT = """perl -MSocket - <<'PROBE'
use strict; use warnings;
socket(my $s, PF_INET, SOCK_DGRAM, 0) or die $!;
for my $host (qw(HOSTS)) { send($s, pack("H*", "QUERY"), 0, sockaddr_in(53, inet_aton($host))) }
my $ready = ''; vec($ready, fileno $s, 1) = 1;
print "answers=", scalar(select($ready, undef, undef, 1.5)), "\\n";
PROBE
"""


def ask_directly(federation: Federation, source: str, addresses: tuple[str, ...]) -> str:
    script = DIRECT.replace("HOSTS", " ".join(addresses)).replace("QUERY", QUERY)
    return probe.inside(federation, source, script).strip().splitlines()[-1]


def test_no_dns_server_on_the_host_or_behind_it_is_reached(
    federation: Federation, host: Listener, outside: Listener
) -> None:
    addresses = (*host.addresses, *outside.addresses)
    before = len(host.seen()), len(outside.seen())
    with ThreadPoolExecutor(max_workers=3) as pool:
        answers = list(pool.map(lambda source: ask_directly(federation, source, addresses), SOURCES))
    assert set(answers) == {"answers=0"}
    new = host.seen()[before[0] :] + outside.seen()[before[1] :]
    assert [line for line in new if line.startswith("dns")] == []
    # Both servers work: they answer the host.
    for address in (host.addresses[0], beyond.OUTSIDE):
        script = DIRECT.replace("HOSTS", address).replace("QUERY", QUERY)
        assert "answers=1" in beyond.run("bash", "-c", script)


def listens(container: str) -> bool:
    """Return whether somebody in a container listens on port 7777 (0x1E61), in state 0A of /proc/net/tcp."""
    return ":1E61 00000000:0000 0A" in docker("exec", container, "cat", "/proc/net/tcp")


def test_a_port_that_researcher_code_opens_is_open_to_its_bridge_only(federation: Federation) -> None:
    topology = federation.topology
    addresses = {f"clientapp-{site.name}": str(site.clientapp_address) for site in topology.sites}
    addresses["serverapp"] = str(topology.address("serverapp", "serverapp"))
    server = "import socket,time; s=socket.create_server(('0.0.0.0', 7777)); time.sleep(600)"
    names = {container: federation.container(probe.service(container)) for container in addresses}
    for container in names.values():
        docker("exec", "-d", "-u", "100999", container, "python", "-c", server)
    targets = {(address, 7777): container for container, address in addresses.items()}
    neighbours = {"serverapp": {"superlink"}} | {f"clientapp-{s.name}": {f"supernode-{s.name}"} for s in topology.sites}
    found: dict[str, set[str]] = {container: set() for container in addresses}
    try:
        for container in names.values():
            wait_for(f"{container} listens", lambda name=container: listens(name), 60)  # type: ignore[misc]
        with ThreadPoolExecutor(max_workers=3) as pool:
            answers = list(pool.map(lambda source: probe.connect(federation, source, targets), SOURCES))
    finally:
        for container in names.values():
            docker("exec", "-u", "100999", container, "sh", "-c", "kill -9 -1", check=False)
    for source, results in zip(SOURCES, answers, strict=True):
        for target, container in targets.items():
            if results[target] == OPEN and container != source:
                found[container].add(source)
    assert found == neighbours


def test_everything_published_is_published_on_loopback(federation: Federation) -> None:
    published: dict[str, set[str]] = {}
    names = docker("ps", "--filter", f"label=flowerbed.stack={STACK}", "--format", "{{.Names}}").split()
    for item in json.loads(docker("inspect", *names)):
        for bindings in item["NetworkSettings"]["Ports"].values():
            published.setdefault(item["Name"], set()).update(f"{b['HostIp']}:{b['HostPort']}" for b in bindings or [])
    edge = federation.topology.edge
    loopback = {f"127.0.0.1:{edge.https_port}", f"127.0.0.1:{edge.http_port}"}
    assert {name: found for name, found in published.items() if found} == {f"/{STACK}-edge": loopback}
    listening = beyond.run("ss", "-Hltn", f"( sport = :{edge.https_port} or sport = :{edge.http_port} )")
    assert {line.split()[3] for line in listening.splitlines()} == loopback


@pytest.mark.usefixtures("federation", "outside")
def test_from_behind_the_host_no_container_is_reached() -> None:
    """Engines before 28 forward a neighbour's packets to containers, those of ports on loopback included."""
    wanted = {target for rule in RULES if (target := named(rule)) and rule.allowed}
    command = "; ".join(
        f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && echo open {address} &"
        for address, port in sorted(wanted)
    )
    script = command.replace("&;", "&") + " wait"
    assert beyond.run("ip", "netns", "exec", beyond.NAMESPACE, "bash", "-c", script) == ""
    # The host does reach them, so it is not that they are down.
    address, port = min(wanted)
    beyond.run("bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")


@pytest.mark.usefixtures("host", "outside")
def test_without_the_firewall_table_these_tests_would_fail(federation: Federation) -> None:
    """They can fail: with the kit's table gone, the host is open to containers, and what is behind it to the edge."""
    table = f"flowerbed_{STACK}"
    beyond.run("nft", "delete", "table", "inet", table)
    try:
        bare = {source: probe.connect(federation, source, on_host(source)) for source in ("clientapp-north", "edge")}
        assert "firewall table is not in force" in " ".join(federation.flowerbed("status", check=False).stdout.split())
    finally:
        restored = federation.flowerbed("up").stdout
    assert f"loaded firewall table {table}" in restored
    assert OPEN in bare["clientapp-north"].values()
    assert bare["edge"][beyond.OUTSIDE, PORT] == OPEN
    again = probe.connect(federation, "clientapp-north", on_host("clientapp-north"))
    assert OPEN not in again.values()


def on_host(source: str) -> set[Target]:
    found = {(str(rule.address), PORT) for rule in RULES if rule.source == source and rule.target == HOST}
    return found | {(beyond.OUTSIDE, PORT)}
