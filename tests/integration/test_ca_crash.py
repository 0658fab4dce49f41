"""Whatever kills the authority, and however many of it run at once, the store stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca_support import PLAN, ROOT, SITE, Clock, authority
from flowerbed_ca import naming
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import PlanInvalid
from flowerbed_ca.index import VALID
from flowerbed_ca.plan import Leaf
from flowerbed_ca.store import Store

SUPPORT = ROOT / "tests"


def _python(*arguments: str | Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _end(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def _killed_at_every_step(scenario: str, template: Path, work: Path) -> list[Path]:
    work.mkdir()
    _end(_python(SUPPORT / "ca_crash.py", scenario, template, work))
    return sorted(work.iterdir())


def _assert_readable(pki: Path) -> None:
    """What another program sees before anything was recovered: whole files, and no certificate the index lacks."""
    known = Store(pki).index().by_serial()
    for path in (pki / "issued").glob("*.crt"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert naming.serial_text(certificate.serial_number) in known
    for path in (pki / "private").glob("*.key"):
        serialization.load_pem_private_key(path.read_bytes(), None)
        assert path.stat().st_mode & 0o077 == 0
    if (pki / "ca.crt").exists():
        x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
        assert (pki / "private" / "ca.key").exists()
    if (pki / "crl.pem").exists():
        x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())


def _assert_whole(ca: Authority, pki: Path) -> None:
    assert ca.check() == []
    assert not (pki / ".staging").exists()
    for path in (pki / "issued").glob("*.crt"):
        key = serialization.load_pem_private_key((pki / "private" / f"{path.stem}.key").read_bytes(), None)
        assert key.public_key() == x509.load_pem_x509_certificate(path.read_bytes()).public_key()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return authority(tmp_path / "full").store.pki


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    made = Authority(tmp_path / "empty")
    made.ensure_root("Consortium")
    return made.store.pki


def test_init_killed_at_every_step(tmp_path: Path) -> None:
    stores = _killed_at_every_step("init", tmp_path / "none", tmp_path / "work")
    assert len(stores) > 30
    for pki in stores:
        _assert_readable(pki)
        ca = authority(pki)
        _assert_whole(ca, pki)
        assert (pki / "private" / "ca.key").stat().st_mode & 0o777 == 0o400


def test_issuing_killed_at_every_step(tmp_path: Path, empty: Path) -> None:
    stores = _killed_at_every_step("issue", empty, tmp_path / "work")
    assert len(stores) > 4 * len(PLAN)
    outcomes = set()
    for pki in stores:
        _assert_readable(pki)
        ca = Authority(pki)
        outcomes.add(len(ca.ensure_leaves(PLAN)))
        ca.ensure_crl()
        _assert_whole(ca, pki)
        assert len(Store(pki).index().entries) == len(PLAN)
    assert outcomes == {0, len(PLAN)}  # the whole batch or nothing


def test_renewal_killed_at_every_step(tmp_path: Path, full: Path) -> None:
    stores = _killed_at_every_step("renew", full, tmp_path / "work")
    counts = set()
    for pki in stores:
        _assert_readable(pki)
        ca = Authority(pki)
        assert ca.ensure_leaves(PLAN) == []
        _assert_whole(ca, pki)
        counts.add(len(Store(pki).index().entries))
    assert counts == {len(PLAN), len(PLAN) + 1}


def test_revocation_killed_at_every_step(tmp_path: Path, full: Path) -> None:
    stores = _killed_at_every_step("revoke", full, tmp_path / "work")
    outcomes = set()
    for pki in stores:
        _assert_readable(pki)
        ca = Authority(pki)
        assert ca.ensure_leaves(PLAN) == []
        ca.ensure_crl()
        _assert_whole(ca, pki)
        listed = len(x509.load_pem_x509_crl((pki / "crl.pem").read_bytes()))
        in_use = (pki / "issued" / "charite.crt").exists()
        assert listed == (0 if in_use else 1)
        outcomes.add(listed)
    assert outcomes == {0, 1}


def test_reissue_after_revocation_killed_at_every_step(tmp_path: Path, full: Path) -> None:
    Authority(full).revoke("charite", "keyCompromise")
    for pki in _killed_at_every_step("issue-again", full, tmp_path / "work"):
        _assert_readable(pki)
        ca = Authority(pki)
        with ca.store.locked():
            pass
        if not (pki / "issued" / "charite.crt").exists():
            ca.issue(SITE)
        _assert_whole(ca, pki)
        assert len(Store(pki).index().entries) == len(PLAN) + 1


_ISSUE = """
import sys
from pathlib import Path
from ca_support import PLAN
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import PlanInvalid
ca = Authority(Path(sys.argv[1]))
ca.ensure_root("Consortium")
order = int(sys.argv[2])
print(len(ca.ensure_leaves(PLAN[order:] + PLAN[:order])), ca.ensure_crl())
"""


def test_four_at_once_issue_every_leaf_once(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    processes = [_python("-c", _ISSUE, pki, str(number)) for number in range(4)]
    lines = [_end(process).split() for process in processes]
    assert sum(int(issued) for issued, _ in lines) == len(PLAN)
    assert [signed for _, signed in lines].count("True") == 1
    _assert_whole(Authority(pki), pki)


_RENEW = """
import sys
from pathlib import Path
from ca_support import PLAN
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import PlanInvalid
leaf = PLAN[int(sys.argv[2])]
for _ in range(5):
    Authority(Path(sys.argv[1])).renew(leaf)
"""


def test_renewing_at_once_loses_no_entry_of_the_index(full: Path) -> None:
    for process in [_python("-c", _RENEW, full, str(number)) for number in range(len(PLAN))]:
        _end(process)
    entries = Store(full).index().entries
    assert len(entries) == 6 * len(PLAN)
    assert {entry.status for entry in entries} == {VALID}
    assert {path.stem for path in (full / "certs_by_serial").iterdir()} == {entry.serial for entry in entries}
    _assert_whole(Authority(full), full)


def test_a_large_batch_is_the_same_on_several_cores(tmp_path: Path) -> None:
    made = authority(tmp_path / "pki", Clock(), _many(220))
    _assert_whole(made, tmp_path / "pki")
    assert len(made.status().leaves) == 220


def _many(count: int) -> list[Leaf]:
    return [replace(SITE, name=f"site-{number}", common_name=f"site-{number}") for number in range(count)]


def test_a_large_batch_with_a_wrong_leaf_is_refused_whole(tmp_path: Path) -> None:
    made = Authority(tmp_path / "pki")
    made.ensure_root("Consortium")
    with pytest.raises(PlanInvalid, match="bad: a name of its certificate"):
        made.ensure_leaves([*_many(220), replace(SITE, name="bad", dns=("bücher.example",))])
    assert made.status().leaves == ()
