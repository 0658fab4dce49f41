"""``python -m flowerbed_supernode``: Flower's SuperNode at a site.

Exit status: 0 after SIGTERM, 2 if it cannot start (one sentence says why), 1 if it ended by itself, so that Docker
starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from . import pinned
from .settings import Settings, SettingsError, check, load

if TYPE_CHECKING:
    from .stop import GracefulStop

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def show_log() -> None:
    """Write the kit's own log to standard error; Flower writes its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("flowerbed")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def prepare() -> None:
    """Keep telemetry, update checks and proxies away from Flower: the gateway is the only way out."""
    for name in _PROXIES:
        os.environ.pop(name, None)
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")


def run(settings: Settings) -> tuple[int, str]:
    """Run the SuperNode until it ends; return the exit status and why it ended."""
    from flwr.supernode.cli import flower_supernode

    graceful = install(settings)
    sys.argv = settings.arguments()
    try:
        flower_supernode()
    except SystemExit as end:
        if graceful.asked and not end.code:
            return 0, "Stopped."
        # Flower also exits with 0 when the SuperLink refuses its key, by interrupting itself.
        return 1, "Flower has ended the SuperNode."
    except BaseException:
        logging.getLogger("flowerbed.supernode").exception("The SuperNode failed")
        return 1, "The SuperNode failed."
    return 1, "The main loop has ended."


def install(settings: Settings) -> GracefulStop:
    """Wrap what this package wraps of Flower's, in this process only; return what knows of a stop."""
    from . import carrying, connecting, holds, incoming, liveness, replies, routes, stop, waits

    held_pulls = settings.held_pulls and waits.fits()
    graceful = stop.GracefulStop(settings.drain_seconds, stop.HELD_PULL_SECONDS if held_pulls else stop.PULL_SECONDS)
    loop_time, tasks = waits.LoopTime(), incoming.Incoming()
    if held_pulls:
        routes.install(holds.install(tasks))
        replies.install(loop_time.replied)
        carrying.install()
    else:
        routes.install()
        replies.install()
    connecting.install()
    liveness.install(liveness.Liveness(settings.alive))
    stop.install(graceful)
    if held_pulls:
        waits.install(loop_time, tasks)
    return graceful


def main() -> None:
    """Start the SuperNode and end with its status, whatever threads are left."""
    # Process 1 of a container ignores what it has no handler for, and imports take seconds.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    show_log()
    try:
        prepare()
        settings = load(os.environ)
        check(settings)
        pinned.check()
    except (SettingsError, pinned.PinError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    code, why = run(settings)
    sys.stderr.write(f"{why}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
