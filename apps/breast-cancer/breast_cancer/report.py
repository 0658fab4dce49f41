"""What a round and a run report, as plain data for JSON. Not for checking replies or writing files."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from breast_cancer.replies import Figures, Update


@dataclass
class RoundReport:
    """One round: whose updates counted, what did not and why, figures on held-out rows."""

    number: int
    updates: list[Update] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def accuracy(self) -> float | None:
        """Return the mean over sites, weighted by held-out rows."""
        return _mean((figure.rows, figure.accuracy) for figure in self.figures)

    def auc(self) -> float | None:
        """Return the mean over the sites that have one, weighted by held-out rows."""
        return _mean((figure.rows, figure.auc) for figure in self.figures if figure.auc is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a round's result file holds it; epsilon counts from the run's beginning."""
        names = site_names([*self.updates, *self.figures])
        sites: dict[str, dict[str, float | None]] = {name: {} for name in names.values()}
        for update in self.updates:
            sites[names[update.node_id]] |= {"rows": update.rows, "epsilon": update.epsilon, "delta": update.delta}
        for figure in self.figures:
            sites[names[figure.node_id]] |= {
                "held_out_rows": figure.rows,
                "accuracy": figure.accuracy,
                "auc": figure.auc,
            }
        return {
            "round": self.number,
            "accuracy": self.accuracy(),
            "auc": self.auc(),
            "sites": sites,
            "refused": self.refused,
        }


def summary(reports: list[RoundReport], seconds: float) -> dict[str, Any]:
    """Return the run's closing figures: those of its last round, and per organisation what all rounds came to.

    `accuracy` and `auc` are left out where no site gave them.
    """
    updates = [update for report in reports for update in report.updates]
    last = {update.node_id: update for update in updates}
    counted = Counter(update.node_id for update in updates)
    organisations = {
        # Of a site that missed the last round, the last figures that it gave.
        name: {
            "rounds": counted[node],
            "rows": last[node].rows,
            "epsilon": last[node].epsilon,
            "delta": last[node].delta,
        }
        for node, name in site_names(updates).items()
    }
    figures = {"accuracy": reports[-1].accuracy(), "auc": reports[-1].auc()}
    return {
        "rounds": len(reports),
        **{name: value for name, value in figures.items() if value is not None},
        "organisations": organisations,
        "seconds": round(seconds, 2),
    }


def site_names(replies: Iterable[Update | Figures]) -> dict[int, str]:
    """Return each node's organisation; where two nodes claim one name, both carry their node id as well."""
    claimed = {reply.node_id: reply.organisation for reply in replies}
    twice = {name for name in claimed.values() if list(claimed.values()).count(name) > 1}
    return {node: f"{name} ({node})" if name in twice else name for node, name in sorted(claimed.items())}


def _mean(pairs: Iterable[tuple[int, float]]) -> float | None:
    weighted = list(pairs)
    total = sum(weight for weight, _ in weighted)
    return math.fsum(weight * value for weight, value in weighted) / total if total else None
