#!/usr/bin/env bash
# Every test, on a stack of its own beside whatever runs here. Brings what it needs, as `make demo` does. Where no Docker Engine
# can be had, runs the tests that need none and then fails, naming what could not run.
#
#   test.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e .venv/.ready-dev ] || scripts/venv.sh .venv dev
if scripts/host.sh ensure; then
    .venv/bin/flowerbed images
    [ $# -gt 0 ] || set -- tests/unit tests/integration tests/e2e
    exec .venv/bin/pytest "$@"
fi
.venv/bin/pytest -m "not docker" tests/unit tests/integration
echo "Not run, as no Docker Engine can be had here: the tests marked docker, in tests/integration and tests/e2e." >&2
exit 1
