"""Whether a root certificate is ours, as asked for, and one that strict verification accepts. Pure.

The rules are those of OpenSSL's X509_V_FLAG_X509_STRICT for a trust anchor, which Python 3.13 sets by default.
"""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from . import naming, profiles
from .errors import Drift, ForeignRoot

_REMEDY = "make a new authority in an empty directory with `flowerbed ca init`"


def is_ours(root: x509.Certificate) -> bool:
    """Whether `flowerbed ca init` made this root."""
    names = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return [name.value for name in names] == [profiles.ROOT_NAME]


def refuse_drift(root: x509.Certificate, organisation: str, days: int) -> None:
    """Raise Drift where a root of ours was made for another organisation or lifetime."""
    if not is_ours(root):
        return
    planned = naming.name(organisation, profiles.ROOT_UNIT, profiles.ROOT_NAME)
    if root.subject != planned:
        found, asked = root.subject.rfc4514_string(), planned.rfc4514_string()
        raise Drift(f"ca.crt: its subject is {found}, federation.yaml asks for {asked}; {_undo('title')}.")
    valid = (root.not_valid_after_utc - root.not_valid_before_utc) / timedelta(days=1)
    if round(valid) != days:
        raise Drift(f"ca.crt: it is valid for {valid:.0f} days, planned are {days}; {_undo('ca.root_years')}.")


def _undo(key: str) -> str:
    return f"set {key} back, or {_REMEDY}"


def refuse_foreign(root: x509.Certificate) -> None:
    """Raise ForeignRoot, naming every rule of strict verification that the root breaks."""
    broken = strict_findings(root)
    if broken:
        raise ForeignRoot(f"ca.crt is refused by strict verification: {'; '.join(broken)}; {_REMEDY}.")


def strict_findings(root: x509.Certificate) -> list[str]:
    """What strict verification refuses about a root, empty where nothing."""
    found = [*_basic_constraints(root), *_key_usage(root), *_identifiers(root)]
    if root.issuer != root.subject:
        found.append("it is not self-signed")
    if root.version is not x509.Version.v3:
        found.append("it is not an X.509 v3 certificate")
    if not isinstance(root.public_key(), ec.EllipticCurvePublicKey):
        found.append("its key is not an elliptic curve key")
    return found


def _basic_constraints(root: x509.Certificate) -> list[str]:
    try:
        extension = root.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return ["it has no basicConstraints"]
    found = [] if extension.critical else ["its basicConstraints is not critical"]
    return found if extension.value.ca else [*found, "it is not a CA certificate"]


def _key_usage(root: x509.Certificate) -> list[str]:
    try:
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return ["it has no keyUsage"]
    wanted = {"keyCertSign": usage.key_cert_sign, "cRLSign": usage.crl_sign}
    return [f"its keyUsage lacks {name}" for name, has in wanted.items() if not has]


def _identifiers(root: x509.Certificate) -> list[str]:
    try:
        root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return ["it has no subjectKeyIdentifier"]
    return []
