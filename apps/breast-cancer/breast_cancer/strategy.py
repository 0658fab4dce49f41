"""FedAvg that checks every update before it counts, waits a bounded time for sites, and hands each round on.

Not for storing results (`server_app.py`), nor against updates that are well-formed and wrong.
"""

import time
from collections.abc import Callable, Iterable
from logging import INFO, WARNING
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from breast_cancer.errors import AppError, RunError
from breast_cancer.replies import read_figures, read_update
from breast_cancer.report import RoundReport
from breast_cancer.settings import RunConfig

POLL_SECONDS = 1.0

Facts = TypeVar("Facts")


class CheckedFedAvg(FedAvg):
    """FedAvg over the updates that pass the checks.

    `on_arrays` is called with each round's arrays before they are evaluated, `on_round` with its report at its end.
    """

    def __init__(
        self,
        run: RunConfig,
        on_arrays: Callable[[int, ArrayRecord], None],
        on_round: Callable[[RoundReport], None],
    ) -> None:
        super().__init__(
            fraction_evaluate=1.0 if run.report_evaluation else 0.0,
            # FedAvg would wait for ever for a site that has left; `wait_for_sites` does the waiting.
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            train_metrics_aggr_fn=_largest_epsilon,
        )
        self._run = run
        self._on_arrays = on_arrays
        self._on_round = on_round
        self._report = RoundReport(0)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the sites, then instruct all of them.

        Raises:
            RunError: too few are connected in time.
        """
        wait_for_sites(grid, self._run.min_sites, self._run.wait_for_sites)
        self._report = RoundReport(server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates that pass the checks, weighted by rows.

        Raises:
            RunError: none does.
        """
        usable, self._report.updates = self._checked(replies, read_update)
        if not usable:
            reasons = "; ".join(self._report.refused) or "no site replied in time"
            raise RunError(f"Round {server_round}: no usable update: {reasons}.")
        arrays, metrics = super().aggregate_train(server_round, usable)
        if arrays is not None:
            self._on_arrays(server_round, arrays)
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the sites' figures, weighted by held-out rows, and end the round."""
        _, self._report.figures = self._checked(replies, read_figures)
        self._on_round(self._report)
        log(INFO, "Round %d: %d updates counted", server_round, len(self._report.updates))
        figures = {"accuracy": self._report.accuracy(), "auc": self._report.auc()}
        return MetricRecord({name: value for name, value in figures.items() if value is not None})

    def _checked(
        self, replies: Iterable[Message], read: Callable[[Message], Facts]
    ) -> tuple[list[Message], list[Facts]]:
        """Return the usable replies and the facts in them; note and log the others."""
        usable, facts = [], []
        for reply in replies:
            try:
                facts.append(read(reply))
            except AppError as error:
                # repr(): a site's text must not start log lines of its own.
                refusal = f"node {reply.metadata.src_node_id}: {str(error)[:500]!r}"
                self._report.refused.append(refusal)
                log(WARNING, "Round %d: dropped the reply of %s", self._report.number, refusal)
            else:
                usable.append(reply)
        return usable, facts


def wait_for_sites(grid: Grid, wanted: int, seconds: float) -> None:
    """Return when that many sites are connected.

    Raises:
        RunError: they are not after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while (connected := len(list(grid.get_node_ids()))) < wanted:
        if time.monotonic() >= deadline:
            raise RunError(
                f"Only {connected} of {wanted} sites were connected after {seconds:g} s: "
                "start the others, or run with a lower min-sites."
            )
        log(INFO, "Waiting for sites: %d of %d connected", connected, wanted)
        time.sleep(POLL_SECONDS)


def _largest_epsilon(replies: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Return what the log shows of a round: a mean over sites would say nothing of any one site's privacy."""
    spent = [value for reply in replies if isinstance(value := reply.metric_records["metrics"]["epsilon"], float)]
    return MetricRecord({"largest-epsilon": max(spent)})
