#!/usr/bin/env bash
# The first app on the same three data sets under Flower's simulation runtime: from Python alone, without Docker and without root.
# The environment is several GB, because the package index's torch is the CUDA build.
#
#   simulate.sh [OPTION...]      as scripts/simulate.py takes them, such as --run-config 'num-server-rounds=5'
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-simulate
scripts/venv.sh "$venv" simulate
exec "$venv/bin/python" scripts/simulate.py "$@"
