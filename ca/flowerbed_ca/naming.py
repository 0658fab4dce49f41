"""Subjects of our certificates, as X.501 names and as OpenSSL's index writes them. Pure.

Not for names found in foreign certificates: the index already holds those as OpenSSL wrote them.
"""

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from .errors import PlanInvalid

_ATTRIBUTES = (
    ("O", NameOID.ORGANIZATION_NAME),
    ("OU", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ("CN", NameOID.COMMON_NAME),
)
_LONGEST = 64  # ub-organization-name and its siblings, RFC 5280 appendix A.1
_TO_ESCAPE = re.compile("[^ -~]|[/+]")  # applied to bytes, each as one character


def name(organisation: str, unit: str, common_name: str) -> x509.Name:
    """The X.501 name O, OU, CN, as UTF8String. Raises PlanInvalid for a part that is empty or too long."""
    parts = (organisation, unit, common_name)
    for (short, _), part in zip(_ATTRIBUTES, parts, strict=True):
        if not 0 < len(part) <= _LONGEST:
            raise PlanInvalid(f"{short} of a certificate is {part!r}; give 1 to {_LONGEST} characters.")
    try:
        return x509.Name([x509.NameAttribute(oid, part) for (_, oid), part in zip(_ATTRIBUTES, parts, strict=True)])
    except ValueError as error:  # a common name is counted in bytes
        raise PlanInvalid(f"CN of a certificate is {common_name!r}; give at most {_LONGEST} bytes of UTF-8.") from error


def oneline(organisation: str, unit: str, common_name: str) -> str:
    r"""The same name as OpenSSL 3 writes it (`X509_NAME_oneline`): bytes outside ASCII as `\xHH`, `\/`, `\+`.

    `openssl ca -revoke` compares this string with the certificate and refuses when they differ.
    """
    pairs = zip(_ATTRIBUTES, (organisation, unit, common_name), strict=True)
    return "".join(f"/{short}={_escape(part)}" for (short, _), part in pairs)


def _escape(value: str) -> str:
    return _TO_ESCAPE.sub(_escaped, value.encode().decode("latin-1"))


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in "/+" else f"\\x{ord(found[0]):02X}"


def serial_text(serial: int) -> str:
    """A serial number as OpenSSL writes it: upper-case hexadecimal with an even number of digits."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"
