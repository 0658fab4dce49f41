"""Looks for what is wrong in a store: the root, modes of files, index, keys, profiles. Changes nothing.

Not for expiry on its own; `reporting` has the days left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from . import crl, index, issuing, naming, profiles, rootcheck
from .errors import CaError
from .plan import CLIENT, SERVER
from .store import Store

_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence with its remedy. `refused`: the authority must not be used like this."""

    text: str
    refused: bool = True


def findings(store: Store, root: x509.Certificate, now: datetime) -> list[Finding]:
    """Everything found, empty where all is well."""
    return [*_root(root), *_modes(store.pki), *_leaves(store, root), *_crl(store, root, now)]


def _root(root: x509.Certificate) -> Iterator[Finding]:
    for text in rootcheck.strict_findings(root):
        yield Finding(f"ca.crt: strict verification refuses it: {text}; make a new authority in an empty directory.")


def _modes(pki: Path) -> Iterator[Finding]:
    for path in sorted([*(pki / "private").glob("*"), *(pki / "revoked" / "private_by_serial").glob("*")]):
        if path.stat().st_mode & _OTHERS:
            name = path.relative_to(pki)
            yield Finding(f"{name} is open to other users of the host; `chmod go= {path}` closes it.")


def _leaves(store: Store, root: x509.Certificate) -> Iterator[Finding]:
    known = store.index().by_serial()
    for path in sorted((store.pki / "issued").glob("*.crt")):
        try:
            certificate = issuing.load_certificate(path.read_bytes(), f"issued/{path.name}")
            yield from _leaf(store, path.stem, certificate, known, root)
        except CaError as error:
            yield Finding(str(error))


def _leaf(
    store: Store, name: str, certificate: x509.Certificate, known: dict[str, index.Entry], root: x509.Certificate
) -> Iterator[Finding]:
    path = f"issued/{name}.crt"
    entry = known.get(naming.serial_text(certificate.serial_number))
    if entry is None:
        yield Finding(f"{path} is not in index.txt, so it cannot be revoked; restore index.txt from a backup.")
    elif entry.status == index.REVOKED:
        yield Finding(f"{path} is revoked; `flowerbed ca revoke {name}` takes it out of use.")
    if not _signed_by(certificate, root):
        yield Finding(f"{path} was not signed by ca.crt; `flowerbed ca renew {name}` issues it again.")
    reason = _foreign(certificate)
    if reason:
        yield Finding(f"{path} is not of our profiles: {reason}; `flowerbed ca renew {name}` issues it again.", False)
    key = store.read(f"private/{name}.key")
    if key is not None and not _belongs(key, certificate):
        yield Finding(f"private/{name}.key does not belong to {path}; `flowerbed ca renew {name}` makes a new pair.")


def _belongs(key: bytes, certificate: x509.Certificate) -> bool:
    """Whether a private key of any kind is the certificate's; an encrypted one, as easyrsa makes, is taken to be."""
    try:
        return serialization.load_pem_private_key(key, None).public_key() == certificate.public_key()
    except TypeError:
        return True
    except ValueError:
        return False


def _signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _foreign(certificate: x509.Certificate) -> str | None:
    """Why no profile of ours makes such a certificate."""
    if profiles.usages_of(certificate) not in profiles.usages(SERVER, CLIENT):
        return "its extendedKeyUsage is neither serverAuth nor clientAuth alone"
    if not profiles.is_p384(certificate.public_key()):
        return "its key is not on P-384"
    try:
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return f"it lacks an extension ({error})"
    if basic.value.ca or not basic.critical:
        return "its basicConstraints is not a critical CA:FALSE"
    return None if usage == profiles.LEAF_USAGE else "its keyUsage is not digitalSignature alone"


def _crl(store: Store, root: x509.Certificate, now: datetime) -> Iterator[Finding]:
    content = store.read("crl.pem")
    if content is None:
        yield Finding("crl.pem is missing; `flowerbed ca crl` signs it.", False)
        return
    try:
        current = x509.load_pem_x509_crl(content)
    except ValueError:
        yield Finding("crl.pem is not a revocation list; delete it, and `flowerbed ca crl` signs it again.")
        return
    if not current.is_signature_valid(root.public_key()):  # type: ignore[arg-type]  # strict_findings has the others
        yield Finding("crl.pem was not signed by ca.crt's key; delete it, and `flowerbed ca crl` signs it again.")
    if crl.due(current, store.index(), root, now):
        yield Finding("crl.pem is due to be signed again; `flowerbed ca crl` signs it.", False)
