"""The attempts: each returns what it got, or the error that stopped it, and none of them stops the others."""

# ruff: noqa: BLE001, PTH115, PTH208, T201
from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spec = dict[str, Any]
Found = dict[str, Any]
SYSTEM = ("/proc", "/sys", "/usr", "/opt", "/dev/pts")


def attempt(action: Callable[[], object]) -> list[Any]:
    """Return whether it worked, and what it gave or why not."""
    try:
        return [True, repr(action())[:300]]
    except BaseException as error:
        return [False, f"{type(error).__name__}: {error}"[:300]]


def run(spec: Spec) -> Found:
    """Do the named attempts."""
    found: Found = {"uid": os.getuid(), "pid": os.getpid()}
    for name in spec["do"]:
        found[name] = ATTEMPTS[name](spec)
    return found


def read(spec: Spec) -> Found:
    """Open files that belong to the executor, to other services, or to other sites."""
    return {path: attempt(lambda path=path: Path(path).read_bytes()[:80]) for path in spec["paths"]}


def search(spec: Spec) -> Found:
    """Look at every file that can be read, but the system's own, for a secret or another site's row.

    Rows come spelled backwards, so that this app does not itself bring what is looked for.
    """
    secrets, rows = set(spec["hashes"]), [row[::-1].encode() for row in spec["rows"]]
    seen, hits = 0, []
    for directory, _, names in os.walk("/", onerror=None):
        if directory.startswith(SYSTEM):
            continue
        for name in names:
            path = Path(directory, name)
            try:
                if not path.is_file() or path.stat().st_size > 4 * 2**20:
                    continue
                content = path.read_bytes()
            except OSError:
                continue
            seen += 1
            if hashlib.sha256(content).hexdigest() in secrets or any(row in content for row in rows):
                hits.append(str(path))
    return {"seen": seen, "hits": hits}


def processes(spec: Spec) -> Found:
    """Read of every other user's process what /proc offers, and send it signals."""
    del spec
    got, commands, tried = {}, "", 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or f"\nUid:\t{os.getuid()}\t" in attempt_text(entry / "status"):
            continue
        commands += attempt_text(entry / "cmdline").replace("\0", " ") + "\n"
        tries = {
            name: attempt(lambda e=entry, n=name: (e / n).read_bytes()[:64]) for name in ("environ", "mem", "maps")
        }
        tries |= {name: attempt(lambda e=entry, n=name: os.readlink(e / n)) for name in ("cwd", "root", "exe", "fd/0")}
        tries["secrets"] = attempt(lambda e=entry: os.listdir(e / "root" / "secrets"))
        tries["kill"] = attempt(lambda e=entry: os.kill(int(e.name), signal.SIGKILL))
        tried += len(tries)
        got |= {f"{entry.name}/{name}": result for name, result in tries.items() if result[0]}
    return {"tried": tried, "got": got, "commands": commands[:4000]}


def attempt_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def environment(spec: Spec) -> Found:
    """Report what the task was given."""
    del spec
    return {"variables": dict(os.environ), "arguments": Path("/proc/self/cmdline").read_text().split("\0")}


def connect(spec: Spec) -> list[str]:
    """Open TCP connections; return those that opened."""

    def one(target: list[Any]) -> str:
        try:
            with socket.create_connection((target[0], target[1]), timeout=1.5):
                return f"{target[0]}:{target[1]}"
        except OSError:
            return ""

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        return sorted(filter(None, pool.map(one, spec["targets"])))


def dns(spec: Spec) -> Found:
    """Look names up with the resolver that the container has, and ask DNS servers straight."""
    names = {name: attempt(lambda name=name: socket.getaddrinfo(name, 80)) for name in spec["names"]}
    query = bytes.fromhex("12340100000100000000000006646972656374076578616d706c6504746573740000010001")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for server in spec["servers"]:
            attempt(lambda server=server: udp.sendto(query, (server, 53)))
        udp.settimeout(1.5)
        answer = attempt(lambda: udp.recvfrom(512))
    return {"names": names, "answer": answer}


def call(spec: Spec) -> Found:
    """Call the API that the task may reach, with its own token and with forged headers, for what it may not do."""
    host, port = sys.argv[sys.argv.index("--runtime-api-address") + 1].split(":")
    context = ssl.create_default_context(cafile=sys.argv[sys.argv.index("--root-certificates") + 1])
    token = sys.argv[sys.argv.index("--token") + 1]
    headers = {"Content-Type": "application/protobuf", "flwr-task-token": token}
    found = {}
    for path, extra in spec["requests"]:
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
        connection.request("POST", path, body=b"", headers=headers | extra)
        found[f"{path} {'+'.join(sorted(extra))}".strip()] = connection.getresponse().status
        connection.close()
    return found


def write(spec: Spec) -> Found:
    """Write where a task must not, and where it may."""
    found = {path: attempt(lambda path=path: Path(path).write_text("x")) for path in spec["write"]}
    own = {
        name: attempt(lambda name=name: Path(os.environ[name], "own").write_text("x")) for name in ("HOME", "TMPDIR")
    }
    return {"foreign": found, "own": own}


def privileges(spec: Spec) -> Found:
    """Gain what the task was not given."""
    del spec
    return {
        "setuid": attempt(lambda: os.setuid(0)),
        "setgid": attempt(lambda: os.setgid(0)),
        "neighbour": attempt(lambda: os.setuid(os.getuid() + 1)),
        "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        "unshare": attempt(lambda: subprocess.run(["unshare", "-Ur", "true"], check=True, capture_output=True)),
        "chroot": attempt(lambda: os.chroot("/tmp")),
    }


CHILD = """
import os, signal, sys, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    open("/tmp/left-behind", "a").write("x"); open("/dev/shm/left-behind", "a").write("x"); time.sleep(0.1)
"""


def leave(spec: Spec) -> int:
    """Leave a child behind that ignores every signal it may, and files where others could find them."""
    del spec
    left = subprocess.Popen([sys.executable, "-c", CHILD, "left-behind"], start_new_session=True)
    time.sleep(0.5)
    return left.pid


def look(spec: Spec) -> Found:
    """See what an earlier task has left."""
    del spec
    commands = " ".join(attempt_text(entry) for entry in Path("/proc").glob("[0-9]*/cmdline"))
    files = [str(path) for place in ("/tmp", "/dev/shm") for path in Path(place).iterdir() if "left" in path.name]
    return {"child": "left-behind" in commands, "files": files}


def data(spec: Spec) -> Found:
    """Read what the site's tasks are there to read."""
    del spec
    table = Path(os.environ["FLOWERBED_DATA"], "breast-cancer.csv").read_text().splitlines()
    return {"rows": len(table), "files": sorted(os.listdir(os.environ["FLOWERBED_DATA"]))}


SECRET = "PRECIOUS" * 4


def victim(spec: Spec) -> Found:
    """Keep something precious, tell where, and see whether it is still there when the attack is over."""
    del spec
    home = Path(os.environ["HOME"])
    (home / "precious").write_text(SECRET)
    Path("/tmp/of-victim").write_text(SECRET)
    os.environ["VICTIM_VARIABLE"] = SECRET
    token = sys.argv[sys.argv.index("--token") + 1]
    facts = {"pid": os.getpid(), "uid": os.getuid(), "home": str(home), "token": token, "apps": os.environ["FLWR_HOME"]}
    print("VICTIM " + json.dumps(facts), flush=True)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not Path("/tmp/attack-is-over").exists():
        time.sleep(0.2)
    unharmed = (home / "precious").read_text() == SECRET and Path("/tmp/of-victim").read_text() == SECRET
    return {"unharmed": unharmed, "in time": time.monotonic() < deadline}


def overlap(spec: Spec) -> Found:
    """Attack the task that runs beside this one."""
    home, apps, pid = Path(spec["victim"]["home"]), Path(spec["victim"]["apps"]), spec["victim"]["pid"]
    tries: dict[str, Callable[[], object]] = {
        "read": lambda: (home / "precious").read_text(),
        "change": lambda: (home / "precious").write_text("spoilt"),
        "list": lambda: os.listdir(home),
        "list tasks": lambda: os.listdir("/tasks"),
        "rename": lambda: home.parent.rename("/tasks/moved"),
        "read apps": lambda: os.listdir(apps),
        "change apps": lambda: (apps / "apps" / "x").write_text("spoilt"),
        "read in /tmp": lambda: Path("/tmp/of-victim").read_text(),
        "change in /tmp": lambda: Path("/tmp/of-victim").write_text("spoilt"),
        "remove in /tmp": lambda: Path("/tmp/of-victim").unlink(),
        "memory": lambda: Path(f"/proc/{pid}/mem").read_bytes(),
        "maps": lambda: Path(f"/proc/{pid}/maps").read_text(),
        "environment": lambda: Path(f"/proc/{pid}/environ").read_text(),
        "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
        "stop": lambda: os.kill(pid, signal.SIGSTOP),
        "kill": lambda: os.kill(pid, signal.SIGKILL),
        "state": lambda: os.listdir("/state"),
        "results": lambda: os.listdir("/results"),
        "results of the other run": lambda: os.listdir(f"/results/{spec['run']}"),
        "results into the other run": lambda: Path(f"/results/{spec['run']}/forged").write_text("x"),
    }
    commands = " ".join(attempt_text(entry) for entry in Path("/proc").glob("[0-9]*/cmdline"))
    return {"tries": {name: attempt(action) for name, action in tries.items()}, "commands": commands[:6000]}


ATTEMPTS: dict[str, Callable[[Spec], Any]] = {
    function.__name__: function
    for function in (
        read, search, processes, environment, connect, dns, call, write, privileges, leave, look, data, victim, overlap,
    )
}  # fmt: skip
