#!/usr/bin/env bash
# Measures, on this host and beside the alternatives (tests/bench/run.py says what). Wants a host with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/host.sh ensure
scripts/venv.sh .venv dev
.venv/bin/flowerbed images
exec .venv/bin/python tests/bench/run.py "$@"
