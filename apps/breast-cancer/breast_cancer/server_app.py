"""The ServerApp: federated averaging, each round's arrays and metrics stored as soon as they exist. Needs no torch."""

import json
import time
from logging import INFO

from flwr.app import Array, ArrayRecord, Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from breast_cancer.arrays import initial_arrays
from breast_cancer.report import RoundReport, summary
from breast_cancer.settings import RunConfig
from breast_cancer.strategy import CheckedFedAvg
from flowerbed_app import Results

# `flowerbed` looks for this word in a run's log.
SUMMARY_MARK = "FLOWERBED_SUMMARY"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds; what a round has produced is stored before the next begins."""
    started = time.monotonic()
    run = RunConfig.of(context.run_config)
    results = Results(context.run_id)
    reports: list[RoundReport] = []

    def on_arrays(server_round: int, arrays: ArrayRecord) -> None:
        results.save_arrays(f"round-{server_round:03}.npz", arrays)

    def on_round(report: RoundReport) -> None:
        reports.append(report)
        results.save_metrics(f"round-{report.number:03}.json", report.as_json())

    CheckedFedAvg(run, on_arrays, on_round).start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(value) for name, value in initial_arrays().items()}),
        num_rounds=run.num_server_rounds,
        timeout=run.round_timeout,
    )
    closing = summary(reports, time.monotonic() - started)
    results.save_metrics("summary.json", closing)
    log(INFO, "%s %s", SUMMARY_MARK, json.dumps(closing))
