#!/usr/bin/env bash
# From an empty host to a finished private training run: host, environment, images, certificates, federation, run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! scripts/host.sh ensure; then
    echo "Without Docker the same app runs on the same data under Flower's simulation runtime: make simulate" >&2
    exit 2
fi
[ -e .venv/.ready ] || scripts/venv.sh .venv
exec .venv/bin/flowerbed demo
