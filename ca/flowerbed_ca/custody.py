"""How the CA key is opened and stored. It is read only when a signature is due, and never leaves this process.

Not for the keys of leaves: those are made with their certificates and are not encrypted.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .errors import CaKeyAbsent, CaKeyLocked, ForeignRoot, StoreBroken, WrongPassphrase

PASSPHRASE_FILE = "FLOWERBED_CA_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
Ask = Callable[[], bytes]


def ask_passphrase() -> bytes:
    """The passphrase: from a prompt on a terminal, else from the file that FLOWERBED_CA_PASSPHRASE_FILE names.

    Raises CaKeyLocked where there is neither.
    """
    if sys.stdin.isatty():
        return getpass.getpass("Passphrase of the CA key: ").encode()
    return passphrase_from_file()


def ask_new_passphrase() -> bytes:
    """A passphrase for a new CA key: asked twice on a terminal, else from the same file. Raises CaKeyLocked."""
    if not sys.stdin.isatty():
        return passphrase_from_file()
    first = getpass.getpass("New passphrase of the CA key: ")
    if not first or first != getpass.getpass("The same again: "):
        raise WrongPassphrase("the passphrase is empty or was not repeated alike; start again.")
    return first.encode()


def passphrase_from_file() -> bytes:
    """The first line of the file that FLOWERBED_CA_PASSPHRASE_FILE names. Raises CaKeyLocked."""
    name = os.environ.get(PASSPHRASE_FILE)
    if not name:
        raise CaKeyLocked(
            f"the CA key has a passphrase and there is no terminal to ask on; set {PASSPHRASE_FILE} or use a terminal."
        )
    try:
        line = Path(name).read_bytes().partition(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise CaKeyLocked(f"{PASSPHRASE_FILE} is {name}, which cannot be read; give a readable file.") from error
    if not line:
        raise CaKeyLocked(f"{PASSPHRASE_FILE} is {name}, whose first line is empty; write the passphrase there.")
    return line


def encode(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key as PKCS #8 in PEM, encrypted where a passphrase is given."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def open_ca_key(content: bytes | None, ask: Ask) -> ec.EllipticCurvePrivateKey:
    """The CA key; `ask` is called only where it is encrypted.

    Raises CaKeyAbsent, CaKeyLocked, WrongPassphrase, or ForeignRoot for a key that is not elliptic.
    """
    if content is None:
        raise CaKeyAbsent("ca/pki/private/ca.key is not there; put it back for as long as something has to be signed.")
    try:
        key: object = serialization.load_pem_private_key(content, None)
    except TypeError:  # encrypted
        key = _decrypt(content, ask())
    except ValueError as error:
        raise StoreBroken("ca/pki/private/ca.key is not a private key; restore it from a backup.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ForeignRoot("the CA key is not an elliptic curve key; this authority signs with EC keys only.")
    return key


def _decrypt(content: bytes, passphrase: bytes) -> object:
    try:
        return serialization.load_pem_private_key(content, passphrase)
    except ValueError as error:
        raise WrongPassphrase("the passphrase does not open the CA key; try again.") from error
