"""Start Flower's SuperLink with our hooks, and refuse to serve unless they are the ones in force.

Not a SuperLink of our own: Flower's entry point runs as it is, with arguments built from the environment. Two seams are
used around it, each asserted against the pinned version: the modules `flwr.ee…` in `sys.modules` (so that the SuperNode
and the CLI in the same virtual environment stay stock), and the `uvicorn` that the entry point calls.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import psycopg

from flowerbed_superlink import hooks
from flowerbed_superlink.database import connect
from flowerbed_superlink.errors import MaterialError, StartupError
from flowerbed_superlink.kit import ensure_schema, open_kit
from flowerbed_superlink.log import event
from flowerbed_superlink.settings import Settings, settings

if TYPE_CHECKING:
    from fastapi import FastAPI

FLWR_VERSION = "1.41.0"
RETRY_S = 1.0
_OURS = frozenset({"timeout_graceful_shutdown", "server_header", "ws"})  # what we give uvicorn and Flower does not
_SWITCHES = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_OIDC_ENABLED": "1"}
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
_FILES = ("tls.crt", "tls.key", "ca.crt", "crl.pem", "pgpass", "edge.token", "superexec.secret")


def main() -> int:
    """Run the SuperLink; return the exit code. A start-up error is one sentence on standard error, and 2."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        run()
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def run() -> None:
    """Check, wait for the database, and hand over to Flower until it is stopped.

    Raises:
        StartupError: something is missing or wrong; nothing was served.
    """
    os.environ.update(_SWITCHES)
    config = settings()
    check_version()
    check_files(config)
    wait_for_database(config)
    register_hooks()
    serve(config)


def check_version() -> None:
    """Check that flwr is the version whose seams we know.

    Raises:
        StartupError: it is another one.
    """
    if (found := version("flwr")) != FLWR_VERSION:
        raise StartupError(f"flowerbed is made for flwr {FLWR_VERSION}, found {found}: install the pinned version.")


def check_files(config: Settings) -> None:
    """Check that every mounted file can be read.

    Raises:
        StartupError: one cannot.
    """
    paths = [config.secrets / name for name in _FILES] + [config.config / "federation.json"]
    for path in paths:
        if not os.access(path, os.R_OK):
            raise StartupError(f"{path} is missing or not readable for user {os.getuid()}: run `make up` again.")
    try:
        context = ssl.create_default_context(cafile=str(config.secrets / "ca.crt"))
        context.load_cert_chain(config.secrets / "tls.crt", config.secrets / "tls.key")
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(f"{config.secrets} holds a certificate or key that does not fit: {error}.") from error


def wait_for_database(config: Settings) -> None:
    """Return once PostgreSQL lets us into both databases, with a line in the log for each try.

    Raises:
        StartupError: it has not within FLOWERBED_DATABASE_WAIT seconds.
    """
    end = time.monotonic() + config.database_wait_s
    for look in (lambda: _look_at_flowers(config), _ensure_kits):
        while (problem := _problem(look)) is not None:
            if time.monotonic() >= end:
                raise StartupError(f"The database does not let the SuperLink in: {problem}.")
            event("database-wait", error=problem, retry_s=RETRY_S)
            time.sleep(RETRY_S)


def _problem(look: Callable[[], None]) -> str | None:
    try:
        look()
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return None


def _look_at_flowers(config: Settings) -> None:
    with connect(config.database, config.secrets) as connection:
        check_tables({name for (name,) in connection.execute(_TABLES)})


def _ensure_kits() -> None:
    with open_kit() as connection:
        ensure_schema(connection)


def check_tables(names: set[str]) -> None:
    """Check that a database that holds tables is Flower's: its migrations end in a long message otherwise.

    Raises:
        StartupError: somebody else's tables are in it.
    """
    if names and "alembic_version" not in names:
        raise StartupError(
            f"The SuperLink's database holds tables that are not Flower's ({', '.join(sorted(names)[:3])}): "
            "give it a database of its own."
        )


def register_hooks() -> None:
    """Put our modules where Flower looks for `flwr.ee`; Flower's superlink modules must not have been imported yet.

    Raises:
        StartupError: something else is there already, or Flower has fallen back already.
    """
    early = {"flwr.superlink.main", "flwr.superlink.config_loader", "flwr.superlink.cli.flower_superlink"}
    if loaded := sorted(early & set(sys.modules)):
        raise StartupError(f"{', '.join(loaded)} was imported before flowerbed's hooks were in place.")
    sys.modules["flwr.ee"] = hooks
    from flowerbed_superlink import accounts, extensions

    sys.modules["flwr.ee.utils"] = accounts
    sys.modules["flwr.ee.superlink.extensions"] = extensions


def arguments(config: Settings) -> list[str]:
    """Return the arguments of `flower-superlink`."""
    secrets = config.secrets
    options = {
        "--host": config.host,
        "--port": str(config.port),
        "--ssl-certfile": str(secrets / "tls.crt"),
        "--ssl-keyfile": str(secrets / "tls.key"),
        "--ssl-ca-certfile": str(secrets / "ca.crt"),
        "--isolation": "process",
        "--superexec-auth-secret-file": str(secrets / "superexec.secret"),
        "--database": config.database,
        "--artifact-provider-config": str(config.results),
    }
    flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    flags += ["--enable-event-log"] if config.event_log else []
    return ["flower-superlink", *(word for option in options.items() for word in option), *flags]


def serve(config: Settings) -> None:
    """Run Flower's entry point.

    Raises:
        StartupError: the database refused Flower's migrations, or our hooks are not in force.
    """
    from sqlalchemy.exc import SQLAlchemyError

    # flwr.superlink.cli exports a function under the module's own name
    entry: Any = import_module("flwr.superlink.cli.flower_superlink")
    entry.uvicorn = BoundedUvicorn(entry.uvicorn, config.stop_s)
    sys.argv = arguments(config)
    _check_superexec_secret(config)
    try:
        entry.flower_superlink()
    except SQLAlchemyError as error:
        raise StartupError(f"The database refused Flower's schema: {' '.join(str(error).split())}.") from error


def _check_superexec_secret(config: Settings) -> None:
    from flwr.supercore.auth import load_superexec_auth_secret

    try:
        load_superexec_auth_secret(secret_file=str(config.secrets / "superexec.secret"))
    except ValueError as error:
        raise StartupError(f"{config.secrets / 'superexec.secret'} cannot be used: {error}.") from error


class BoundedUvicorn:
    """Stands where the entry point calls `uvicorn.run`: checks what came of our hooks, and bounds a graceful stop."""

    def __init__(self, uvicorn: ModuleType, stop_s: int) -> None:
        if not set(inspect.signature(uvicorn.run).parameters) >= _OURS:
            raise StartupError("The installed uvicorn cannot bound a graceful stop: install the pinned versions.")
        self._uvicorn, self._stop_s = uvicorn, stop_s

    def run(self, app: FastAPI, **options: Any) -> None:  # noqa: ANN401  uvicorn's own options
        """Serve, once everything is known to be in force.

        Raises:
            StartupError: Flower has fallen back to something of its own.
        """
        check_in_force(app, held_pulls=settings().held_pulls)
        adopt(app)
        if not _OURS.isdisjoint(options) or options.get("workers") != 1:
            raise StartupError("Flower calls uvicorn in another way than flwr 1.41.0 does: install the pinned version.")
        signal.signal(signal.SIGTERM, _stopped)
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again costs an idle SuperLink more than its pulls
        event("serving", host=options["host"], port=options["port"], flwr=FLWR_VERSION)
        self._uvicorn.run(app, **options, timeout_graceful_shutdown=self._stop_s, server_header=False, ws="none")


def adopt(app: FastAPI) -> None:
    """Give the service identity what it owns.

    Raises:
        StartupError: federation.json cannot be used.
    """
    try:
        app.state.linkstate_factory.state().adopt()
    except MaterialError as error:
        raise StartupError(f"{error}: run `make up` again.") from error


def check_in_force(app: FastAPI, *, held_pulls: bool) -> None:
    """Check that Flower uses our plugins: a missing name makes it fall back without a word.

    Raises:
        StartupError: naming what is not ours.
    """
    from flowerbed_superlink.access import Access
    from flowerbed_superlink.artifacts import ResultsProvider
    from flowerbed_superlink.carrying import Carrying
    from flowerbed_superlink.federations import FlowerbedFederationManager
    from flowerbed_superlink.gate import Gate
    from flowerbed_superlink.holds import Holds
    from flowerbed_superlink.login import OidcLogin
    from flowerbed_superlink.state import PostgresLinkState, PostgresObjectStore
    from flowerbed_superlink.submissions import Submissions

    state = app.state.linkstate_factory.state()
    checks = {
        "LinkState": type(state) is PostgresLinkState,
        "ObjectStore": type(state.object_store) is PostgresObjectStore,
        "one database for both": {getattr(s, "database_url", "") for s in (state, state.object_store)}
        == {app.state.linkstate_factory.database},
        "federation manager": type(state.federation_manager) is FlowerbedFederationManager,
        "artifact provider": type(app.state.artifact_provider) is ResultsProvider,
        "login": type(app.state.account_access_dep.authn_plugin) is OidcLogin,
        "gate as outermost middleware": app.user_middleware[0].cls is cast("object", Gate),
        "access control within it": app.user_middleware[1].cls is cast("object", Access),
        "check of submissions as innermost": app.user_middleware[-1].cls is cast("object", Submissions),
        "held pulls around it": (app.user_middleware[-3].cls is cast("object", Holds)) is held_pulls,
        "objects that travel within them": (app.user_middleware[-2].cls is cast("object", Carrying)) is held_pulls,
        "SuperNode authentication": app.state.enable_supernode_auth is True,
        "SuperExec secret": bool(app.state.superexec_auth_secret),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise StartupError(f"Flower does not use flowerbed's {', '.join(wrong)}: its hooks have changed.")


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End before uvicorn serves (it takes over SIGTERM then): PID 1 would otherwise ignore the signal."""
    sys.exit(128 + signal.SIGTERM)


def _stopped(_signal: int, _frame: FrameType | None) -> None:
    """End well: uvicorn raises the signal again once everything has stopped."""
    sys.exit(0)
