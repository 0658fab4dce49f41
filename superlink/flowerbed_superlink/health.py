"""Proof that the SuperLink serves and its database answers, as a file that a cheap probe can look at.

Every five seconds `SELECT 1`, then the file is touched. The container's health check is
`test -n "$(find /run/flowerbed/alive -newermt '-15 seconds')"`: no process of Python's is started for it. Not for
SuperNodes, whose health is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from flowerbed_superlink.log import event
from flowerbed_superlink.settings import settings

INTERVAL_S = 5.0


@asynccontextmanager
async def prove_alive(app: FastAPI) -> AsyncIterator[None]:
    """Touch the file as long as the app serves."""
    task = asyncio.create_task(_beat(app, settings().alive))
    try:
        yield None
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _beat(app: FastAPI, alive: Path) -> None:
    alive.parent.mkdir(parents=True, exist_ok=True)
    answered = True
    while True:
        problem = await asyncio.to_thread(_database_problem, app)
        if problem is None:
            alive.touch()
        if answered != (problem is None):
            answered = problem is None
            event("database-answers" if answered else "database-silent", error=problem)
        await asyncio.sleep(INTERVAL_S)


def _database_problem(app: FastAPI) -> str | None:
    try:
        app.state.linkstate_factory.state().query("SELECT 1")
    except SQLAlchemyError as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None
