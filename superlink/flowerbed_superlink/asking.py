"""Who asks in the request that is being served, for code that Flower calls without saying so; not how it was found out.

A context variable follows a request from the middleware into Flower's handlers and their threads.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from flowerbed_superlink.tokens import Claims


@dataclass(frozen=True)
class Asking:
    """The request's sender: an address, and an account once it is known."""

    source: str
    claims: Claims | None = None


_asking: ContextVar[Asking | None] = ContextVar("flowerbed_asking", default=None)


def ask_as(asking: Asking | None) -> None:
    """Say who asks, for the rest of this request; None for one in which nobody does.

    To be said at the start of every request: the task of a pipelined one is made in the context of the one before.
    """
    _asking.set(asking)


def source() -> str:
    """Return the address of the request being served, or "local" outside of any."""
    asking = _asking.get()
    return asking.source if asking is not None else "local"


def claims() -> Claims | None:
    """Return the claims of the account that asks, None outside of an authenticated request."""
    asking = _asking.get()
    return asking.claims if asking is not None else None


def claims_of(aid: str) -> Claims | None:
    """Return the claims of an account if it is the one that asks: what a token said earlier may be wrong by now."""
    found = claims()
    return found if found is not None and found.aid == aid else None
