"""Milliseconds that checking an access token takes: in each request after the first, and in the first, which costs a signature.

No network is involved in either once the issuer's keys are known; the issuer here is a stand-in with keys of its own. Run as
a script it prints the rows.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from flowerbed_superlink.provider import Provider  # noqa: E402
from flowerbed_superlink.tokens import Tokens  # noqa: E402
from superlink_identity import Issuer, person  # noqa: E402 - the script is also run by itself

REQUESTS = 20_000
FIRST = 400
Row = dict[str, object]


def rows() -> list[Row]:
    """Validate one token for many requests, and many tokens for the first time."""
    issuer = Issuer()
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        status, content = issuer.answer(urlsplit(str(request.url)).path, {})
        return httpx.Response(status, json=content)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    tokens = Tokens(Provider(issuer.issuer, Path("ca.crt"), http=http))
    account = person("researcher-north", "researcher")
    token = issuer.token(account)
    tokens.validate(token)
    fetched = len(asked)
    made = [_row("token validation per request", [_timed(lambda: tokens.validate(token)) for _ in range(REQUESTS)])]
    fresh = [issuer.token(account) for _ in range(FIRST)]
    made.append(_row("token validation, first time, RS256", [_timed(lambda t=t: tokens.validate(t)) for t in fresh]))
    if len(asked) != fetched:
        raise RuntimeError(f"the identity provider was asked {len(asked) - fetched} times")
    return made


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def _row(name: str, milliseconds: list[float]) -> Row:
    return {
        "name": name,
        "unit": "ms",
        "median": statistics.median(milliseconds),
        "min": min(milliseconds),
        "max": max(milliseconds),
        "runs": len(milliseconds),
    }


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(f"{row}\n")
