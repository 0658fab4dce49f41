"""Seconds for certificates and keys of 1, 10 and 100 sites, beside the real easy-rsa and `nvflare provision`.

Whole processes, started in turns on empty directories, durable on disk at their end. Two kinds of work:

- *one each*: one client certificate per site, one for the server, one for the operator. That is what
  `nvflare provision` makes, and what easy-rsa is asked for (EC P-384, like ours). Ours reads federation.yaml first.
- *all*: everything that a federation of that size needs, three certificates per site, with `flowerbed ca init`.

Not for judging the tools: nvflare makes RSA keys and start-up kits as well, easy-rsa starts openssl for every step.
Run as a script it prints a table; easy-rsa at 100 sites runs once, because it takes most of a minute.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from cryptography.hazmat.primitives import serialization  # noqa: E402

from ca_support import EasyRsa, easyrsa, run  # noqa: E402 - the script is also run by itself
from flowerbed_ca import profiles  # noqa: E402

NVFLARE = "2.9.0"
SITES = (1, 10, 100)
RUNS = 5
Row = dict[str, object]
_ONE_EACH = """
import sys
from pathlib import Path
from flowerbed_ca.plan import SERVER
from flowerbed_ca.project import Project

project = Project(Path(sys.argv[1]))
authority = project.authority()
authority.ensure_root(project.topology.title)
plan = [leaf for leaf in project.plan() if leaf.profile != SERVER or leaf.name == "edge"]
assert len(authority.ensure_leaves(plan)) == len(project.topology.organisations) + 2
authority.ensure_crl()
"""


def rows(sites: tuple[int, ...] = SITES, runs: int = RUNS) -> list[Row]:
    """Every comparison, as docs/contracts.md and the benchmark runner want it: `ratio` is ours divided by theirs."""
    return [row for count in sites for row in _rows(count, runs)]


def _rows(count: int, runs: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="flowerbed-bench-ca-") as name:
        work = Path(name)
        _write_federation(work / "project", count)
        _write_nvflare(work / "nvflare", count)
        provision, tool = _nvflare(), easyrsa()
        jobs: list[tuple[Callable[[], None], Path, int]] = [
            (lambda: _ours_each(work / "project"), work / "project" / "ca", runs),
            (lambda: _ours_all(work / "project"), work / "project" / "ca", runs),
            (lambda: _provision(provision, work / "nvflare"), work / "nvflare" / "workspace", runs),
            (lambda: _easyrsa(tool, work, count), work / "pki", 1 if count >= 100 else runs),
        ]
        each, whole, nvflare, easy = _measure(jobs)
        yield _row(f"certificates for {count} sites, one each", each, "nvflare provision", nvflare)
        yield _row(f"certificates for {count} sites, one each", each, "easy-rsa", easy)
        yield _row(f"certificates for {count} sites, all that flowerbed needs", whole, "nvflare provision", nvflare)


def _measure(jobs: list[tuple[Callable[[], None], Path, int]]) -> list[list[float]]:
    """Wall-clock seconds of each job's runs, what it makes deleted before each.

    The jobs take turns, so that whatever else the host does meets all of them.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    for turn in range(max(runs for _, _, runs in jobs)):
        for (work, made, runs), found in zip(jobs, seconds, strict=True):
            if turn < runs:
                shutil.rmtree(made, ignore_errors=True)
                os.sync()
                start = time.perf_counter()
                work()
                found.append(time.perf_counter() - start)
    return seconds


def _row(name: str, ours: list[float], against: str, theirs: list[float]) -> Row:
    median, peer = statistics.median(ours), statistics.median(theirs)
    spread = {"min": round(min(ours), 4), "max": round(max(ours), 4), "runs": len(ours)}
    comparison = {"against": against, "peer_median": round(peer, 4), "ratio": round(median / peer, 5)}
    return {"name": name, "unit": "s", "median": round(median, 4), **spread, **comparison}


def _write_federation(directory: Path, count: int) -> None:
    names = [f"klinik{number}" for number in range(1, count + 1)]
    sample = {"sample": "breast-cancer", "of": count}
    organisations = [
        {"name": name, "title": f"Klinik {number}", "site": {"number": number, "data": {**sample, "part": number}}}
        for number, name in enumerate(names, 1)
    ]
    keys = directory / "build" / "supernode-keys"
    keys.mkdir(parents=True)
    document = {"organisations": organisations, "federations": [{"name": "all", "organisations": names}]}
    (directory / "federation.yaml").write_text(yaml.safe_dump(document))
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    for name in names:
        (keys / f"{name}.pub").write_bytes(profiles.new_key().public_key().public_bytes(*form))


def _ours_each(project: Path) -> None:
    run(sys.executable, "-c", _ONE_EACH, project)


def _ours_all(project: Path) -> None:
    run(sys.executable, "-m", "flowerbed_ca", "--project", project, "init")


def _nvflare() -> Path:
    """NVFLARE's command, from PyPI in an environment of its own."""
    directory = ROOT / ".cache" / f"nvflare-{NVFLARE}"
    command = directory / "bin" / "nvflare"
    if not command.exists():
        run(sys.executable, "-m", "venv", "--clear", directory)
        run(directory / "bin" / "pip", "install", "--quiet", f"nvflare=={NVFLARE}")
    return command


def _write_nvflare(directory: Path, count: int) -> None:
    directory.mkdir()
    lighter = "nvflare.lighter.impl"
    project = {
        "api_version": 3,
        "name": "bench",
        "description": "the same number of sites",
        "participants": [
            {"name": "server1", "type": "server", "org": "consortium", "fed_learn_port": 8002, "admin_port": 8003},
            *({"name": f"site-{number}", "type": "client", "org": f"klinik{number}"} for number in range(count)),
            {"name": "operator@flowerbed.test", "type": "admin", "org": "consortium", "role": "project_admin"},
        ],
        "builders": [
            {"path": f"{lighter}.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
            {"path": f"{lighter}.static_file.StaticFileBuilder", "args": {"config_folder": "config", "scheme": "http"}},
            {"path": f"{lighter}.cert.CertBuilder"},
            {"path": f"{lighter}.signature.SignatureBuilder"},
        ],
    }
    (directory / "project.yml").write_text(yaml.safe_dump(project))


def _provision(command: Path, directory: Path) -> None:
    run(command, "provision", "-p", "project.yml", "-w", "workspace", cwd=directory)
    made = list((directory / "workspace").rglob("client.crt"))
    assert made, "nvflare provision made no certificates"


def _easyrsa(tool: EasyRsa, work: Path, count: int) -> None:
    pki = work / "pki"
    tool(pki, "init-pki")
    settings = ("--use-algo=ec", "--curve=secp384r1", "--digest=sha384")
    tool(pki, *settings, "build-ca", "nopass")
    tool(pki, *settings, "build-server-full", "edge", "nopass")
    for name in ("operator", *(f"site-{number}" for number in range(count))):
        tool(pki, *settings, "build-client-full", name, "nopass")
    tool(pki, *settings, "gen-crl")


def _table(found: list[Row]) -> Iterator[str]:
    for row in found:
        times = f"1/{1 / float(str(row['ratio'])):.0f}"
        spread = f"{row['median']} s ({row['min']} to {row['max']}, {row['runs']} runs)"
        yield f"{row['name']}: {spread}; {row['against']} {row['peer_median']} s; {times}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in _table(rows()))
