"""The certificate authority of one project: ensures root, leaves and revocation list, and revokes.

Every `ensure_*` may be called again and then changes nothing; the CA key is opened only when a signature is due.
Not for talking to people: `cli` does, and `custody` asks for the passphrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import assessment, check, crl, custody, easyrsa, index, issuing, naming, profiles, revocation, rootcheck
from .errors import AlreadyIssued, Drift, StoreBroken, StoreMissing, UnknownCertificate
from .issuing import Issued, Signer, Task
from .plan import Leaf
from .reporting import Status, report
from .store import CA_KEY, PRIVATE, Change, Store

ROOT_DAYS, LEAF_DAYS = 3650, 397


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Authority:
    """The authority whose store is `pki`. Lifetimes are in days; `now` and `ask` stand in for clock and prompt."""

    def __init__(
        self,
        pki: Path,
        *,
        root_days: int = ROOT_DAYS,
        leaf_days: int = LEAF_DAYS,
        now: Callable[[], datetime] = _now,
        ask: custody.Ask = custody.ask_passphrase,
    ) -> None:
        self.store = Store(pki)
        self._root_days = root_days
        self._leaf_days = leaf_days
        self._now = now
        self._ask = ask
        self._opened: tuple[bytes, ec.EllipticCurvePrivateKey] | None = None

    def ensure_root(self, organisation: str, *, passphrase: bytes | None = None) -> bool:
        """Create the authority where there is none; True if it was created.

        `passphrase` encrypts a new key and is ignored where there is one. An authority that easyrsa made is adopted.
        Raises Drift where the root was made for another organisation or lifetime, ForeignRoot where it was made
        elsewhere and strict verification refuses it.
        """
        with self.store.locked(create=True):
            content = self.store.read("ca.crt")
            if content is None:
                self._create_root(organisation, passphrase)
                return True
            self._refuse_root(issuing.load_certificate(content, "ca.crt"), organisation)
            self._adopt()
            return False

    def _refuse_root(self, root: x509.Certificate, organisation: str) -> None:
        rootcheck.refuse_drift(root, organisation, self._root_days)
        rootcheck.refuse_foreign(root)

    def refuse_drift(self, organisation: str, plan: Sequence[Leaf]) -> None:
        """Raise what `ensure_*` would refuse, from looking alone; a store left half-written is theirs to finish."""
        content = self.store.read("ca.crt")
        if content is not None and not self.store.unfinished:
            root = issuing.load_certificate(content, "ca.crt")
            self._refuse_root(root, organisation)
            self._due(plan, root)

    def missing(self, plan: Sequence[Leaf]) -> list[str]:
        """Names of the leaves that have no certificate valid now, those that were revoked left out."""
        due = (task.leaf.name for task in self._due(plan, self.root()))
        return [name for name in due if (held := self._held(name)) is None or held.not_valid_after_utc < self._now()]

    def _create_root(self, organisation: str, passphrase: bytes | None) -> None:
        if self.store.read("private/ca.key") is not None or self.store.index().entries:
            raise AlreadyIssued("private/ca.key or index.txt exists without ca.crt; restore ca.crt from a backup.")
        key = profiles.new_key()
        root = profiles.root(key, organisation, self._now(), self._root_days)
        self._opened = custody.encode(key, passphrase), key
        files = {
            "private/ca.key": (self._opened[0], CA_KEY),
            **self._missing_support(),
            "ca.crt": (root.public_bytes(serialization.Encoding.PEM), 0o644),
        }
        self.store.commit(Change(files=files))

    def _missing_support(self) -> dict[str, tuple[bytes, int]]:
        files = easyrsa.support_files(self._root_days, self._leaf_days, crl.DAYS)
        counters = {
            "index.txt": b"",
            "serial": f"{naming.serial_text(x509.random_serial_number())}\n".encode(),
            "crlnumber": b"01\n",
        }
        return {
            path: (content, PRIVATE)
            for path, content in {**counters, **files}.items()
            if not (self.store.pki / path).exists()
        }

    def _adopt(self) -> None:
        missing = self._missing_support()
        if missing:
            self.store.commit(Change(files=missing))

    def ensure_leaves(self, plan: Sequence[Leaf]) -> list[Issued]:
        """Issue what is missing and renew what has a third of its life left; what was done, in the plan's order.

        A leaf that was revoked is left out: `issue` brings it back, when somebody decides so. Raises Drift, naming
        every leaf that differs from the plan, or CaKeyLocked; nothing is changed then.
        """
        with self.store.locked():
            root = self.root()
            return self._sign(self._due(plan, root), root)

    def _due(self, plan: Sequence[Leaf], root: x509.Certificate) -> list[Task]:
        known = self.store.index()
        by_serial, last = known.by_serial(), {entry.subject: entry for entry in known.entries}
        tasks, drifted = [], []
        for leaf in plan:
            try:
                task = self._task_if_due(leaf, root, by_serial, last)
            except Drift as error:
                drifted.append(str(error))
                continue
            if task:
                tasks.append(task)
        if drifted:
            raise Drift("\n".join(drifted))
        return tasks

    def _task_if_due(
        self, leaf: Leaf, root: x509.Certificate, by_serial: dict[str, index.Entry], last: dict[str, index.Entry]
    ) -> Task | None:
        held = self._held(leaf.name)
        if held is None:
            entry = last.get(profiles.index_subject(leaf))
            return None if entry and entry.status == index.REVOKED else self._task(leaf, "issued", None)
        known = by_serial.get(naming.serial_text(held.serial_number))
        if known and known.status == index.REVOKED:
            return None
        assessment.refuse_drift(leaf, held, root, self._leaf_days)
        if assessment.renewal_due(held, self._now()) or assessment.names_changed(leaf, held):
            return self._task(leaf, "renewed", held)
        return None

    def _held(self, name: str) -> x509.Certificate | None:
        path = f"issued/{issuing.file_name(name)}.crt"
        content = self.store.read(path)
        return None if content is None else issuing.load_certificate(content, path)

    def _task(self, leaf: Leaf, action: str, held: x509.Certificate | None) -> Task:
        """Renewal makes a new key where the store holds the old one, and keeps a public key that came in a CSR.

        A first certificate takes a key that is there already, unless one for the same subject was revoked.
        """
        path = f"private/{leaf.name}.key"
        content = self.store.read(path)
        if held is None:
            subject = profiles.index_subject(leaf)
            if content is not None and any(entry.subject == subject for entry in self.store.index().revoked()):
                return Task(leaf, action)
            return Task(leaf, action, key=None if content is None else issuing.load_key(content, path))
        if content is not None:
            return Task(leaf, action)
        return Task(leaf, action, public_key=issuing.public_key_of(held, leaf.name))

    def _sign(self, tasks: Sequence[Task], root: x509.Certificate) -> list[Issued]:
        if not tasks:
            return []
        signer = Signer(root, self._open_key(root), self._leaf_days)
        made = issuing.sign_all(signer, tasks, self._now())
        self.store.commit(issuing.gather(change for _, change in made))
        return [issued for issued, _ in made]

    def issue(self, leaf: Leaf) -> Issued:
        """Issue one leaf, also one that was revoked. Raises AlreadyIssued where it has a certificate."""
        with self.store.locked():
            if self._held(leaf.name) is not None:
                remedy = f"`flowerbed ca renew {leaf.name}` replaces it"
                raise AlreadyIssued(f"issued/{leaf.name}.crt exists and is not overwritten; {remedy}.")
            return self._sign([self._task(leaf, "issued", None)], self.root())[0]

    def renew(self, leaf: Leaf) -> Issued:
        """Issue a leaf again, as planned, before it is due. The old certificate stays valid until it ends."""
        with self.store.locked():
            held = self._held(leaf.name)
            if held is None:
                raise UnknownCertificate(f"{leaf.name} has no certificate; `flowerbed ca issue {leaf.name}` makes one.")
            return self._sign([self._task(leaf, "renewed", held)], self.root())[0]

    def sign(self, leaf: Leaf, request: bytes) -> Issued:
        """Sign a leaf for the public key of a CSR; everything else comes from the plan.

        Raises RequestRefused for a CSR that proves no P-384 key, AlreadyIssued where the store has its key.
        """
        public_key = issuing.public_key_of_request(request)
        with self.store.locked():
            taken = next((path for path in issuing.own_files(leaf.name) if (self.store.pki / path).exists()), None)
            if taken:
                remedy = f"`flowerbed ca revoke {leaf.name}` takes it out of use"
                raise AlreadyIssued(f"{taken} exists and is not overwritten; {remedy}.")
            return self._sign([Task(leaf, "signed", public_key=public_key, request=request)], self.root())[0]

    def ensure_crl(self) -> bool:
        """Sign the revocation list where it is due (see `crl.due`); True if it was signed. Raises CaKeyLocked."""
        with self.store.locked():
            root = self.root()
            if not self._crl_due(root):
                return False
            self._sign_crl(root, self._open_key(root))
            return True

    def _crl_due(self, root: x509.Certificate) -> bool:
        return crl.due(self._crl(), self.store.index(), root, self._now())

    def _sign_crl(self, root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        current = self._crl()
        counter = self.store.read("crlnumber") or b"1"
        number = max(int(counter, 16), crl.number_of(current) + 1)
        signed = crl.sign(self.store.index(), number, root, key, self._now())
        self.store.replace("crlnumber", f"{naming.serial_text(number + 1)}\n".encode(), PRIVATE)
        self.store.replace("crl.pem", signed.public_bytes(serialization.Encoding.PEM))
        if (self.store.pki / "crl.der").exists():  # easyrsa's copy
            self.store.replace("crl.der", signed.public_bytes(serialization.Encoding.DER))

    def revoke(self, name_or_serial: str, reason: str = "unspecified") -> list[str]:
        """Revoke a name's certificates, older ones that are still valid included, or one serial; sign the list.

        Returns the serials revoked now, upper-case hexadecimal; empty where all were revoked before. Raises
        UnknownCertificate, RequestRefused for a reason not in `index.REASONS`, CaKeyLocked; nothing is changed then.
        """
        with self.store.locked():
            root = self.root()
            change = revocation.change(self.store, name_or_serial, reason, self._now())
            key = self._open_key(root) if change.entries or self._crl_due(root) else None
            if change.entries or change.moves:  # moves alone: `openssl ca -revoke` leaves the files where they are
                self.store.commit(change)
            if key:
                self._sign_crl(root, key)
            return [entry.serial for entry in change.entries]

    def _open_key(self, root: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        content = self.store.read("private/ca.key")
        if self._opened and self._opened[0] == content:  # a person is asked for the passphrase once
            return self._opened[1]
        key = custody.open_ca_key(content, self._ask)
        if key.public_key() != root.public_key():
            raise StoreBroken("private/ca.key does not belong to ca.crt; restore the two from one backup.")
        self._opened = (content or b""), key
        return key

    def status(self) -> Status:
        """Days left of root, leaves and list, for people. Opens no key, takes no lock. Raises StoreMissing."""
        return report(self.root(), self._leaves(), self._crl(), self.store.index(), self._now())

    def check(self) -> list[check.Finding]:
        """What is wrong in the store; see `check`. Finishes first what a killed process left behind."""
        with self.store.locked():
            return check.findings(self.store, self.root(), self._now())

    def _leaves(self) -> Iterable[tuple[str, x509.Certificate]]:
        for path in sorted((self.store.pki / "issued").glob("*.crt")):
            yield path.stem, issuing.load_certificate(path.read_bytes(), f"issued/{path.name}")

    def exists(self) -> bool:
        """Whether there is a root."""
        return (self.store.pki / "ca.crt").exists()

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate in use under a name; `ca` is the root. Raises UnknownCertificate."""
        held = self.root() if name == "ca" else self._held(name)
        if held is None:
            raise UnknownCertificate(f"{name!r} has no certificate; `flowerbed ca list` shows those that exist.")
        return held

    def root(self) -> x509.Certificate:
        """The root certificate. Raises StoreMissing."""
        content = self.store.read("ca.crt")
        if content is None:
            raise StoreMissing(f"{self.store.pki} holds no certificate authority; `flowerbed ca init` creates one.")
        return issuing.load_certificate(content, "ca.crt")

    def _crl(self) -> x509.CertificateRevocationList | None:
        content = self.store.read("crl.pem")
        if content is None:
            return None
        try:
            return x509.load_pem_x509_crl(content)
        except ValueError as error:
            raise StoreBroken("crl.pem is not a revocation list; delete it and it is signed again.") from error
