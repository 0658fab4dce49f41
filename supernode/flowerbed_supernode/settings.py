"""Reads the SuperNode's settings from its environment and turns them into Flower's own arguments.

Every variable is listed in supernode/README.md; a test compares the two.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.common.config import parse_config_args

_SECRETS = ("ca.crt", "supernode.key", "tls.crt", "tls.key", "superexec.secret")
_PAIR = re.compile(r"""\S+?=('[^']*'|"[^"]*"|\S+)""")


class SettingsError(Exception):
    """The SuperNode cannot start; its message names the setting, the value found and the remedy."""


@dataclass(frozen=True)
class Settings:
    """One SuperNode's settings."""

    runtime_host: str
    """The address on the app network; the Runtime API listens there and nowhere else."""
    runtime_port: int = 9094
    superlink: str = "gateway:9443"
    """``host:port`` of the site's gateway, which serves the Fleet API."""
    node_config: str = ""
    secrets: Path = Path("/secrets")
    alive: Path = Path("/run/flowerbed/alive")
    drain_seconds: float = 20
    """How long a stop waits for the reply to a message that is being worked on."""
    held_pulls: bool = False
    """Whether waits end when what they wait for happens (see `waits` and `holds`); otherwise as in stock Flower."""

    def arguments(self) -> list[str]:
        """Return what Flower's own parser shall see."""
        return [
            "flower-supernode",
            *("--superlink", self.superlink),
            *("--root-certificates", str(self.secrets / "ca.crt")),
            *("--auth-supernode-private-key", str(self.secrets / "supernode.key")),
            *("--isolation", "process"),
            *("--host", self.runtime_host, "--port", str(self.runtime_port)),
            *("--ssl-certfile", str(self.secrets / "tls.crt")),
            *("--ssl-keyfile", str(self.secrets / "tls.key")),
            *("--ssl-ca-certfile", str(self.secrets / "ca.crt")),
            *("--superexec-auth-secret-file", str(self.secrets / "superexec.secret")),
            *(("--node-config", self.node_config) if self.node_config else ()),
        ]


def load(environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        SettingsError: one sentence, for the first setting that does not hold.
    """
    return Settings(
        runtime_host=_address(environment.get("FLOWERBED_RUNTIME_HOST", "")),
        runtime_port=int(_number(environment, "FLOWERBED_RUNTIME_PORT", 9094, highest=65535)),
        superlink=environment.get("FLOWERBED_SUPERLINK", "gateway:9443"),
        node_config=_node_config(environment.get("FLOWERBED_NODE_CONFIG", "").strip()),
        secrets=Path(environment.get("FLOWERBED_SECRETS", "/secrets")),
        alive=Path(environment.get("FLOWERBED_ALIVE", "/run/flowerbed/alive")),
        drain_seconds=_number(environment, "FLOWERBED_DRAIN_SECONDS", 20, highest=3600),
        held_pulls=_switch(environment, "FLOWERBED_HELD_PULLS"),
    )


def check(settings: Settings) -> None:
    """Raise `SettingsError` unless every file that the SuperNode needs can be read."""
    for name in _SECRETS:
        if not os.access(settings.secrets / name, os.R_OK):
            raise SettingsError(f"{settings.secrets / name} cannot be read; mount this SuperNode's secrets there.")


def _address(raw: str) -> str:
    try:
        address = ipaddress.ip_address(raw)
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast:
        raise SettingsError(
            f"FLOWERBED_RUNTIME_HOST is {raw!r}; it must be this container's own address on the site's app network."
        )
    return str(address)


def _node_config(raw: str) -> str:
    """Refuse what Flower would silently leave out: its parser skips whatever is no key=value pair."""
    left = _PAIR.sub("", raw).strip()
    try:
        parse_config_args([raw] if raw else None)
    except Exception as error:
        raise SettingsError(_node_config_sentence(raw)) from error
    if left or raw.endswith(".toml"):
        raise SettingsError(_node_config_sentence(raw))
    return raw


def _node_config_sentence(raw: str) -> str:
    return f'FLOWERBED_NODE_CONFIG is {raw!r}; it must be pairs such as partition-id=0 site="north", strings in quotes.'


def _number(environment: Mapping[str, str], name: str, default: float, highest: float) -> float:
    raw = environment.get(name, "").strip()
    try:
        value = float(raw) if raw else default
    except ValueError:
        value = -1
    if not 0 <= value <= highest:
        raise SettingsError(f"{name} is {raw!r}; it must be a number from 0 to {highest:.0f}.")
    return value


def _switch(environment: Mapping[str, str], name: str) -> bool:
    raw = environment.get(name, "").strip() or "0"
    if raw not in ("0", "1"):
        raise SettingsError(f"{name} is {raw!r}; it must be 0 or 1.")
    return raw == "1"
