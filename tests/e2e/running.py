"""Runs of the shipped app on the tests' federation: starting, following, killing what takes part, fetching results."""

from __future__ import annotations

import io
import json
import re
import ssl
import tarfile
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import httpx

from .federation import KIT, Federation, docker

APP = KIT / "apps" / "breast-cancer"
# A round takes seconds on an idle host; on a busy one a task's start alone can take a minute.
PATIENCE_S = 400
# Many short rounds that cost little epsilon, and go on without a site whose answer was lost.
SHORT_ROUNDS = "noise-multiplier=8.0 local-steps=2 min-sites=2 round-timeout=60.0 wait-for-sites=120.0"

# A run that goes on without work until somebody stops it: no federation here has that many sites.
WAITING = "min-sites=99 wait-for-sites=7200.0"


@lru_cache(maxsize=1)
def demo_run(federation: Federation) -> tuple[int, str]:
    """Run `flowerbed run` once for all tests; return the run's id and what was printed."""
    printed = federation.flowerbed("run", timeout=900).stdout
    found = re.search(r"Run (\d+)", printed)
    assert found, printed
    return int(found.group(1)), printed


def finished_run(federation: Federation) -> int:
    """Return a completed run of the demo pipeline's with results; make one only where there is none."""
    # The SQL type is signed, Flower's is not.
    own = {
        int(run) % 2**64 for run in federation.sql("SELECT run_id FROM run WHERE flwr_aid = 'pipeline-demo'").split()
    }
    for run in superlink_status(federation).get("runs", []):
        ended = int(run["id"]) in own and run["sub_status"] == "completed"
        if ended and "summary.json" in results(federation, int(run["id"])):
            return int(run["id"])
    return demo_run(federation)[0]


def wait_for(what: str, condition: Callable[[], Any], seconds: float, pause: float = 1.0) -> Any:
    """Return the first true answer of `condition`, asked until `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(pause)
    return answer


def superlink_status(federation: Federation) -> dict[str, Any]:
    """Return nodes and runs as the SuperLink's container gives them; empty while it cannot."""
    text = federation.sh("superlink", "python -m flowerbed_superlink.status", check=False)
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return answer


def run_of(federation: Federation, run: int) -> dict[str, Any]:
    """Return what the SuperLink knows of a run; empty while it cannot say."""
    runs = superlink_status(federation).get("runs", [])
    return next((item for item in runs if int(item["id"]) == run), {})


def results(federation: Federation, run: int) -> list[str]:
    """Return the names of the results that a run has stored so far."""
    volume = f"{federation.topology.name}-results"
    script = f"cut -d' ' -f3 /results/{run}/SHA256SUMS 2>/dev/null || true"
    mount = ["-v", f"{volume}:/results:ro", "--network", "none"]
    return docker("run", "--rm", *mount, "debian:trixie-slim", "bash", "-c", script).split()


def rounds(federation: Federation, run: int) -> int:
    """Return how many rounds a run has finished."""
    return len([name for name in results(federation, run) if re.fullmatch(r"round-\d+\.json", name)])


def pull(federation: Federation, run: int) -> str:
    """Return the link that `flwr pull` gives."""
    text = federation.flwr(f"flwr pull {run} flowerbed")
    found = re.search(r"https://\S+", text.replace("\n", ""))
    assert found, text
    return found.group(0)


def download(federation: Federation, link: str) -> httpx.Response:
    """Open a link as a researcher does, trusting the consortium's root alone; names need not resolve on this host."""
    url = httpx.URL(link)
    trust = ssl.create_default_context(cafile=str(federation.root / "ca" / "pki" / "ca.crt"))
    with httpx.Client(verify=trust, trust_env=False, timeout=30) as client:
        request = client.build_request(
            "GET", url.copy_with(host="127.0.0.1"), headers={"Host": url.netloc.decode()},
            extensions={"sni_hostname": url.host},
        )  # fmt: skip
        return client.send(request)


def artefact(federation: Federation, run: int) -> dict[str, bytes]:
    """Return a run's results by name, pulled and downloaded."""
    answer = download(federation, pull(federation, run))
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        return {
            member.name.removeprefix(f"{run}/"): file.read()
            for member in tar.getmembers()
            if (file := tar.extractfile(member))
        }


def spent(federation: Federation, site: str, run: int) -> list[float]:
    """Return epsilon as the site's own record of a run has it, charge by charge."""
    lines = federation.sh(f"{site}-clientapp", f"cat /state/{run}.jsonl 2>/dev/null || true", user="0").splitlines()
    return [json.loads(line)["epsilon"] for line in lines if line.endswith("}")]


def kill(federation: Federation, service: str) -> None:
    """Kill a container's main process, as a crash does: after `docker kill` the Engine would not start it again."""
    pid = federation.inspect(service)["State"]["Pid"]
    docker("run", "--rm", "--pid", "host", "--network", "none", "--cap-drop", "ALL", "--cap-add", "KILL",
           "debian:trixie-slim", "bash", "-c", f"kill -KILL {pid}")  # fmt: skip


def started_again(federation: Federation, service: str, before: dict[str, Any], seconds: float = 90) -> None:
    """Wait until Docker has started a container again by its restart policy, and it is healthy."""

    def healthy() -> bool:
        now = federation.inspect(service)
        restarted = now["RestartCount"] > before["RestartCount"] and now["Id"] == before["Id"]
        return restarted and now["State"].get("Health", {}).get("Status") == "healthy"

    wait_for(f"{service} is started again and healthy", healthy, seconds)
