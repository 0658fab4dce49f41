"""Makes certificates, keys and requests as the files and index entries of the store. Pure but for randomness.

Not for deciding what is due (`assessment`) nor for writing (`store`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import custody, naming, profiles, sharing
from .errors import PlanInvalid, RequestRefused, StoreBroken
from .index import VALID, Entry
from .plan import Leaf
from .store import PRIVATE, PUBLIC, Change

_PEM = serialization.Encoding.PEM
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of a leaf: `action` is issued, renewed or signed; `expires` is UTC."""

    name: str
    action: str
    serial: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A leaf to be signed: with a key that exists, with a public key alone, or with a new key (neither given)."""

    leaf: Leaf
    action: str = "issued"
    key: ec.EllipticCurvePrivateKey | None = None
    public_key: ec.EllipticCurvePublicKey | None = None
    request: bytes | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """The authority while its key is open."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    leaf_days: int

    def sign(self, task: Task, now: datetime) -> tuple[Issued, Change]:
        """One certificate with everything that the store keeps about it. Raises PlanInvalid."""
        leaf = task.leaf
        key, public_key = _keys(task)
        certificate = self._certificate(leaf, public_key, now)
        serial = naming.serial_text(certificate.serial_number)
        pem = certificate.public_bytes(_PEM)
        files = {
            f"certs_by_serial/{serial}.pem": (pem, PUBLIC),
            f"issued/{file_name(leaf.name)}.crt": (pem, PUBLIC),
        }
        if key:
            files[f"private/{leaf.name}.key"] = (custody.encode(key), PRIVATE)
            files[f"reqs/{leaf.name}.req"] = (_request(leaf, key), PUBLIC)
        elif task.request:
            files[f"reqs/{leaf.name}.req"] = (task.request, PUBLIC)
        expires = certificate.not_valid_after_utc
        entry = Entry(VALID, expires, serial, profiles.index_subject(leaf))
        return Issued(leaf.name, task.action, serial, expires), Change((entry,), files)

    def _certificate(self, leaf: Leaf, public_key: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
        end = profiles.end_of(self.leaf_days, now, self.certificate)
        builder = profiles.leaf_builder(leaf, public_key, now - profiles.BACKDATE, end)
        return (
            builder.issuer_name(self.certificate.subject)
            .add_extension(profiles.authority_key_identifier(self.certificate), critical=False)
            .sign(self.key, profiles.HASH)
        )


def _keys(task: Task) -> tuple[ec.EllipticCurvePrivateKey | None, ec.EllipticCurvePublicKey]:
    if task.public_key:
        return None, task.public_key
    key = task.key or profiles.new_key()
    return key, key.public_key()


def _request(leaf: Leaf, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The CSR that `easyrsa renew` asks for; it takes the names from the certificate."""
    builder = x509.CertificateSigningRequestBuilder(profiles.subject_of(leaf))
    return builder.sign(key, hashes.SHA384()).public_bytes(_PEM)


def sign_all(signer: Signer, tasks: Sequence[Task], now: datetime) -> list[tuple[Issued, Change]]:
    """All tasks, in their order."""
    return sharing.spread(lambda task: signer.sign(task, now), tasks)


def gather(changes: Iterable[Change]) -> Change:
    """Several changes as one, so that they are flushed to disk once."""
    entries: list[Entry] = []
    files: dict[str, tuple[bytes, int]] = {}
    moves: list[tuple[str, str]] = []
    for change in changes:
        entries += change.entries
        files |= change.files
        moves += change.moves
    return Change(tuple(entries), files, tuple(moves))


def file_name(name: str) -> str:
    """The name itself, where it can name a file of the store. Raises PlanInvalid."""
    if not _FILE_NAME.fullmatch(name) or name == "ca":
        raise PlanInvalid(f"{name!r} cannot name a certificate; use letters, digits, dots and hyphens, and not `ca`.")
    return name


def load_certificate(content: bytes, path: str) -> x509.Certificate:
    """A certificate in PEM, with or without the text that openssl writes before it. Raises StoreBroken."""
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise StoreBroken(f"{path} is not a certificate in PEM; restore it from a backup.") from error


def load_key(content: bytes, path: str) -> ec.EllipticCurvePrivateKey:
    """A leaf's private key. Raises StoreBroken where it is encrypted, unreadable or not on P-384."""
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise StoreBroken(f"{path} is encrypted or not a key in PEM; move it out of the store.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise StoreBroken(f"{path} is not a key on P-384; move it out of the store and issue the certificate again.")
    return key


def own_files(name: str) -> tuple[str, str]:
    """Where the store keeps a leaf's certificate and private key."""
    return f"issued/{file_name(name)}.crt", f"private/{name}.key"


def public_key_of(certificate: x509.Certificate, name: str) -> ec.EllipticCurvePublicKey:
    """The public key of a leaf signed from a CSR. Raises StoreBroken where it is not on P-384."""
    key = certificate.public_key()
    if not profiles.is_p384(key):
        raise StoreBroken(f"issued/{name}.crt has no key on P-384; revoke it and issue the certificate again.")
    return key


def load_request(content: bytes) -> x509.CertificateSigningRequest:
    """A CSR in PEM or DER. Raises RequestRefused."""
    try:
        pem = content.lstrip().startswith(b"-----")
        return x509.load_pem_x509_csr(content) if pem else x509.load_der_x509_csr(content)
    except ValueError as error:
        raise RequestRefused(
            "the request is not a CSR in PEM or DER; hand in what `openssl req -new` wrote."
        ) from error


def request_fingerprint(content: bytes) -> str:
    """The lower-case SHA-256 of a CSR in DER, as `openssl req -outform DER | sha256sum` prints it."""
    return hashlib.sha256(load_request(content).public_bytes(serialization.Encoding.DER)).hexdigest()


def public_key_of_request(content: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a CSR whose signature proves that its maker holds it. Raises RequestRefused."""
    request = load_request(content)
    key = request.public_key()
    if not profiles.is_p384(key):
        raise RequestRefused("the CSR's key is not on P-384; make it with `openssl ecparam -name secp384r1 -genkey`.")
    if not request.is_signature_valid:
        raise RequestRefused("the CSR's signature does not fit its key; have it made again.")
    return key
