"""The exception tree of the command line. Every message is one sentence or more: what was found, and the remedy.

FlowerbedError
├── PreflightError   something on the host stands in the way; nothing was started
├── DockerError      a docker command failed
├── AccountError     an account is unknown, or could not log in
├── RunError         a run was not accepted, or did not finish
└── Tampered         the audit trail is not what it was: exit code 1
"""


class FlowerbedError(Exception):
    """Shown as it is, without a traceback; the command ends with exit code 2."""


class PreflightError(FlowerbedError):
    """Raised before the first side effect; `problems` holds one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DockerError(FlowerbedError):
    """A docker command failed; the message holds what it printed last."""


class AccountError(FlowerbedError):
    """A person, pipeline or client is not known, is refused, or cannot be asked for a token now."""


class RunError(FlowerbedError):
    """`flwr` refused a run, or the run did not end well."""


class Tampered(FlowerbedError):  # noqa: N818  a finding about the trail, no fault of the command
    """The audit trail, or an export of it, is not what was written; the message names the first record concerned."""
