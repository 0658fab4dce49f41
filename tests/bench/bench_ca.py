"""Seconds for certificates and keys of 1, 10 and 100 sites, beside the real easy-rsa and `nvflare provision`.

Whole processes, started in turns. What ours makes is durable on disk at its end; the others leave that to the kernel.
Two kinds of work:

- *one each*: a root, one client certificate with key and request per site, one for the server, one for the operator, a
  revocation list. That is what `nvflare provision` makes, less request and list, and what easy-rsa is asked for, all of
  it (EC P-384, like ours). Ours reads federation.yaml first. easy-rsa comes twice: as it is, and told to leave out what
  ours does not write, a file with certificate and key in one for each leaf and a text before each certificate.
- *all*: everything that a federation of that size needs, three certificates per site, with `flowerbed ca init`.

Not for judging the tools: nvflare makes RSA keys and start-up kits as well, easy-rsa starts openssl for every step.
Run as a script it prints a table; easy-rsa at 100 sites runs three times, because it takes half a minute each time.
"""

from __future__ import annotations

import os
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
Job = tuple[Callable[[Path], None], Callable[[Path], None], int]  # preparation, what is measured, runs
# No verb makes only these leaves; the two lines about gc are those of the verbs' own process, see `__main__` and `cli`.
_ONE_EACH = """
import gc
gc.disable()
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
gc.freeze()
"""

_EC = """
set_var EASYRSA_ALGO ec
set_var EASYRSA_CURVE secp384r1
set_var EASYRSA_DIGEST sha384
"""
_LEAN = f"""{_EC}
set_var EASYRSA_NO_TEXT 1
set_var EASYRSA_DISABLE_INLINE 1
"""


def rows(sites: tuple[int, ...] = SITES, runs: int = RUNS) -> list[Row]:
    """Every comparison, as docs/contracts.md and the benchmark runner want it: `ratio` is ours divided by theirs."""
    return [row for count in sites for row in _rows(count, runs)]


def _rows(count: int, runs: int) -> Iterator[Row]:
    provision, tool = _nvflare(), easyrsa()
    jobs: list[Job] = [
        (lambda work: _write_federation(work, count), _ours_each, runs),
        (lambda work: _write_federation(work, count), _ours_all, runs),
        (lambda work: _write_nvflare(work, count), lambda work: _provision(provision, work), runs),
        (lambda _: None, lambda work: _easyrsa(tool, work, count, _EC), min(runs, 3) if count >= 100 else runs),
        (lambda _: None, lambda work: _easyrsa(tool, work, count, _LEAN), min(runs, 3) if count >= 100 else runs),
    ]
    each, whole, nvflare, easy, lean = _measure(jobs)
    yield _row(f"certificates for {count} sites, one each", each, "nvflare provision", nvflare)
    yield _row(f"certificates for {count} sites, one each", each, "easy-rsa", easy)
    yield _row(f"certificates for {count} sites, one each", each, "easy-rsa without inline files and texts", lean)
    yield _row(f"certificates for {count} sites, all that flowerbed needs", whole, "nvflare provision", nvflare)


def _measure(jobs: list[Job]) -> list[list[float]]:
    """Wall-clock seconds of each job's runs.

    The jobs take turns, so that whatever else the host does meets all of them. Each run has a directory of its own and
    nothing is deleted before the end: ext4 without a journal is ten times slower at making files where others were
    deleted within the last minute.
    """
    _compile()
    seconds: list[list[float]] = [[] for _ in jobs]
    with tempfile.TemporaryDirectory(prefix="flowerbed-bench-ca-") as name:
        for turn in range(max(runs for _, _, runs in jobs)):
            for number, ((prepare, work, runs), found) in enumerate(zip(jobs, seconds, strict=True)):
                if turn < runs:
                    directory = Path(name, f"{turn}-{number}")
                    directory.mkdir()
                    prepare(directory)
                    found.append(_seconds(work, directory))
    return seconds


def _seconds(work: Callable[[Path], None], directory: Path) -> float:
    os.sync()
    start = time.perf_counter()
    work(directory)
    return time.perf_counter() - start


def _compile() -> None:
    """Write our byte code, as pip wrote nvflare's: PYTHONDONTWRITEBYTECODE would have each run compile its modules."""
    run(sys.executable, "-m", "compileall", "-q", ROOT / "ca", ROOT / "networks")


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


def _easyrsa(tool: EasyRsa, work: Path, count: int, settings: str) -> None:
    pki = work / "pki"
    tool(pki, "init-pki")
    (pki / "vars").write_text(settings)
    tool(pki, "build-ca", "nopass")
    tool(pki, "build-server-full", "edge", "nopass")
    for name in ("operator", *(f"site-{number}" for number in range(count))):
        tool(pki, "build-client-full", name, "nopass")
    tool(pki, "gen-crl")
    made = list((pki / "issued").iterdir())
    assert len(made) == count + 2, "easy-rsa did not make every certificate"


def _table(found: list[Row]) -> Iterator[str]:
    for row in found:
        times = f"1/{1 / float(str(row['ratio'])):.0f}"
        spread = f"{row['median']} s ({row['min']} to {row['max']}, {row['runs']} runs)"
        yield f"{row['name']}: {spread}; {row['against']} {row['peer_median']} s; {times}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in _table(rows()))
