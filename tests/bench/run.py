"""Every benchmark: a table on the screen, and `build/bench/results.json`, a list of `{name, unit, median, min, max, runs}`.

Comparisons also have `against` (the peer's name), `peer_median` and `ratio` (ours divided by theirs), measured in this run.

    run.py [ca] [audit] [keycloak] [tokens] [idle] [control] [stack] [rounds] [dp] [app]      default: all but dp and app
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("FLOWERBED_E2E_INDEX", "9")
KIT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(KIT / "tests"), str(KIT / "tests" / "bench")]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from e2e.federation import STACK, Federation, fresh, sweep  # noqa: E402

Row = dict[str, object]


def main() -> None:
    """Measure what was asked for."""
    wanted = sys.argv[1:] or ["ca", "audit", "keycloak", "tokens", "idle", "control", "stack", "rounds"]
    rows: list[Row] = []
    if "ca" in wanted:
        import bench_ca

        rows += bench_ca.rows()
    if "audit" in wanted:
        import bench_audit

        rows += bench_audit.rows()
    if "tokens" in wanted:
        import bench_tokens

        rows += bench_tokens.rows()
    if "keycloak" in wanted:
        import bench_keycloak

        rows += bench_keycloak.rows()
    if "idle" in wanted:
        import bench_idle

        rows += bench_idle.rows()
    if "app" in wanted:
        import bench_app

        rows += bench_app.rows()
    if {"control", "stack", "rounds", "dp"} & set(wanted):
        rows += on_a_federation(wanted)
    results = KIT / "build" / "bench" / "results.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    # What was not asked for this time keeps its figures.
    measured = {row["name"] for row in rows}
    before: list[Row] = json.loads(results.read_text()) if results.is_file() else []
    kept = [row for row in before if row["name"] not in measured]
    results.write_text(json.dumps(kept + rows, indent=2) + "\n")
    Console(width=120).print(table(rows))


def on_a_federation(wanted: list[str]) -> list[Row]:
    """Run the benchmarks that need a federation, on one of their own."""
    import bench_control
    import bench_dp
    import bench_rounds
    import bench_stack

    federation: Federation = fresh(KIT / ".cache" / "e2e" / STACK)
    try:
        first = bench_stack.first_start(federation)
        rows = bench_control.rows(federation) if "control" in wanted else []  # before there are runs
        rows += bench_rounds.rows(federation) if "rounds" in wanted else []
        rows += bench_dp.rows(federation) if "dp" in wanted else []
        return rows + ([*first, *bench_stack.rows(federation)] if "stack" in wanted else [])
    finally:
        federation.flowerbed("clean", "--yes", "--identity", check=False)
        sweep()


def table(rows: list[Row]) -> Table:
    """Return the rows for the screen."""
    made = Table(title="benchmarks")
    for name in ("name", "median", "min", "max", "runs", "against", "its median", "ratio"):
        made.add_column(name, justify="left" if name in ("name", "against") else "right")
    for one in rows:
        figures = [f"{one[key]:.3g} {one['unit']}" for key in ("median", "min", "max")]
        peer = [str(one["against"]), f"{one['peer_median']:.3g}", f"{one['ratio']:.3g}"] if "ratio" in one else [""] * 3
        made.add_row(str(one["name"]), *figures, str(one["runs"]), *peer)
    return made


if __name__ == "__main__":
    main()
