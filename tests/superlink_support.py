"""What the SuperLink's tests share: a certificate authority, sites, files, and the edge's headers.

Not a stand-in for the edge: `edge_headers` only says what NGINX would. Everything is made in a directory of the test's
own and removed with it.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "flowerbed.test"
EDGE_TOKEN = "t" * 43
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def escaped(pem: bytes) -> str:
    """Percent-encode as NGINX's `$ssl_client_escaped_cert` does: everything but unreserved characters."""
    return "".join(chr(b) if chr(b).isalnum() or chr(b) in "-._~" else f"%{b:02X}" for b in pem)


class Authority:
    """A root that signs what the tests need, good and bad."""

    def __init__(self, name: str = "Test root") -> None:
        self.key = new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.name, self.key.public_key(), NOW - DAY, NOW + 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
        skid = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.certificate = builder.add_extension(skid, critical=False).sign(self.key, hashes.SHA384())

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        start: datetime.datetime,
        end: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def issue(
        self,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        subject: x509.Name | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime = NOW + 30 * DAY,
    ) -> x509.Certificate:
        subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        builder = self._builder(subject, key.public_key(), start, end)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(aki, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA384())

    def crl(self, serials: list[int], end: datetime.datetime = NOW + 30 * DAY) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(min(NOW, end) - DAY)
            .next_update(end)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def binding(key: ec.EllipticCurvePrivateKey, domain: str = DOMAIN) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(f"https://{domain}/supernode/{fingerprint(key)}")


@dataclass(frozen=True)
class TestSite:
    """One organisation's site: its name, its SuperNode key and its client certificate."""

    __test__ = False
    name: str
    organisation: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def headers(self) -> dict[str, str]:
        return edge_headers(self.certificate, self.key)


def subject(organisation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "site"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def new_site(authority: Authority, name: str, organisation: str) -> TestSite:
    key = new_key()
    certificate = authority.issue(
        new_key(),
        [binding(key)],
        subject=subject(organisation, name),
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    return TestSite(name, organisation, key, certificate)


def edge_headers(
    certificate: x509.Certificate | None = None, key: ec.EllipticCurvePrivateKey | None = None
) -> dict[str, str]:
    """Return what the edge sets, and the SuperNode's own key header."""
    headers = {"X-Flowerbed-Edge": EDGE_TOKEN, "X-Flowerbed-Client-Cert": ""}
    if certificate is not None:
        headers["X-Flowerbed-Client-Cert"] = escaped(pem(certificate))
    if key is not None:
        headers["flwr-public-key"] = base64.b64encode(public_pem(key)).decode()
    return headers


def replace(path: Path, data: bytes) -> None:
    """Replace a file by rename, as the kit's tools do."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.rename(path)


def write_material(root: Path, authority: Authority, sites: list[TestSite]) -> tuple[Path, Path]:
    """Write `/secrets` and `/config` as the SuperLink finds them; return both."""
    secrets, config = root / "secrets", root / "config"
    secrets.mkdir(parents=True)
    config.mkdir()
    (secrets / "ca.crt").write_bytes(pem(authority.certificate))
    (secrets / "crl.pem").write_bytes(authority.crl([]))
    (secrets / "edge.token").write_text(EDGE_TOKEN + "\n")
    (config / "federation.json").write_text(json.dumps(federation(sites)))
    return secrets, config


def federation(sites: list[TestSite]) -> dict[str, object]:
    return {
        "domain": DOMAIN,
        "consortium": "testers",
        "sites": {s.name: {"organisation": s.organisation, "supernode": fingerprint(s.key)} for s in sites},
        "federations": {"main": [s.name for s in sites]},
    }


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def terminated(process: subprocess.Popen[bytes], patience_s: float = 20) -> Iterator[subprocess.Popen[bytes]]:
    """Send SIGTERM at the end, and SIGKILL to what does not heed it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"{what} has not happened within {timeout_s} s")
