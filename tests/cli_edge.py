"""A TLS server with the project's own certificate that stands for the edge in tests without Docker: what it answers is given."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import yaml

from ca_support import authority
from flowerbed_ca.plan import certificate_plan
from flowerbed_cli.project import KIT, Project
from flowerbed_topology import Topology, load

Answer = tuple[int, object]


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    host: str
    server_name: str
    authorization: str
    form: dict[str, list[str]]


@dataclass
class Edge:
    """The edge's answers and what it was asked."""

    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)


def project(directory: Path) -> tuple[Project, Topology]:
    """Return a project with a federation, an authority and the secrets of its clients; its edge's port is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    content = yaml.safe_load((KIT / "federation.yaml").read_text())
    content["edge"] = {"https_port": port, "http_port": 1 + port % 60000}
    (directory / "federation.yaml").write_text(yaml.safe_dump(content))
    made, topology = Project(directory), load(directory / "federation.yaml")
    plan = certificate_plan(topology, dict.fromkeys((site.name for site in topology.sites), "ab" * 32))
    authority(made.pki, plan=[leaf for leaf in plan if leaf.name == "edge"])
    kit = made.secrets / "kit"
    kit.mkdir(parents=True)
    for client in ("kit", "pipeline-demo"):
        (kit / f"client-{client}.secret").write_text(f"secret of {client}")
    return made, topology


@contextmanager
def edge(made: Project, topology: Topology, answer: Callable[[Asked], Answer]) -> Iterator[Edge]:
    """Serve as this project's edge."""
    running = Edge(answer)
    server = ThreadingHTTPServer(("127.0.0.1", topology.edge.https_port), handler(running))
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.pki / "issued" / "edge.crt", made.pki / "private" / "edge.key")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.names = names  # type: ignore[attr-defined]  # the handler reads it
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def handler(running: Edge) -> type[BaseHTTPRequestHandler]:
    """Return what answers one request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply()

        def do_POST(self) -> None:
            self.reply()

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            server: Any = self.server
            asked = Asked(
                self.command, self.path, self.headers["Host"], (server.names or [""])[-1],
                self.headers.get("Authorization", ""), parse_qs(body),
            )  # fmt: skip
            running.asked.append(asked)
            status, content = running.answer(asked)
            sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler
