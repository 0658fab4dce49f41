"""Asserts that the installed Flower is the one whose inner names this package wraps.

`flower-supernode` has no hook for its routes, its liveness or its stop, so the names below are wrapped in this
process only. A version in which they mean something else must not start at all.
"""

from __future__ import annotations

import importlib
import inspect

FLWR_VERSION = "1.41.0"

_MAIN_LOOP = "flwr.supernode.start_client_internal"
_NODE_STATE = ("flwr.supernode.nodestate.in_memory_nodestate", "InMemoryNodeState")

EXPECTED = {
    ("flwr.supernode.cli", "flower_supernode"): (),
    ("flwr.supernode.main", "create_app"): ("state_factory", "superexec_auth_secret"),
    ("flwr.supernode.fleet_http_connection", "HeartbeatSender"): ("heartbeat_fn",),
    ("flwr.supernode.fleet_http_connection", "make_simple_http_retry_invoker"): (),
    ("flwr.supernode.fleet_http_connection", "FleetHttpClient.ActivateNode"): ("self", "request"),
    ("flwr.supercore.heartbeat", "HeartbeatSender._run"): ("self",),
    ("flwr.supercore.heartbeat", "HeartbeatSender._heartbeat"): ("self",),
    (_MAIN_LOOP, "register_signal_handlers"): (
        "event_type",
        "exit_message",
        "grpc_servers",
        "bckg_threads",
        "exit_handlers",
    ),
    (_MAIN_LOOP, "_pull_and_store_message"): (
        "state",
        "object_store",
        "node_config",
        "receive",
        "get_run",
        "get_fab",
        "pull_object",
        "confirm_message_received",
        "trusted_entities",
    ),
    (_MAIN_LOOP, "_push_messages"): ("state", "object_store", "send", "push_object"),
    ("flwr.supernode.servicer.runtime.runtime_handlers", "pull_messages"): ("request", "state", "task"),
    ("flwr.supernode.servicer.runtime.runtime_handlers", "push_messages"): ("request", "state", "task"),
    ("flwr.supernode.servicer.runtime.runtime_handlers", "push_object"): ("request", "state", "task"),
    ("flwr.supernode.servicer.runtime.runtime_handlers", "confirm_message_received"): ("request", "state", "task"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.finish_task"): ("self", "task_id", "sub_status", "details"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.get_messages_legacy"): ("self", "run_ids", "is_reply", "limit"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}._on_task_tokens_expired"): ("self", "tasks"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}._store_error_replies"): ("self", "run_ids", "error"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.record_message_processing_start"): ("self", "message_id"),
}
"""What is wrapped or called, with the names of its parameters."""

WAITS = {
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.create_task"): (
        "self",
        "task_type",
        "run_id",
        "fab_hash",
        "model_ref",
        "connector_ref",
        "connector_id",
        "requesting_task_id",
    ),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.claim_task"): ("self", "task_id"),
    (_NODE_STATE[0], f"{_NODE_STATE[1]}.reserve_nonce"): ("self", "namespace", "nonce", "expires_at"),
    ("flwr.supercore.dependencies.superexec", "authenticate_superexec_request"): ("request", "state", "method"),
    ("flwr.supercore.exit", "add_exit_handler"): ("exit_handler", "run_before_force_exit"),
}
"""What `waits` and `holds` need besides; without it the SuperNode starts, and waits as stock Flower does."""


class PinError(Exception):
    """The installed Flower is not the pinned one."""


def check() -> None:
    """Raise `PinError` with one sentence if anything that cannot be done without differs."""
    installed = importlib.import_module("flwr").__version__
    if installed != FLWR_VERSION:
        raise PinError(f"flwr {installed} is installed; this launcher is made for {FLWR_VERSION}: rebuild the image.")
    if reason := difference(EXPECTED):
        raise PinError(f"{reason}: rebuild the image.")


def difference(expected: dict[tuple[str, str], tuple[str, ...]]) -> str:
    """Return what differs first from `expected`, empty if nothing does."""
    installed = importlib.import_module("flwr").__version__
    for (module, name), parameters in expected.items():
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found) or tuple(inspect.signature(found).parameters) != parameters:
            return f"{module}.{name} of flwr {installed} is not what this launcher is made for"
    return ""
