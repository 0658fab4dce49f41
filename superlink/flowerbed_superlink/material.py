"""What the gate decides by: token, CRL, authority and topology, each re-read when it changes; not the decisions' form.

The authority's certificate is read once: a new root means a new federation.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from flowerbed_superlink.errors import MaterialError
from flowerbed_superlink.identity import (
    ClientCertificate,
    Federation,
    key_fingerprint,
    parse_client_certificate,
    parse_crl,
    parse_federation,
)
from flowerbed_superlink.watched import WatchedFile

EDGE_HEADER = b"x-flowerbed-edge"
CERTIFICATE_HEADER = b"x-flowerbed-client-cert"
PUBLIC_KEY_HEADER = b"flwr-public-key"
MIN_TOKEN_LENGTH = 16

# Everything that parsing hostile X.509 and key bytes raises in `cryptography` (seen with Hypothesis).
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class Problem:
    """Why a site is refused: `detail` for the client, `why` and `fields` for the log."""

    detail: str
    why: str
    fields: dict[str, object] = field(default_factory=dict)


class Material:
    """The files of `/secrets` and `/config`, as the gate asks for them."""

    def __init__(self, secrets: Path, config: Path) -> None:
        self._authority = x509.load_pem_x509_certificate((secrets / "ca.crt").read_bytes())
        self._crl = WatchedFile(secrets / "crl.pem", lambda data: parse_crl(data, self._authority))
        self._federation: WatchedFile[Federation] = WatchedFile(config / "federation.json", parse_federation)
        self._token = WatchedFile(secrets / "edge.token", _parse_token)

    def from_edge(self, tokens: Sequence[bytes]) -> bool:
        """Whether these values of EDGE_HEADER are the one token that the edge shares with us.

        Raises:
            MaterialError: the file is missing or too short to be a secret.
        """
        return len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token.get())

    def site_problem(self, escaped_certificate: str, public_key: str) -> Problem | None:
        """Return why this certificate with this SuperNode key is refused, or None.

        Raises:
            MaterialError: CRL or topology cannot be used; nobody can be told apart from the revoked.
        """
        crl, federation, now = self._crl.get(), self._federation.get(), datetime.now(UTC)
        if crl.next_update <= now:
            raise MaterialError(f"the CRL ended on {crl.next_update.isoformat()}: sign a new one with `make up`")
        try:
            certificate = parse_client_certificate(escaped_certificate, self._authority)
            key = key_fingerprint(public_key)
        except _MALFORMED as error:
            fault = " ".join(str(error).split()) or type(error).__name__
            return Problem("The client certificate or SuperNode key is not valid.", fault)
        if certificate.serial in crl.serials:
            return _problem(certificate, "The client certificate is revoked.", "revoked", key)
        if not certificate.not_before <= now <= certificate.not_after:
            return _problem(certificate, "The client certificate is outside its validity.", "outside validity", key)
        if (why := _mismatch(certificate, federation, key)) is not None:
            return _problem(certificate, "The client certificate does not belong to this SuperNode.", why, key)
        return None

    def site_names(self, escaped_certificate: str) -> tuple[str, str] | None:
        """Return site and organisation of a certificate of our authority, revoked or not, or None."""
        try:
            certificate = parse_client_certificate(escaped_certificate, self._authority)
        except _MALFORMED:
            return None
        return certificate.site, certificate.organisation

    def supernode(self, public_key: str) -> str | None:
        """Return the fingerprint of a SuperNode key as it is sent, or None if it is no key."""
        try:
            return key_fingerprint(public_key)
        except _MALFORMED:
            return None


def _mismatch(certificate: ClientCertificate, federation: Federation, key: str) -> str | None:
    site = federation.sites.get(certificate.site)
    if certificate.key != key:
        return "certificate bound to another SuperNode key"
    if certificate.domain != federation.domain:
        return "certificate of another domain"
    if site is None:
        return "site not in this federation"
    if site.organisation != certificate.organisation:
        return "certificate of another organisation"
    if site.supernode != key:
        return "SuperNode key not the site's"
    return None


def _problem(certificate: ClientCertificate, detail: str, why: str, key: str) -> Problem:
    fields: dict[str, object] = {
        "site": certificate.site,
        "organisation": certificate.organisation,
        "serial": f"{certificate.serial:X}",
        "supernode": key,
    }
    return Problem(detail, why, fields)


def _parse_token(data: bytes) -> bytes:
    token = data.strip()
    if len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(f"holds fewer than {MIN_TOKEN_LENGTH} characters")
    return token
