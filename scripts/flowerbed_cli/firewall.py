"""The kit's own nftables table: no container reaches the host or beyond it, nothing outside reaches a container.

Docker's internal networks leave two doors open (seen on Engine 20.10): every host service that listens on all
addresses is reachable through a bridge's own address, and before Engine 28 neighbours on the LAN reach ports published
on loopback. Traffic between the kit's networks stays Docker's to decide. The table is one transaction and can be loaded
again at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil

from flowerbed_topology import Topology

from . import docker
from .errors import DockerError
from .project import Project


def table_name(topology: Topology) -> str:
    """Return the table's name: nft takes no hyphens."""
    return "flowerbed_" + topology.name.replace("-", "_")


def ruleset(topology: Topology) -> str:
    """Return the table as `nft -f` reads it, with its own SHA-256 as a comment, by which an unchanged one is known."""
    subnets = ", ".join(str(subnet) for subnet in topology.all_subnets)
    published = "" if topology.edge.bind.is_loopback else f"\n        {way_in(topology)}"
    body = f"""
    set containers {{
        type ipv4_addr
        flags interval
        elements = {{ {subnets} }}
    }}
    chain input {{
        type filter hook input priority -10; policy accept;
        ct state established,related accept
        ip saddr @containers counter drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        ct state established,related accept{published}
        ip saddr @containers ip daddr @containers accept
        ip saddr @containers counter drop
        ip daddr @containers counter drop
    }}"""
    name = table_name(topology)
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    mark = f'\n    chain version {{\n        counter comment "{digest}"\n    }}\n'
    return f"table inet {name}\ndelete table inet {name}\ntable inet {name} {{{body}{mark}}}\n"


def way_in(topology: Topology) -> str:
    """Return the rule that lets others on the network reach the edge, where it is published for them."""
    ports = f"{{ {topology.edge.https_port}, {topology.edge.http_port} }}"
    to = "" if topology.edge.bind.is_unspecified else f"ct original ip daddr {topology.edge.bind} "
    refused = "ct original ip daddr != 127.0.0.0/8 "
    return f"ct status dnat {to or refused}ip daddr {topology.address('edge', 'edge')} tcp dport {ports} accept"


def nft(project: Project, script: str) -> str:
    """Run a shell script that may call `nft` on the host's network namespace; return what it printed."""
    if os.geteuid() == 0 and shutil.which("nft"):
        done = docker.call(["sh", "-eu"], stdin=script, timeout=30)
        if done.returncode:
            raise DockerError(f"nft failed: {done.stderr.strip()}")
        return done.stdout
    return docker.one_shot(project, script, options=["--network", "host", "--cap-add", "NET_ADMIN"])


def is_in_force(project: Project, topology: Topology) -> bool:
    """Return whether the table that the host has is the one that this topology wants."""
    name = table_name(topology)
    wanted = ruleset(topology).split('comment "')[1].split('"')[0]
    return wanted in nft(project, f"nft list chain inet {name} version 2>/dev/null || true\n")


def ensure_firewall(project: Project, topology: Topology) -> bool:
    """Load the table unless it is in force; return whether it was loaded."""
    if is_in_force(project, topology):
        return False
    nft(project, f"nft -f - <<'RULES'\n{ruleset(topology)}RULES\n")
    return True


def remove_firewall(project: Project, topology: Topology) -> None:
    """Remove the table, if it is there."""
    nft(project, f"nft delete table inet {table_name(topology)} 2>/dev/null || true\n")
