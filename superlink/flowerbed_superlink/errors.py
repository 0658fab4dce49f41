"""The exceptions of the SuperLink's side; not for Flower's own API errors.

FlowerbedError
├── StartupError          the SuperLink must not start; shown as one sentence, exit code 2
├── MaterialError         a file that decisions need is missing, garbled or expired: refuse with 503
├── TrailUnavailable      a record is not known to be in the audit trail: refuse what it announces with 503
├── TokenError            an access token is not valid: refuse with 401
├── ProviderError         the identity provider cannot be asked right now: refuse with 503
│   └── ProviderRefusalError    it refused what was asked
└── PeopleError           the list of people was given something wrong, or cannot be read

Refused, beside them, is the gate's verdict on a request and no fault of anything.
"""

from __future__ import annotations

from http import HTTPStatus


class FlowerbedError(Exception):
    """Base of all errors raised by this package."""


class StartupError(FlowerbedError):
    """The SuperLink must not start; the message is one sentence naming setting, value found and remedy."""


class MaterialError(FlowerbedError):
    """A file that the gate decides by cannot be trusted right now; requests that need it are refused with 503."""


class TrailUnavailable(FlowerbedError):  # noqa: N818  says what the trail is, as its callers read it
    """A record is not known to be in the audit trail; what it would have announced must not be done."""


class TokenError(FlowerbedError):
    """An access token is not valid; the message is one sentence for its bearer and holds nothing of the token."""


class ProviderError(FlowerbedError):
    """The identity provider cannot be asked right now; the message is one sentence."""


class ProviderRefusalError(ProviderError):
    """The identity provider refused; `code` is an error code of RFC 6749, section 5.2, or RFC 8628, section 3.5."""

    def __init__(self, code: str) -> None:
        super().__init__(f"The identity provider refused: {code}.")
        self.code = code


class PeopleError(FlowerbedError):
    """The list of people was given something wrong, or cannot be read; the message is one sentence."""


class Refused(Exception):  # noqa: N818  a verdict, not a fault
    """The request ends here with this status; `detail` is what the client reads, `why` what the log says."""

    def __init__(self, status: HTTPStatus, detail: str, why: str = "", **fields: object) -> None:
        super().__init__(detail)
        self.status, self.detail, self.why, self.fields = status, detail, why or detail, fields
