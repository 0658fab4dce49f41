"""The exceptions of `flowerbed_app`.

SdkError
├── StateMissingError    a run goes on at a site that has no record of it
├── StateCorruptError    a record before the last one cannot be read
└── ResultRefusedError   a result was not stored
"""

from __future__ import annotations


class SdkError(Exception):
    """Something that the kit was asked for cannot be had; the message is one sentence."""


class StateMissingError(SdkError):
    """A run goes on here, but its record is gone: an accountant must not start at zero again."""


class StateCorruptError(SdkError):
    """A record that is not the last one cannot be read."""


class ResultRefusedError(SdkError):
    """A result was not stored."""
