#!/usr/bin/env bash
# The fast tier: lint, format, types, import rules, unit tests. No Docker, under a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/venv.sh .venv dev
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
$bin/lint-imports
$bin/pytest -q -n 2 tests/unit "$@"
