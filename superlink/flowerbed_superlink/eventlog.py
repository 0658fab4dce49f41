"""Flower's own event log as JSON lines on standard output, for finding faults; not the audit trail, which is `trail`.

Off unless FLOWERBED_EVENT_LOG=1. Flower writes it only *after* authentication, so refusals are not in it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from fastapi import Request
from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.event_log.typing import Actor, Event, LogEntry
from google.protobuf.message import Message


class JsonEventLog(EventLogWriterPlugin):
    """Write one line before and one after each call of the Control or Fleet API."""

    def __init__(self) -> None:
        """Take no settings: the destination is standard output."""

    def compose_log_before_event(
        self, request: Message, context: object, account_info: AccountInfo | None, method_name: str
    ) -> LogEntry:
        """Compose the entry of a call that begins."""
        return _entry(request, context, account_info, method_name, "started")

    def compose_log_after_event(
        self,
        request: Message,
        context: object,
        account_info: AccountInfo | None,
        method_name: str,
        response: Message | BaseException | None,
    ) -> LogEntry:
        """Compose the entry of a call that ended."""
        failed = isinstance(response, BaseException)
        status = f"failed: {type(response).__name__}" if failed else "completed"
        return _entry(request, context, account_info, method_name, status)

    def write_log(self, log_entry: LogEntry) -> None:
        """Write the entry as one line."""
        sys.stdout.write(json.dumps({"component": "superlink", "kind": "api-call"} | asdict(log_entry)) + "\n")
        sys.stdout.flush()


def _entry(request: Message, context: object, account: AccountInfo | None, method: str, status: str) -> LogEntry:
    client = context.client if isinstance(context, Request) else None
    node = getattr(getattr(request, "node", None), "node_id", None)
    actor = Actor(
        actor_id=account.flwr_aid if account else None if node is None else str(node),
        description=account.account_name if account else None,
        ip_address=client.host if client else "",
    )
    happened = Event(action=method, run_id=getattr(request, "run_id", None), fab_hash=None)
    return LogEntry(datetime.now(UTC).isoformat(timespec="milliseconds"), actor, happened, status)
