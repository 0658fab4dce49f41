"""What the operator's certificate cannot seal so that it verifies is neither kept nor given away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_support import Operator, chained
from flowerbed_cli import audit, audit_rows
from flowerbed_cli.errors import FlowerbedError, Tampered
from flowerbed_cli.project import KIT, Project
from flowerbed_topology import load
from superlink_support import DAY, NOW, new_key, pem

TOPOLOGY = load(KIT / "federation.yaml")
RECORDS = ['{"who":"researcher-north"}', '{"who":"auditor-south"}']


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """PostgreSQL is played by a list; the real one is in tests/integration."""

    def rows(_: str) -> Iterator[bytes]:
        yield from chained(RECORDS)[0]

    monkeypatch.setattr(audit_rows, "rows", rows)
    return Operator(tmp_path)


def expired(operator: Operator) -> None:
    certificate = operator.issue(operator.key, start=NOW - 30 * DAY, end=NOW - DAY)
    (operator.pki / "issued" / "operator.crt").write_bytes(pem(certificate))


def revoked(operator: Operator) -> None:
    operator.crl.write_bytes(operator.authority.crl([operator.certificate.serial_number]))


def of_another_key(operator: Operator) -> None:
    (operator.pki / "issued" / "operator.crt").write_bytes(pem(operator.issue(new_key())))


@pytest.mark.parametrize(
    ("spoil", "reason"), [(expired, "was not valid"), (revoked, "is revoked"), (of_another_key, "was changed")]
)
def test_a_certificate_that_is_no_good_signs_nothing(
    spoil: Callable[[Operator], None], reason: str, operator: Operator, tmp_path: Path
) -> None:
    project, path = Project(operator.root), tmp_path / "export.jsonl"
    audit.verify_table(project, TOPOLOGY)
    audit.export(project, TOPOLOGY, path)
    before = (path.read_bytes(), audit.kept(project).read_bytes())
    good = (operator.pki / "issued" / "operator.crt").read_bytes(), operator.crl.read_bytes()
    spoil(operator)
    for work in (lambda: audit.verify_table(project, TOPOLOGY), lambda: audit.export(project, TOPOLOGY, path)):
        with pytest.raises(FlowerbedError) as caught:
            work()
        assert not isinstance(caught.value, Tampered)
        assert reason in str(caught.value)
        assert str(caught.value).endswith(": run flowerbed ca renew operator.")
        assert len(str(caught.value).splitlines()) == 1
    assert (path.read_bytes(), audit.kept(project).read_bytes()) == before
    assert sorted(item.name for item in tmp_path.glob(".export*")) == []
    (operator.pki / "issued" / "operator.crt").write_bytes(good[0])
    operator.crl.write_bytes(good[1])
    assert "They go on from the checkpoint" in audit.verify_table(project, TOPOLOGY)


def test_without_a_certificate_the_remedy_is_to_issue_one(operator: Operator) -> None:
    (operator.pki / "issued" / "operator.crt").unlink()
    with pytest.raises(
        FlowerbedError, match=r"^There is no operator's certificate .*: run flowerbed ca issue operator\.$"
    ):
        audit.verify_table(Project(operator.root), TOPOLOGY)
