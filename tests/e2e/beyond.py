"""Listeners of the tests' own, on the host and in a network namespace behind it, and a trap for look-ups that leak.

With them "no way out" is proved without a packet leaving this machine. Needs root on the host.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .federation import INDEX, NET, STACK

NAMESPACE = f"{STACK}-beyond"
# RFC 2544's addresses for tests between devices: nobody else's, and not a private range that Docker might hand out.
HOST_SIDE, OUTSIDE = f"198.18.{INDEX}.1", f"198.18.{INDEX}.2"
PORT = 19053
LABEL = f"fbleak{INDEX}x"
TRAP = f"{STACK}_trap"
LISTENER = """
import selectors, socket, sys
port = int(sys.argv[1])
tcp = socket.create_server(("0.0.0.0", port), backlog=512)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
udp.bind(("0.0.0.0", 53))
chosen = selectors.DefaultSelector()
chosen.register(tcp, selectors.EVENT_READ), chosen.register(udp, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        if key.fileobj is tcp:
            connection, peer = tcp.accept()
            connection.close()
            print("tcp", peer[0], flush=True)
        else:
            query, peer = udp.recvfrom(512)
            print("dns", peer[0], query[12:60].hex(), flush=True)
            answer = query[:2] + b"\\x81\\x80" + query[4:6] + b"\\x00\\x01" + query[8:]
            udp.sendto(answer + bytes.fromhex("c00c 0001 0001 00000001 0004 7f000009"), peer)
"""


@dataclass(frozen=True)
class Listener:
    """A TCP listener and a DNS server in one process; answers every look-up with 127.0.0.9."""

    addresses: tuple[str, ...]
    log: Path

    @property
    def own(self) -> tuple[str, ...]:
        """The addresses at which the host itself reaches it: the kit's firewall takes a bridge's own for a container."""
        return tuple(one for one in self.addresses if not one.startswith(f"{NET}."))

    def seen(self) -> list[str]:
        """Return a line for each connection and look-up that has come: `tcp ADDRESS` or `dns ADDRESS NAME`."""
        time.sleep(0.2)
        return self.log.read_text().splitlines()[1:]


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextmanager
def listener(log: Path, addresses: tuple[str, ...], *prefix: str) -> Iterator[Listener]:
    with log.open("w") as output:
        process = subprocess.Popen([*prefix, sys.executable, "-c", LISTENER, str(PORT)], stdout=output)
        try:
            deadline = time.monotonic() + 10
            while not log.read_text().startswith("ready"):
                assert process.poll() is None, "the test's own listener did not start: is UDP port 53 in use?"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield Listener(addresses, log)
        finally:
            process.kill()
            process.wait()


def host_addresses() -> tuple[str, ...]:
    """Return every IPv4 address of the host but its loopback, of Docker's bridges those of this stack."""
    listing = run("ip", "-4", "-o", "address", "show", "scope", "global").splitlines()
    # Other stacks' bridges come and go.
    lasting = [line for line in listing if not re.match(r"\d+: br-", line) or f" {NET}." in line]
    return tuple(re.findall(r"inet (\d+\.\d+\.\d+\.\d+)/", "\n".join(lasting)))


@contextmanager
def outside(log: Path) -> Iterator[Listener]:
    """A namespace one hop behind the host, which knows the way back to the containers."""
    link, peer = f"{STACK}o", f"{STACK}p"
    remove()
    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "link", "add", link, "type", "veth", "peer", "name", peer, "netns", NAMESPACE)
        run("ip", "address", "add", f"{HOST_SIDE}/30", "dev", link)
        run("ip", "link", "set", link, "up")
        within = ("ip", "netns", "exec", NAMESPACE)
        run(*within, "ip", "address", "add", f"{OUTSIDE}/30", "dev", peer)
        run(*within, "ip", "link", "set", peer, "up")
        run(*within, "ip", "route", "add", "default", "via", HOST_SIDE)
        with listener(log, (OUTSIDE,), *within) as found:
            yield found
    finally:
        remove()


def remove() -> None:
    run("ip", "netns", "delete", NAMESPACE, check=False)
    run("ip", "link", "delete", f"{STACK}o", check=False)


@contextmanager
def trap() -> Iterator[None]:
    """Count, and keep from leaving this machine, every look-up of a name that begins with LABEL."""
    # The first label starts 21 bytes into the UDP datagram: 8 of UDP, 12 of DNS, one for its length (RFC 1035).
    rule = f"meta l4proto udp udp dport 53 @th,168,64 0x{LABEL.encode().hex()} counter drop"
    chains = "".join(
        f"chain {name} {{ type filter hook {name} priority -300; policy accept; {rule}; }}\n"
        for name in ("output", "forward", "input")
    )
    run("nft", f"table inet {TRAP}\ndelete table inet {TRAP}\ntable inet {TRAP} {{\n{chains}}}")
    try:
        yield
    finally:
        run("nft", "delete", "table", "inet", TRAP)


def caught() -> int:
    """Return how many packets the trap has caught."""
    return sum(map(int, re.findall(r"packets (\d+)", run("nft", "list", "table", "inet", TRAP))))
