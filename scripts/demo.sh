#!/usr/bin/env bash
# From an empty host to a finished private training run: host, environment, images, certificates, federation, run.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/host.sh ensure  # where it cannot, it says what is missing and names make simulate
scripts/venv.sh .venv
exec .venv/bin/flowerbed demo
