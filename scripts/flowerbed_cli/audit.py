"""`flowerbed audit`: exports the audit trail and verifies it, live or in a file. Changes no record; showing is `audit_show`'s.

The last checkpoint that this project has seen is kept in `secrets/kit/audit-checkpoint.json`, so that a table that was cut off
or written anew from its beginning is noticed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flowerbed_topology import Topology

from . import audit_rows, files
from .audit_chain import MAX_LINE, Chain, cut_off, rewritten
from .audit_seal import BEGIN, Checkpoint, opened, seal
from .errors import FlowerbedError, Tampered
from .project import Project

SIGNER = "operator"


def kept(project: Project) -> Path:
    """Return where the last checkpoint that this project has seen is kept."""
    return project.secrets / "kit" / "audit-checkpoint.json"


def verify_table(project: Project, topology: Topology) -> str:
    """Verify the live trail, and that it goes on from the last checkpoint seen; keep a new one. Return what was found.

    Raises:
        Tampered: naming the first record concerned.
        FlowerbedError: the trail, the authority or the operator's key cannot be read.
    """
    authority = certificate(project.pki / "ca.crt")
    before = last_seen(project, authority)
    chain = Chain({before.count: before.head} if before else {})
    with closing(audit_rows.rows(topology.name)) as rows:
        for _ in chain.follow(rows):
            pass
    chain.check_reaches()
    keep(project, sealed(project, chain))
    since = f" They go on from the checkpoint of {before.time.isoformat()}, {before.count:,} records." if before else ""
    return f"The audit trail is whole: {_records(chain.count)}, each bound to the one before.{since}"


def export(project: Project, topology: Topology, path: Path) -> str:
    """Write the trail to a file, verified as it is written and with a new checkpoint at its end. Return what was done.

    Raises:
        Tampered: the trail is not what it was; nothing was written.
        FlowerbedError: the trail, the authority or the operator's key cannot be read, or the file is not to be replaced.
    """
    if path.exists() and not (path.is_file() and _is_export(path)):
        raise FlowerbedError(f"{path} exists and is no export of an audit trail: give another file.")
    if not path.absolute().parent.is_dir():
        raise FlowerbedError(f"{path} cannot be written, as its directory does not exist: make it first.")
    before = last_seen(project, certificate(project.pki / "ca.crt"))
    chain = Chain({before.count: before.head} if before else {})
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file, closing(audit_rows.rows(topology.name)) as rows:
            file.writelines(line + b"\n" for line in chain.follow(rows))
            chain.check_reaches()
            line = sealed(project, chain)
            file.write(line + b"\n")
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    keep(project, line)
    return f"Wrote {_records(chain.count)} and a signed checkpoint to {path}."


def verify_file(path: Path, ca: Path, crl: Path | None, earlier: Path | None) -> str:
    """Verify an export with nothing but the authority's certificate; return what was found.

    `crl` is its revocation list, without which revocation is not looked at. `earlier` is an older export, which this one
    has to go on from.

    Raises:
        Tampered: naming the first record concerned.
        FlowerbedError: a file cannot be read, or is something else.
    """
    authority = certificate(ca)
    revoked = None if crl is None else revocations(crl, authority)
    if not _is_export(path):
        raise FlowerbedError(f"{path} is no export of an audit trail: give a file that flowerbed audit export wrote.")
    before = None if earlier is None else _last_checkpoint(earlier, authority)
    chain = Chain({before.count: before.head} if before else {})
    with closing(_lines(path)) as lines:
        end = _follow_file(chain, lines)
    signed = opened(end, authority, revoked)
    _check_end(chain, signed)
    chain.check_reaches()
    return " ".join(_found(chain, signed, before, looked=revoked is not None))


def last_seen(project: Project, authority: x509.Certificate) -> Checkpoint | None:
    """Return the checkpoint that this project keeps, if there is one.

    Raises:
        Tampered: it was changed.
    """
    path = kept(project)
    if not path.is_file():
        return None
    try:
        return opened(path.read_bytes().removesuffix(b"\n"), authority)
    except Tampered as error:
        raise Tampered(f"{path} is not as it was kept. {error}") from error


def keep(project: Project, line: bytes) -> None:
    """Keep a sealed checkpoint as the last one seen."""
    files.write(kept(project), line + b"\n", 0o600)


def sealed(project: Project, chain: Chain) -> bytes:
    """Return a checkpoint of the chain's end, signed with the operator's key, whose seal is good.

    Raises:
        FlowerbedError: the key or its certificate cannot be read, or the certificate is not valid now.
    """
    if not (issued := project.pki / "issued" / f"{SIGNER}.crt").is_file():
        raise FlowerbedError(f"There is no operator's certificate ({issued}): run flowerbed ca issue {SIGNER}.")
    path = project.pki / "private" / f"{SIGNER}.key"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FlowerbedError(f"{path} cannot be read: run make up as the user who owns it, which issues it.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FlowerbedError(f"{path} is not an elliptic curve key: flowerbed ca issue {SIGNER} makes one.")
    now = datetime.now(UTC).replace(microsecond=0)
    line = seal(Checkpoint(chain.count, chain.head, now), key, certificate(issued))
    # What is kept or given away has to verify ever after: a seal that does not would be taken for tampering.
    authority, crl = certificate(project.pki / "ca.crt"), project.pki / "crl.pem"
    try:
        opened(line, authority, revocations(crl, authority) if crl.is_file() else None)
    except Tampered as error:
        reason = str(error).removesuffix(".")
        text = f"Nothing was signed, as {issued} is no good for it ({reason}): run flowerbed ca renew {SIGNER}."
        raise FlowerbedError(text) from error
    return line


def certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file.

    Raises:
        FlowerbedError: it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FlowerbedError(
            f"{path} cannot be read as a certificate: give the authority's ca.crt, or run make ca."
        ) from error


def revocations(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList:
    """Return the authority's revocation list in a PEM file.

    Raises:
        FlowerbedError: it cannot be read, or is another authority's.
    """
    key = authority.public_key()
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FlowerbedError(f"{path} cannot be read as a revocation list: give the authority's crl.pem.") from error
    if (
        found.issuer != authority.subject
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not found.is_signature_valid(key)
    ):
        raise FlowerbedError(f"{path} is not this authority's revocation list: give its crl.pem.")
    return found


def _lines(path: Path) -> Generator[bytes, None, None]:
    """Yield a file's lines; of one that is too long, or lacks its newline, more or less than a line, so that it is none."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            yield line.removesuffix(b"\n") if line.endswith(b"\n") else line + b"\n"


def _follow_file(chain: Chain, lines: Iterator[bytes]) -> bytes:
    """Follow the records and return the line of the checkpoint, which is the last."""
    end: list[bytes] = []

    def records() -> Iterator[bytes]:
        for line in lines:
            if line.startswith(BEGIN):
                end.append(line)
                return
            yield line

    for _ in chain.follow(records()):
        pass
    if not end:
        raise Tampered(f"The tail was cut off after record {chain.count}: the checkpoint at the end is missing.")
    if next(lines, None) is not None:
        raise Tampered(f"Record {chain.count + 1} was inserted: there are lines after the checkpoint.")
    return end[0]


def _check_end(chain: Chain, signed: Checkpoint) -> None:
    if signed.count > chain.count:
        raise Tampered(cut_off(chain.count, signed.count))
    if signed.count < chain.count:
        raise Tampered(f"Record {signed.count + 1} was inserted: the checkpoint counts {signed.count:,} records.")
    if signed.head != chain.head:
        raise Tampered(rewritten(chain.count))


def _last_checkpoint(path: Path, authority: x509.Certificate) -> Checkpoint:
    """Return the checkpoint of an export that the reader kept, whatever became of its signer since."""
    if not _is_export(path):
        raise FlowerbedError(f"{path} is no export of an audit trail: give a file that flowerbed audit export wrote.")
    with closing(_lines(path)) as lines:
        end = b""
        for line in lines:
            end = line
    return opened(end, authority)


def _is_export(path: Path) -> bool:
    """Whether one of the first three lines looks like one of an export: another may have been changed, or torn in two."""
    try:
        with path.open("rb") as file:
            return any(file.readline(MAX_LINE).startswith((b'{"seq":', BEGIN)) for _ in range(3))
    except OSError as error:
        raise FlowerbedError(f"{path} cannot be read: {error.strerror}.") from error


def _found(chain: Chain, signed: Checkpoint, before: Checkpoint | None, *, looked: bool) -> Iterator[str]:
    yield f"The export is whole: {_records(chain.count)}, each bound to the one before."
    yield f"Its checkpoint was signed under this authority on {signed.time.isoformat()}."
    if before is not None:
        yield f"It goes on from the earlier export of {before.time.isoformat()}, {before.count:,} records."
    if not looked:
        yield "Whether the signer's certificate was revoked was not looked at: give --crl for that."


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"
