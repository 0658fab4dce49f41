"""What others make of our certificates: OpenSSL in a TLS handshake under strict verification, and pkilint."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ca_support import EDGE, GATEWAY, OPERATORS, PLAN, SITE, Clock, authority
from flowerbed_ca.authority import Authority
from flowerbed_ca.plan import Leaf

INNER = Leaf("supernode-charite", "server", "Charité", "supernode", "supernode-charite", ("supernode", "localhost"))
_ALLOWED = "pkix.invalid_domain_name_syntax"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verified") / "pki"
    made = authority(path, plan=(*PLAN, INNER))
    made.revoke("operator", "keyCompromise")
    made.issue(OPERATORS)
    return path


def _context(pki: Path, side: int, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.load_cert_chain(pki / "issued" / f"{name}.crt", pki / "private" / f"{name}.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _handshake(
    pki: Path, *, client: str = "charite", server: str = "edge", host: str = "edge", ca: Path | None = None
) -> None:
    """A mutual TLS handshake in memory. Raises ssl.SSLError from the side that refuses."""
    serving = _context(pki, ssl.PROTOCOL_TLS_SERVER, server)
    serving.load_verify_locations(pki / "crl.pem")
    serving.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    calling = _context(ca or pki, ssl.PROTOCOL_TLS_CLIENT, client)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        calling.wrap_bio(down, up, server_hostname=host),
        serving.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(side.version() == "TLSv1.3" for side in sides)
    assert sides[1].getpeercert() is not None


@pytest.mark.parametrize("host", [*EDGE.dns, *EDGE.ips])
def test_strict_verification_accepts_every_name_of_the_edge(pki: Path, host: str) -> None:
    _handshake(pki, host=host)


@pytest.mark.parametrize("server", [GATEWAY, INNER], ids=lambda leaf: leaf.name)
def test_strict_verification_accepts_inner_servers(pki: Path, server: Leaf) -> None:
    _handshake(pki, server=server.name, host=server.dns[0])


def test_strict_verification_accepts_the_operator(pki: Path) -> None:
    _handshake(pki, client="operator")


def test_a_name_that_is_not_in_the_certificate_is_refused(pki: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(pki, host="admin.flowerbed.localhost")


@pytest.mark.parametrize(("client", "server"), [("edge", "edge"), ("charite", "charite")], ids=["client", "server"])
def test_a_certificate_serves_its_own_purpose_only(pki: Path, client: str, server: str) -> None:
    with pytest.raises(ssl.SSLError, match=r"unsuitable certificate purpose|unsupported certificate"):
        _handshake(pki, client=client, server=server)


def test_a_foreign_authority_is_refused(pki: Path, tmp_path: Path) -> None:
    foreign = authority(tmp_path / "foreign").store.pki
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(pki, ca=foreign)


def test_a_revoked_certificate_is_refused(tmp_path: Path) -> None:
    made = authority(tmp_path / "pki")
    pair = {name: (tmp_path / "pki" / name).read_bytes() for name in ("issued/charite.crt", "private/charite.key")}
    _handshake(tmp_path / "pki")
    made.revoke("charite", "keyCompromise")
    for name, content in pair.items():
        (tmp_path / "pki" / name).write_bytes(content)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        _handshake(tmp_path / "pki")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    clock.forward(-400)
    made = Authority(tmp_path / "pki", now=clock)
    made.ensure_root("Consortium")
    made.ensure_leaves([SITE])
    clock.forward(400)
    made.ensure_leaves([EDGE])
    made.ensure_crl()
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        _handshake(tmp_path / "pki")


def _lint(tool: str, *arguments: str | Path) -> list[tuple[str, str, str]]:
    """pkilint's findings from a notice upwards: code, severity, message."""
    command = [Path(sys.executable).with_name(tool), "lint", "-f", "JSON", "-s", "NOTICE", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.stdout, done.stderr
    return [
        (finding["code"], finding["severity"], finding.get("message") or "")
        for result in json.loads(done.stdout)["results"]
        for finding in result["finding_descriptions"]
    ]


@pytest.mark.parametrize("path", ["ca.crt", *(f"issued/{leaf.name}.crt" for leaf in (*PLAN, INNER))])
def test_pkilint_finds_nothing_but_single_labels(pki: Path, path: str) -> None:
    for code, _, message in _lint("lint_pkix_cert", pki / path):
        assert code == _ALLOWED
        assert "." not in message.partition('"')[2]


def test_pkilint_finds_nothing_in_the_list(pki: Path, tmp_path: Path) -> None:
    assert _lint("lint_crl", "-t", "CRL", "-p", "PKIX", pki / "crl.pem") == []
    empty = authority(tmp_path / "empty").store.pki
    assert _lint("lint_crl", "-t", "CRL", "-p", "PKIX", empty / "crl.pem") == []


def test_pkilint_would_find_a_wrong_certificate(tmp_path: Path) -> None:
    """The linter is really asked: a URI that RFC 3986 does not allow is found."""
    bad = replace(SITE, name="bad", uris=("no scheme",))
    made = authority(tmp_path / "pki", plan=[bad])
    codes = [code for code, _, _ in _lint("lint_pkix_cert", made.store.pki / "issued" / "bad.crt")]
    assert codes
    assert _ALLOWED not in codes
