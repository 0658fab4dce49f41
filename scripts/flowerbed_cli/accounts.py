"""Logging the kit and its pipelines in: access tokens by client credentials, and handing them to `flwr` in the CLI container.

A token goes through standard input alone, never through arguments or variables, which others on the host can read. People
log in with `flwr login`; their accounts are made in `users`.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx

from flowerbed_topology import Topology

from .errors import AccountError
from .project import Project
from .render import superlink_address

KIT_CLIENT = "kit"
REALM = "flowerbed"
TIMEOUT_S = 20
# How soon an identity provider that gave no token is asked again, while a command runs.
AGAIN_S = 5.0
# flwr takes an account without a refresh token for one that is not logged in, and Keycloak gives client credentials none.
NO_REFRESH = "none"
# What a shell in the CLI container begins with, instead of a login: its tmpfs home gets the connection and the first line of
# standard input as the credential store. Later lines replace it, and what runs afterwards reads nothing.
LOGIN = """
mkdir -p "$FLWR_HOME" && cp /config/config.toml "$FLWR_HOME/"
store() { ( umask 077; printf '%s\\n' "$1" > "$FLWR_HOME/.fresh" ); mv "$FLWR_HOME/.fresh" "$FLWR_HOME/credentials.yaml"; }
IFS= read -r line && store "$line"
exec 3<&0 </dev/null
( while IFS= read -r line <&3; do store "$line"; done ) >/dev/null 2>&1 &
exec 3<&-
unset line
"""


@dataclass(frozen=True)
class Grant:
    """An access token and the seconds that it is valid."""

    access_token: str
    seconds: float


def pipeline(topology: Topology, name: str) -> str:
    """Return the client of a pipeline of federation.yaml.

    Raises:
        AccountError: there is none of that name.
    """
    known = {item.name: item.client for item in topology.pipelines}
    if name in known:
        return known[name]
    there = f"there are: {', '.join(known)}" if known else "add one under pipelines, and run make up"
    raise AccountError(f"There is no pipeline {name!r} in federation.yaml; {there}.")


def token(project: Project, topology: Topology, client: str) -> str:
    """Return a new access token of `kit` or `pipeline-<name>`.

    Raises:
        AccountError: there is no such client, the edge or Keycloak is down, or Keycloak refused.
    """
    return grant(project, topology, client).access_token


def grant(project: Project, topology: Topology, client: str) -> Grant:
    """Return the same with its lifetime (RFC 6749, section 4.4)."""
    path = project.secrets / "kit" / f"client-{client}.secret"
    if not path.is_file():
        raise AccountError(f"There is no secret of the client {client} ({path}): run make up.")
    credentials = (client, path.read_text().strip())
    with edge(project, topology, "auth") as http:
        answer = ask(http, "POST", f"/realms/{REALM}/protocol/openid-connect/token", auth=credentials,
                     data={"grant_type": "client_credentials"})  # fmt: skip
    if answer.status_code in (400, 401, 403):
        reason = field(answer, "error_description") or field(answer, "error") or str(answer.status_code)
        raise AccountError(f"Keycloak refused the client {client}, since it says {reason!r}: run flowerbed realm.")
    if answer.status_code != 200 or not field(answer, "access_token"):
        raise AccountError(trouble("Keycloak", answer))
    return Grant(field(answer, "access_token"), float(field(answer, "expires_in") or 60))


def edge(project: Project, topology: Topology, host: str) -> httpx.Client:
    """Return an HTTP client for `<host>.<domain>` at the edge.

    It asks for no name, which this host may not resolve, and no proxy; the certificate must still be that name's, by our CA.
    """
    if not (project.pki / "ca.crt").is_file():
        raise AccountError(f"There is no certificate authority at {project.pki}: run make up.")
    # SSL_CERT_FILE and the like stay out of it: the file given is the one that is trusted.
    context = ssl.create_default_context(cafile=str(project.pki / "ca.crt"))
    return httpx.Client(
        base_url=f"https://{topology.edge.local}:{topology.edge.https_port}",
        headers={"Host": topology.authority(host)},
        verify=context,
        trust_env=False,
        timeout=TIMEOUT_S,
        event_hooks={"request": [lambda request: named(request, f"{host}.{topology.domain}")]},
    )


def named(request: httpx.Request, name: str) -> None:
    """Make TLS ask for, and check, the certificate of `name`."""
    request.extensions["sni_hostname"] = name


def ask(
    http: httpx.Client,
    method: str,
    path: str,
    *,
    data: dict[str, str] | None = None,
    auth: tuple[str, str] | None = None,
) -> httpx.Response:
    """Send one request.

    Raises:
        AccountError: nothing answered, or something that is not this federation's edge.
    """
    try:
        return http.request(method, path, data=data, auth=auth)
    except httpx.TimeoutException as error:
        raise AccountError(
            f"The edge at {http.base_url} gave no answer in {TIMEOUT_S} s: make status says why."
        ) from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            text = f"What answers at {http.base_url} has no certificate of this federation's CA: is another stack up?"
            raise AccountError(text) from error
        raise AccountError(f"The edge at {http.base_url} cannot be reached: run make up.") from error


def trouble(who: str, answer: httpx.Response) -> str:
    """Return a sentence for an answer that should not have come."""
    remedies = {
        404: f"{who} knows no such address: run make up, which sets it up.",
        429: f"Too many requests reached {who} from here: wait a minute.",
        502: f"{who} does not answer behind the edge: make status says what is wrong, make up starts it.",
    }
    status = 502 if answer.status_code in (502, 503, 504) else answer.status_code
    return remedies.get(status, f"{who} answered {answer.status_code}: make logs shows why.")


def field(answer: httpx.Response, name: str) -> str:
    """Return a value of a JSON object that was answered; empty where there is none."""
    with suppress(ValueError):
        content = answer.json()
        if isinstance(content, dict):
            return str(content.get(name, ""))
    return ""


def credentials(topology: Topology, token: str) -> str:
    """Return `$FLWR_HOME/credentials.yaml` with this token for our SuperLink, on one line.

    As `flwr.supercore.credential_store.FileCredentialStore` of flwr 1.41 keeps it: a mapping of keys that hold the SuperLink's
    address to base64; a JSON object is YAML too.
    """
    address = superlink_address(topology)
    values = {"authn-type": "oidc", "oidc-access-token": token, "oidc-refresh-token": NO_REFRESH}
    return json.dumps(
        {
            f"flower.account-auth.{address}.{key}": base64.b64encode(value.encode()).decode()
            for key, value in values.items()
        }
    )


@contextmanager
def fed(project: Project, topology: Topology, client: str) -> Iterator[int]:
    """Give a file descriptor to be the standard input of what begins with LOGIN; fresh credentials keep coming on it.

    An access token lives for minutes, a run for hours: each is followed by another at half its life.

    Raises:
        AccountError: as `token`, before anything is started.
    """
    first = grant(project, topology, client)
    reading, writing = os.pipe()
    ended = threading.Event()
    os.write(writing, line(topology, first))
    feeder = threading.Thread(target=feed, args=(project, topology, client, writing, first.seconds, ended), daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        ended.set()
        os.close(reading)
        feeder.join(TIMEOUT_S)


def feed(
    project: Project, topology: Topology, client: str, writing: int, seconds: float, ended: threading.Event
) -> None:
    """Write fresh credentials until the other side is gone; an identity provider that is down is asked again soon."""
    pause = seconds / 2
    with os.fdopen(writing, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
        while not ended.wait(pause):
            try:
                fresh = grant(project, topology, client)
            except Exception as error:  # noqa: BLE001  whatever it is, the command it feeds needs the next one
                if not isinstance(error, AccountError):
                    sys.stderr.write(f"No fresh token came, asked for again in {AGAIN_S:.0f} s: {error!r}\n")
                pause = AGAIN_S
                continue
            pause = fresh.seconds / 2
            pipe.write(line(topology, fresh))


def line(topology: Topology, fresh: Grant) -> bytes:
    """Return credentials as a line of standard input."""
    return credentials(topology, fresh.access_token).encode() + b"\n"
