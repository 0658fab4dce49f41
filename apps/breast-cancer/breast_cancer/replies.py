"""Read what a site sent back, trusting nothing in it. Not for aggregating: see `strategy.py`."""

import math
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from breast_cancer.arrays import checked_arrays
from breast_cancer.errors import ReplyError

MAX_NAME = 100
MAX_ROWS = 10**9

R = TypeVar("R", ArrayRecord, MetricRecord, ConfigRecord)


@dataclass(frozen=True)
class Update:
    """A checked update; `epsilon` is what the site has spent since the run began."""

    node_id: int
    organisation: str
    rows: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Figures:
    """Checked figures on a site's held-out rows; `auc` is None where these hold one class only."""

    node_id: int
    organisation: str
    rows: int
    accuracy: float
    auc: float | None


def read_update(reply: Message) -> Update:
    """Return the facts of a usable training reply.

    Raises:
        ReplyError: the site answered with an error, or its records are not those of this app.
        ArraysError: the arrays are not this model's, or not finite.
    """
    content = _content(reply, {"arrays", "metrics", "site"})
    metrics = _metrics(content, {"num-examples", "epsilon", "delta"})
    rows, epsilon, delta = metrics["num-examples"], metrics["epsilon"], metrics["delta"]
    if not (1 <= rows <= MAX_ROWS and 0 <= epsilon < math.inf and 0 < delta < 1):
        raise ReplyError("The update's metrics are out of range.")
    checked_arrays(_record(content, "arrays", ArrayRecord))
    return Update(reply.metadata.src_node_id, _organisation(content), int(rows), epsilon, delta)


def read_figures(reply: Message) -> Figures:
    """Return the facts of a usable evaluation reply.

    Raises:
        ReplyError: the site answered with an error, or its records are not those of this app.
    """
    content = _content(reply, {"metrics", "site"})
    metrics = _metrics(content, {"num-examples", "accuracy", "auc"})
    rows, accuracy, auc = metrics["num-examples"], metrics["accuracy"], metrics["auc"]
    if not (1 <= rows <= MAX_ROWS and 0 <= accuracy <= 1 and (math.isnan(auc) or 0 <= auc <= 1)):
        raise ReplyError("The evaluation's metrics are out of range.")
    auc_or_none = None if math.isnan(auc) else auc
    return Figures(reply.metadata.src_node_id, _organisation(content), int(rows), accuracy, auc_or_none)


def _content(reply: Message, names: set[str]) -> RecordDict:
    if reply.has_error():
        raise ReplyError(reply.error.reason or "The site answered with an error and no reason.")
    if set(reply.content) != names:
        raise ReplyError(f"The reply does not hold exactly the records {', '.join(sorted(names))}.")
    return reply.content


def _record(content: RecordDict, name: str, kind: type[R]) -> R:
    record = content[name]
    if not isinstance(record, kind):
        raise ReplyError(f"The reply's record '{name}' is not of type {kind.__name__}.")
    return record


def _metrics(content: RecordDict, names: set[str]) -> dict[str, float]:
    record = _record(content, "metrics", MetricRecord)
    if set(record) != names:
        raise ReplyError(f"The metrics are not exactly {', '.join(sorted(names))}.")
    numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
    if len(numbers) != len(names):
        raise ReplyError("A metric is not a single number.")
    return {name: float(value) for name, value in numbers.items()}


def _organisation(content: RecordDict) -> str:
    name = _record(content, "site", ConfigRecord).get("organisation")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise ReplyError("The reply names no organisation.")
    return name
