"""Asserts that the installed Flower is the one whose inner names this package replaces.

Flower gives no hook for how SuperExec starts a task, so two names are replaced in this process only. A version in which
they mean something else must not start at all.
"""

from __future__ import annotations

import importlib
import inspect

from .task import ENTRY_POINTS

FLWR_VERSION = "1.41.0"

EXPECTED = {
    ("flwr.supercore.cli.flower_superexec", "flower_superexec"): (),
    ("flwr.supercore.superexec.run_superexec", "get_executor"): (
        "executor_type",
        "executor_config",
        "insecure",
        "root_certificates_path",
    ),
    ("flwr.supercore.superexec.run_superexec", "AutoExecPlugin"): (
        "runtime_api_address",
        "insecure",
        "root_certificates_path",
        "runtime_dependency_install",
        "executor",
    ),
    ("flwr.supercore.superexec.plugin", "AutoExecPlugin.launch_task"): ("self", "token", "task"),
    ("flwr.supercore.exit", "add_exit_handler"): ("exit_handler", "run_before_force_exit"),
    ("flwr.supercore.runtime", "RuntimeHttpClient.PushTaskOutput"): ("self", "request"),
    ("flwr.supercore.runtime", "RuntimeHttpClient.SendTaskHeartbeat"): ("self", "request"),
    ("flwr.supercore.telemetry", "create_event"): ("event_type", "event_details"),
    **dict.fromkeys(ENTRY_POINTS.values(), ()),
    **{(f"{module}.{function}", function): () for module, function in ENTRY_POINTS.values()},
}
"""What is replaced or called, with the names of its parameters."""


class PinError(Exception):
    """The installed Flower is not the pinned one."""


def check() -> None:
    """Raise `PinError` with one sentence if anything differs."""
    installed = importlib.import_module("flwr").__version__
    if installed != FLWR_VERSION:
        raise PinError(f"flwr {installed} is installed; this executor is made for {FLWR_VERSION}: rebuild the image.")
    for (module, name), expected in EXPECTED.items():
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found) or tuple(inspect.signature(found).parameters) != expected:
            raise PinError(
                f"{module}.{name} of flwr {installed} is not what this executor is made for: rebuild the image."
            )
