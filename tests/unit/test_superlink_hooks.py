"""Our hooks against the pinned Flower's source: nothing that it looks up is missing, nothing that we know is gone."""

from __future__ import annotations

import ast
import asyncio
import inspect
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from importlib import import_module, resources
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import flwr.superlink.main  # noqa: F401  it sets an environment variable, so before any test begins
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from flowerbed_superlink import accounts, extensions, hooks
from flowerbed_superlink.directory import Directory
from flowerbed_superlink.errors import StartupError
from flowerbed_superlink.launcher import FLWR_VERSION, arguments, check_files, check_in_force, check_version
from flowerbed_superlink.routes import ALLOWED, ARTIFACT_ROUTE, OUR_ROUTES, REFUSED, check_routes
from flowerbed_superlink.settings import Settings
from flowerbed_superlink.trail import Trail

MODULES = {"flwr.ee": hooks, "flwr.ee.utils": accounts, "flwr.ee.superlink.extensions": extensions}
# Looked up and deliberately not offered: traces have no receiver, and migrations stay Flower's own.
NOT_OFFERED = {"flwr.ee.supercore.tracing", "flwr.ee.state.alembic"}
# Optional callbacks that nothing of ours listens to.
NOT_LISTENED = {"on_run_started", "on_result_delivered"}

ENV = {
    "FLOWERBED_DATABASE": "postgresql://superlink@postgres:5432/superlink",
    "FLOWERBED_AUDIT_DATABASE": "postgresql://audit@postgres:5432/audit",
    "FLOWERBED_KIT_DATABASE": "postgresql://flowerbed@postgres:5432/flowerbed",
    "FLOWERBED_ISSUER": "https://auth.flowerbed.test:8443/realms/flowerbed/",
    "FLOWERBED_PUBLIC_URL": "https://superlink.flowerbed.test:8443/",
}


def _sources() -> list[ast.Module]:
    root = Path(str(resources.files("flwr")))
    return [ast.parse(path.read_text()) for path in root.rglob("*.py") if "flwr.ee" in path.read_text()]


def _imports() -> dict[str, set[str]]:
    """Return `{module: names}` of every `from flwr.ee… import …` in Flower, and of its import_module calls."""
    found: dict[str, set[str]] = {}
    for tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr.ee"):
                found.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("flwr.ee"):
                        found.setdefault(alias.name, set())
            elif (
                isinstance(node, ast.Constant) and str(node.value).startswith("flwr.ee.") and " " not in str(node.value)
            ):
                found.setdefault(str(node.value), set())
    return found


def _is_module_name(value: object) -> bool:
    return isinstance(value, str) and value.startswith("flwr.ee.") and value.replace(".", "").isidentifier()


def test_flower_looks_for_no_module_that_we_do_not_know() -> None:
    assert set(_imports()) == set(MODULES) | NOT_OFFERED


def test_every_name_that_flower_imports_is_there() -> None:
    for name, module in MODULES.items():
        for attribute in _imports()[name]:
            assert callable(getattr(module, attribute, None)), f"{name} lacks {attribute}"


def test_hooks_offers_nothing_that_flower_does_not_import() -> None:
    ours = {n for n, value in vars(hooks).items() if inspect.isfunction(value) and value.__module__ == hooks.__name__}
    assert ours == _imports()["flwr.ee"]


def test_the_extension_functions_are_those_that_flower_looks_up() -> None:
    tree = ast.parse(inspect.getsource(import_module("flwr.superlink.extensions")))
    looked_up = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr"
        if isinstance(node.args[1], ast.Constant)
    }
    ours = {n for n, v in vars(extensions).items() if inspect.isfunction(v) and v.__module__ == extensions.__name__}
    assert {n for n in ours if not n.startswith("_")} == looked_up - NOT_LISTENED


def test_the_pinned_version_is_one_everywhere() -> None:
    pinned = dict(line.split("=", 1) for line in Path("versions.env").read_text().splitlines() if "=" in line)
    assert pinned["FLWR_VERSION"] == FLWR_VERSION == version("flwr")
    check_version()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowerbed_superlink.launcher.version", lambda _: "1.42.0")
    with pytest.raises(StartupError, match=r"made for flwr 1\.41\.0, found 1\.42\.0"):
        check_version()


def _routes() -> set[str]:
    code = (
        "from flwr.superlink.main import create_app\nfrom fastapi.routing import iter_route_contexts\n"
        "for c in iter_route_contexts(create_app().routes): print(c.path or c.route.path)"
    )
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=quiet, timeout=60
    )
    return set(done.stdout.split())


def test_the_two_lists_are_exactly_the_routes_of_the_pinned_superlink() -> None:
    routes = _routes()
    ours = OUR_ROUTES | {ARTIFACT_ROUTE}
    assert routes | ours == ALLOWED | REFUSED
    assert not ALLOWED & REFUSED
    check_routes(routes | ours)


def test_a_route_that_nobody_decided_on_stops_the_start() -> None:
    with pytest.raises(StartupError, match=r"neither allows nor refuses \(/v1/fleet/new-thing\): decide"):
        check_routes(ALLOWED | REFUSED | {"/v1/fleet/new-thing"})
    with pytest.raises(StartupError, match=r"lacks routes .*/v1/fleet/pull-messages"):
        check_routes(ALLOWED - {"/v1/fleet/pull-messages"})


def test_a_superlink_that_fell_back_is_refused() -> None:
    from flwr.superlink.main import create_app

    app = create_app()
    assert list(iter_route_contexts(app.routes))
    with pytest.raises(StartupError, match=r"does not use flowerbed's LinkState, ObjectStore.*gate as outermost"):
        check_in_force(app, held_pulls=True)


def test_every_account_has_a_name_and_the_list_of_people_being_away_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [("p-1", "researcher-north", True, ["main"])]
    monkeypatch.setattr(accounts, "directory", lambda: Directory(lambda: rows))
    assert accounts.resolve_account_ids(["p-1", "p-2"]) == {"p-1": "researcher-north", "p-2": "p-2"}

    def away() -> list[tuple[object, ...]]:
        raise psycopg.OperationalError("gone")

    monkeypatch.setattr(accounts, "directory", lambda: Directory(away))
    assert accounts.resolve_account_ids(["p-1"]) == {"p-1": "p-1"}


def test_records_that_wait_are_written_before_the_superlink_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Slow:
        """A connection that takes its time."""

        def execute(self, _: str, values: list[list[str]]) -> None:
            time.sleep(0.5)
            written.extend(values[0])

        def close(self) -> None:
            """Nothing is open."""

    trail = Trail(lambda: cast("psycopg.Connection[Any]", Slow()))
    monkeypatch.setattr(extensions, "trail", lambda: trail)

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for context in extensions.get_lifespan_contexts():
                if context is extensions._close_kit:
                    await stack.enter_async_context(context(FastAPI()))
            trail.note(who="researcher-north", verb="stop-run", outcome="done")

    asyncio.run(serve())
    assert len(written) == 1


def test_arguments_carry_no_secret_and_close_what_flower_leaves_open(tmp_path: Path) -> None:
    config = Settings.from_env(ENV | {"FLOWERBED_SECRETS": str(tmp_path)})
    words = arguments(config)
    pairs = set(pairwise(words))
    assert ("--isolation", "process") in pairs
    assert ("--superexec-auth-secret-file", str(tmp_path / "superexec.secret")) in pairs
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(words)
    assert not {"--insecure", "--simulation", "--enable-event-log"} & set(words)
    assert "--enable-event-log" in arguments(Settings.from_env(ENV | {"FLOWERBED_EVENT_LOG": "1"}))


def test_settings_are_normalised() -> None:
    config = Settings.from_env(ENV)
    assert config.database == "postgresql+psycopg://superlink@postgres:5432/superlink"
    assert config.public_url == "https://superlink.flowerbed.test:8443"
    assert config.issuer == "https://auth.flowerbed.test:8443/realms/flowerbed"
    assert (config.host, config.port) == ("0.0.0.0", 8000)


@pytest.mark.parametrize(("given", "held"), [({}, True), ("", True), ("1", True), (" 1 ", True), ("0", False)])
def test_pulls_are_held_unless_that_is_switched_off(given: str | dict[str, str], held: bool) -> None:
    switch = {"FLOWERBED_HELD_PULLS": given} if isinstance(given, str) else given
    assert Settings.from_env(ENV | switch).held_pulls is held


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FLOWERBED_DATABASE", "", "FLOWERBED_DATABASE must be a URL"),
        ("FLOWERBED_DATABASE", "sqlite:///state.db", "found 'sqlite'"),
        ("FLOWERBED_DATABASE", "postgresql://superlink:hunter2@postgres/superlink", "carries a password"),
        ("FLOWERBED_AUDIT_DATABASE", "", "FLOWERBED_AUDIT_DATABASE must be a URL such as postgresql://audit@"),
        ("FLOWERBED_AUDIT_DATABASE", "postgresql://postgres/audit", "FLOWERBED_AUDIT_DATABASE must be a URL"),
        ("FLOWERBED_AUDIT_DATABASE", "postgresql://audit:hunter2@postgres/audit", "carries a password"),
        ("FLOWERBED_KIT_DATABASE", "", "FLOWERBED_KIT_DATABASE must be a URL"),
        ("FLOWERBED_KIT_DATABASE", "postgresql://flowerbed:hunter2@postgres/flowerbed", "carries a password"),
        ("FLOWERBED_ISSUER", "", "FLOWERBED_ISSUER must be"),
        ("FLOWERBED_ISSUER", "http://auth.flowerbed.test/realms/flowerbed", "FLOWERBED_ISSUER must be"),
        ("FLOWERBED_PUBLIC_URL", "", "FLOWERBED_PUBLIC_URL must be"),
        ("FLOWERBED_PUBLIC_URL", "http://superlink.flowerbed.test", "FLOWERBED_PUBLIC_URL must be"),
        ("FLOWERBED_PUBLIC_URL", "https://superlink.flowerbed.test/x", "FLOWERBED_PUBLIC_URL must be"),
        ("FLOWERBED_PORT", "0", "FLOWERBED_PORT must be a whole number from 1 to 65535, found '0'"),
        ("FLOWERBED_STOP_SECONDS", "soon", "FLOWERBED_STOP_SECONDS"),
        ("FLOWERBED_DATABASE_WAIT", "-1", "FLOWERBED_DATABASE_WAIT"),
        ("FLOWERBED_EVENT_LOG", "true", "FLOWERBED_EVENT_LOG must be 0 or 1, found 'true'"),
        ("FLOWERBED_HELD_PULLS", "yes", "FLOWERBED_HELD_PULLS must be 0 or 1, found 'yes'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(name: str, value: str, said: str) -> None:
    with pytest.raises(StartupError, match=said) as caught:
        Settings.from_env(ENV | {name: value})
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"tls\.crt is missing or not readable for user \d+: run `make up` again\."):
        check_files(Settings.from_env(ENV | {"FLOWERBED_SECRETS": str(tmp_path)}))


def test_start_up_errors_are_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowerbed_superlink"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin"},
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("FLOWERBED_DATABASE must be a URL")
    assert done.stderr.count("\n") == 1
