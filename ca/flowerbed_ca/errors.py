"""The exception tree of the certificate authority. Every message is the one sentence that an operator is shown.

CaError
├── StoreMissing        no authority in this directory
├── StoreBroken         a file of the store cannot be read as what it should be
├── AlreadyIssued       refusing to overwrite what exists
├── Drift               what exists differs from what is asked for
├── PlanInvalid         a leaf that no certificate can be made of
├── UnknownCertificate  no such name or serial
├── RequestRefused      a CSR, a fingerprint or a reason that is not accepted
├── ForeignRoot         a root that strict verification refuses
└── CaKeyLocked         something is due and the CA key cannot be opened
    ├── CaKeyAbsent     it is not in the store
    └── WrongPassphrase the passphrase does not open it
"""
# ruff: noqa: N818 - the names say what is the matter; that they are errors is in the tree


class CaError(Exception):
    """Anything that the authority refuses or cannot do; shown as one sentence, exit code 2."""


class StoreMissing(CaError):
    """The directory holds no authority."""


class StoreBroken(CaError):
    """A file of the store is not what its name says."""


class AlreadyIssued(CaError):
    """Carrying on would overwrite a certificate or key that is in use."""


class Drift(CaError):
    """The store and the plan disagree about something that is never changed silently."""


class PlanInvalid(CaError):
    """A leaf's names or profile cannot be put into a certificate."""


class UnknownCertificate(CaError):
    """No certificate has that name or serial."""


class RequestRefused(CaError):
    """What somebody handed in (CSR, fingerprint, reason) is not accepted."""


class ForeignRoot(CaError):
    """The root was made elsewhere and strict verification would refuse it."""


class CaKeyLocked(CaError):
    """A signature is due and the CA key cannot be opened now; what was signed earlier stays valid."""


class CaKeyAbsent(CaKeyLocked):
    """The CA key is not in the store, for example because it is kept elsewhere."""


class WrongPassphrase(CaKeyLocked):
    """The passphrase given does not open the CA key."""
