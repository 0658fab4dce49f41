"""What the SuperLink's container is told by its environment; not for anything secret, which lies in files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from flowerbed_superlink.errors import StartupError

_SCHEME = "postgresql+psycopg"


@dataclass(frozen=True)
class Settings:
    """Paths, addresses and times, read once at start-up."""

    database: str  # SQLAlchemy URL without a password
    audit_database: str  # libpq URL without a password
    kit_database: str  # libpq URL without a password: people, and which site ran what
    issuer: str  # OpenID Connect issuer, without a trailing slash
    public_url: str  # what the edge serves, without a trailing slash
    secrets: Path
    config: Path
    results: Path
    alive: Path
    host: str
    port: int
    database_wait_s: float  # how long start-up waits for PostgreSQL
    stop_s: int  # how long a graceful stop waits for requests in flight
    event_log: bool
    held_pulls: bool  # keep pulls that would be empty waiting

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read and check the `FLOWERBED_*` variables.

        Raises:
            StartupError: a variable is missing or wrong.
        """
        return cls(
            database=_database(env.get("FLOWERBED_DATABASE", "")),
            audit_database=_libpq(env, "FLOWERBED_AUDIT_DATABASE", "audit"),
            kit_database=_libpq(env, "FLOWERBED_KIT_DATABASE", "flowerbed"),
            issuer=_issuer(env.get("FLOWERBED_ISSUER", "")),
            public_url=_public_url(env.get("FLOWERBED_PUBLIC_URL", "")),
            secrets=Path(env.get("FLOWERBED_SECRETS", "/secrets")),
            config=Path(env.get("FLOWERBED_CONFIG", "/config")),
            results=Path(env.get("FLOWERBED_RESULTS", "/results")),
            alive=Path(env.get("FLOWERBED_ALIVE", "/run/flowerbed/alive")),
            host=env.get("FLOWERBED_HOST", "0.0.0.0"),  # noqa: S104  one container, whose networks the topology chose
            port=_number(env, "FLOWERBED_PORT", 8000, 1, 65535),
            database_wait_s=_number(env, "FLOWERBED_DATABASE_WAIT", 120, 0, 3600),
            stop_s=_number(env, "FLOWERBED_STOP_SECONDS", 8, 1, 600),
            event_log=_switch(env, "FLOWERBED_EVENT_LOG", "0"),
            held_pulls=_switch(env, "FLOWERBED_HELD_PULLS", "1"),
        )


@cache
def settings() -> Settings:
    """Return the settings of this process."""
    return Settings.from_env(os.environ)


def _database(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", _SCHEME) or not parts.path.strip("/"):
        raise StartupError(
            "FLOWERBED_DATABASE must be a URL such as postgresql://superlink@postgres:5432/superlink, "
            f"found {parts.scheme or 'nothing'!r} as its scheme."
        )
    if parts.password is not None:
        raise StartupError("FLOWERBED_DATABASE carries a password: put it into the file pgpass in /secrets instead.")
    return f"{_SCHEME}://{url.split('://', 1)[1]}"


def _libpq(env: Mapping[str, str], name: str, role: str) -> str:
    parts = urlsplit(env.get(name, ""))
    if parts.scheme != "postgresql" or not parts.hostname or not parts.username or not parts.path.strip("/"):
        raise StartupError(
            f"{name} must be a URL such as postgresql://{role}@postgres:5432/{role}, "
            f"found {parts.scheme or 'nothing'!r} as its scheme."
        )
    if parts.password is not None:
        raise StartupError(f"{name} carries a password: put it into the file pgpass in /secrets instead.")
    return parts.geturl()


def _issuer(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise StartupError(
            f"FLOWERBED_ISSUER must be https://auth.<domain>/realms/flowerbed, with :port unless it is 443, found {url!r}."
        )
    return url.rstrip("/")


def _public_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise StartupError(
            f"FLOWERBED_PUBLIC_URL must be https://superlink.<domain>, with :port unless it is 443, found {url!r}."
        )
    return url.rstrip("/")


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise StartupError(f"{name} must be a whole number from {low} to {high}, found {text!r}.")
    return int(text)


def _switch(env: Mapping[str, str], name: str, default: str) -> bool:
    text = env.get(name, "").strip() or default
    if text not in ("0", "1"):
        raise StartupError(f"{name} must be 0 or 1, found {text!r}.")
    return text == "1"
