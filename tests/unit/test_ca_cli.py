"""`flowerbed ca` as an operator uses it: its verbs on a project directory; errors are one sentence, exit code 2."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from typer.testing import CliRunner

from ca_support import snapshot
from flowerbed_ca import profiles
from flowerbed_ca.cli import app
from flowerbed_ca.errors import AlreadyIssued, CaKeyLocked, PlanInvalid, RequestRefused, UnknownCertificate

FEDERATION = """
title: Consortium
organisations:
  - {name: charite, title: Charité, site: {number: 1, data: {directory: /data/1}}}
  - {name: north, title: North, site: {number: 2, data: {directory: /data/2}}}
federations: [{name: all, organisations: [charite, north]}]
"""


def _public_key() -> tuple[bytes, str]:
    key = profiles.new_key().public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ssh = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return ssh, hashlib.sha256(der).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "federation.yaml").write_text(FEDERATION)
    keys = tmp_path / "build" / "supernode-keys"
    keys.mkdir(parents=True)
    (keys / "charite.pub").write_bytes(_public_key()[0])
    return tmp_path


@pytest.fixture
def pki(project: Path) -> Path:
    return project / "ca" / "pki"


def _run(project: Path, *arguments: str, answer: str = "") -> str:
    """The output of a command that succeeds; its error is raised."""
    result = CliRunner().invoke(app, ["--project", str(project), *arguments], input=answer, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def made(project: Path) -> Path:
    _run(project, "init")
    return project


def test_the_project_may_come_from_whoever_mounts_the_commands(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWERBED_PROJECT", str(tmp_path / "elsewhere"))
    assert "all is well" in CliRunner().invoke(app, ["check"], obj=made).output
    monkeypatch.setenv("FLOWERBED_PROJECT", str(made))
    assert "all is well" in CliRunner().invoke(app, ["check"]).output
    assert "all is well" in _run(made, "check")


def test_init_makes_everything_and_then_nothing(project: Path, pki: Path) -> None:
    first = _run(project, "init")
    assert "authority created" in first
    assert "issued charite until" in first
    assert "revocation list: signed, 30 days left" in first
    before = snapshot(pki)
    second = _run(project, "init")
    assert second.count("nothing changed") == 3
    assert snapshot(pki) == before


def test_single_steps_come_to_the_same(project: Path, pki: Path) -> None:
    assert "authority created" in _run(project, "init", "--root-only")
    assert list((pki / "issued").iterdir()) == []
    output = _run(project, "issue")
    assert "issued edge until" in output
    assert "north: no client certificate yet, because" in output
    assert "signed" in _run(project, "crl")
    assert "nothing changed" in _run(project, "crl")
    assert "all is well" in _run(project, "check")


def test_names_are_issued_renewed_and_revoked(made: Path, pki: Path) -> None:
    assert "renewed charite until" in _run(made, "renew", "charite")
    assert _run(made, "revoke", "charite", "--reason", "keyCompromise").count("revoked charite") == 2
    assert "was revoked before" in _run(made, "revoke", "charite")
    assert "nothing changed" in _run(made, "issue")
    assert "issued charite until" in _run(made, "issue", "charite")
    assert (pki / "issued" / "charite.crt").exists()
    with pytest.raises(AlreadyIssued):
        _run(made, "issue", "charite")


def test_list_and_show_say_what_there_is(made: Path) -> None:
    _run(made, "revoke", "charite")
    listing = _run(made, "list")
    assert "root: 3649 days left" in listing
    assert "1 revoked" in listing
    (edge,) = [line for line in listing.splitlines() if line.endswith("CN=edge")]
    assert edge.split()[:4] == ["valid", "396", "days", "edge"]
    shown = _run(made, "show", "edge")
    assert "name:        fleet.flowerbed.localhost" in shown
    assert edge.split()[4] in shown
    assert "CN=flowerbed root" in _run(made, "show", "ca")
    with pytest.raises(UnknownCertificate, match="nobody"):
        _run(made, "show", "nobody")


def test_check_ends_with_2_where_something_is_refused(made: Path, pki: Path) -> None:
    (pki / "private" / "edge.key").chmod(0o644)
    result = CliRunner().invoke(app, ["--project", str(made), "check"])
    assert result.exit_code == 2
    assert "refused: private/edge.key is open to other users" in result.output


class _Custodian:
    """A custodian's CSR and SuperNode key as files, with the fingerprints that are read out over the telephone."""

    def __init__(self, directory: Path) -> None:
        self.key = profiles.new_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anything")])
        request = x509.CertificateSigningRequestBuilder(subject).sign(self.key, hashes.SHA384())
        self.csr, self.supernode = directory / "north.csr", directory / "north.pub"
        self.csr.write_bytes(request.public_bytes(serialization.Encoding.PEM))
        self.csr_sha256 = hashlib.sha256(request.public_bytes(serialization.Encoding.DER)).hexdigest()
        content, self.supernode_sha256 = _public_key()
        self.supernode.write_bytes(content)
        self.arguments = ("sign", "north", "--request", str(self.csr), "--supernode-key", str(self.supernode))
        self.fingerprints = ("--request-sha256", self.csr_sha256, "--supernode-sha256", self.supernode_sha256)


@pytest.fixture
def custodian(tmp_path: Path) -> _Custodian:
    return _Custodian(tmp_path)


def test_sign_shows_both_fingerprints_and_asks(made: Path, pki: Path, custodian: _Custodian) -> None:
    output = _run(made, *custodian.arguments, answer="y\n")
    assert f"CSR: SHA-256 {custodian.csr_sha256}" in output
    assert f"SuperNode key: SHA-256 {custodian.supernode_sha256}" in output
    certificate = x509.load_pem_x509_certificate((pki / "issued" / "north.crt").read_bytes())
    assert certificate.public_key() == custodian.key.public_key()
    uri = f"https://flowerbed.localhost/supernode/{custodian.supernode_sha256}"
    assert profiles.names_of(certificate) == {x509.UniformResourceIdentifier(uri)}
    assert certificate.subject.rfc4514_string() == "CN=north,OU=site,O=North"


def test_sign_asks_nothing_about_a_request_that_it_could_not_sign(made: Path, pki: Path, tmp_path: Path) -> None:
    request, before = tmp_path / "rsa.csr", snapshot(pki)
    command = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=north", "-out", str(request)]
    subprocess.run([*command, "-keyout", str(tmp_path / "rsa.key")], check=True, capture_output=True)
    result = CliRunner().invoke(app, ["--project", str(made), "sign", "north", "--request", str(request)])
    assert isinstance(result.exception, RequestRefused)
    assert "not on P-384" in str(result.exception)
    assert "?" not in result.output
    assert snapshot(pki) == before


def test_the_end_of_the_input_is_no_consent(made: Path, pki: Path, custodian: _Custodian) -> None:
    before = snapshot(pki)
    with pytest.raises(RequestRefused, match="not confirmed"):
        _run(made, *custodian.arguments, answer="")
    assert snapshot(pki) == before


def test_sign_signs_nothing_that_was_not_confirmed(made: Path, pki: Path, custodian: _Custodian) -> None:
    before = snapshot(pki)
    with pytest.raises(RequestRefused, match="not confirmed"):
        _run(made, *custodian.arguments, answer="n\n")
    with pytest.raises(RequestRefused, match="--yes needs --request-sha256"):
        _run(made, *custodian.arguments, "--yes")
    with pytest.raises(RequestRefused, match="the supernode's SHA-256 is"):
        _run(made, *custodian.arguments, *custodian.fingerprints[:3], "ff" * 32, "--yes")
    with pytest.raises(RequestRefused, match="cannot be read"):
        _run(made, "sign", "north", "--request", str(made / "none"))
    assert snapshot(pki) == before


def test_scripts_give_both_fingerprints(made: Path, custodian: _Custodian) -> None:
    output = _run(made, *custodian.arguments, *custodian.fingerprints, "--yes")
    assert "signed north until" in output


def test_a_site_is_signed_only_with_its_supernode_key(made: Path, custodian: _Custodian) -> None:
    with pytest.raises(PlanInvalid, match=r"north: its SuperNode's public key is not there"):
        _run(made, "sign", "north", "--request", str(custodian.csr))
    with pytest.raises(UnknownCertificate, match="'south' is not in the plan"):
        _run(made, "sign", "south", "--request", str(custodian.csr))


def test_a_passphrase_comes_from_its_file(project: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "passphrase").write_text("correct horse\n")
    monkeypatch.setenv("FLOWERBED_CA_PASSPHRASE_FILE", str(project / "passphrase"))
    _run(project, "init", "--passphrase")
    assert b"ENCRYPTED" in (pki / "private" / "ca.key").read_bytes()
    monkeypatch.delenv("FLOWERBED_CA_PASSPHRASE_FILE")
    assert "nothing changed" in _run(project, "issue")
    with pytest.raises(CaKeyLocked):
        _run(project, "renew", "edge")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["renew", "nobody"], "'nobody' is not in the plan"),
        (["revoke", "edge", "--reason", "bored"], "reason is 'bored'; give one of"),
        (["--project", "/nowhere", "issue"], "/nowhere/federation.yaml"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(made: Path, arguments: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "flowerbed_ca", *arguments]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
