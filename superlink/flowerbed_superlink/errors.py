"""The exceptions of the SuperLink's side; not for Flower's own API errors.

FlowerbedError
├── StartupError          the SuperLink must not start; shown as one sentence, exit code 2
└── MaterialError         a file that decisions need is missing, garbled or expired: refuse with 503
"""

from __future__ import annotations


class FlowerbedError(Exception):
    """Base of all errors raised by this package."""


class StartupError(FlowerbedError):
    """The SuperLink must not start; the message is one sentence naming setting, value found and remedy."""


class MaterialError(FlowerbedError):
    """A file that the gate decides by cannot be trusted right now; requests that need it are refused with 503."""
