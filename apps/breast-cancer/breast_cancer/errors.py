"""What can go wrong, each as one sentence that may leave a site. Not for defects: those are reported without detail.

AppError
├── SettingsError   the run config or the site's node config
├── TableError      the site's data file
├── ArraysError     a model or an update that is not one
├── ReplyError      what a site sent back (ServerApp)
├── BudgetError     the privacy budget, or the record of it
└── RunError        the run cannot go on (ServerApp)
"""


class AppError(Exception):
    """One sentence with what was found and the remedy; never a value from the data."""


class SettingsError(AppError):
    """The run config or the node config asks for what cannot be."""


class TableError(AppError):
    """The data file is missing or not of this app's format."""


class ArraysError(AppError):
    """Arrays with wrong names, shapes or types, or with values that are not finite."""


class ReplyError(AppError):
    """A site's reply is an error, or does not hold what this app sends."""


class BudgetError(AppError):
    """A round would spend more than allowed, or what was spent is not known."""


class RunError(AppError):
    """The ServerApp cannot go on."""
