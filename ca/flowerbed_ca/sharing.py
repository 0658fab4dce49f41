"""Spreads work that is all computation over the processor's cores, by forking. For batches of hundreds of signatures.

Not for anything that touches files or waits: the children only compute and hand their results back through a pipe.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")
_LEAST_SHARE = 100  # below this a fork costs more than it saves


def spread(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[work(item) for item in items]`, on several cores where that pays and forking is safe (one thread only)."""
    shares = min(_cores(), len(items) // _LEAST_SHARE)
    if shares < 2 or threading.active_count() > 1:
        return [work(item) for item in items]
    from multiprocessing import get_context  # 10 ms that small batches need not spend

    context = get_context("fork")
    parts = [items[share * len(items) // shares : (share + 1) * len(items) // shares] for share in range(shares)]
    children = []
    for part in parts[1:]:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(sender, work, part), daemon=True)
        child.start()
        sender.close()
        children.append((child, receiver))
    results = [work(item) for item in parts[0]]
    for child, receiver in children:
        answer: list[R] | Exception = receiver.recv()
        child.join()
        if isinstance(answer, Exception):
            raise answer
        results += answer
    return results


def _send(sender: Connection, work: Callable[[T], R], items: Sequence[T]) -> None:
    try:
        sender.send([work(item) for item in items])
    except Exception as error:  # noqa: BLE001 - the parent raises it
        sender.send(error)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
