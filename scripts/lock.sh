#!/usr/bin/env bash
# Resolves the Python packages of the images again and pins each by hash: superlink/requirements.lock (no torch),
# apps/requirements-cpu.lock (torch and numpy come from the distribution), apps/requirements-cuda.lock (torch from the index).
# Run it after a change of versions.env; the images install exactly what these files say.
#
#   lock.sh [UV]      UV: the uv program (default: the one beside this clone's Python, else PATH)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=versions.env
. ./versions.env
uv=${1:-.venv/bin/uv}
command -v "$uv" >/dev/null || uv=uv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# lock FILE OPTION... : requirements on standard input. Universal, so that one file serves amd64 and arm64.
lock() {
    local file=$1
    shift
    "$uv" pip compile --quiet --universal --generate-hashes --python-version 3.13 --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --upgrade "$@" --output-file "$file" -
    printf '%s: %s packages\n' "$file" "$(grep -c '==' "$file")"
}

runtime="flwr==$FLWR_VERSION
psycopg[binary]==$PSYCOPG_VERSION
PyJWT[crypto]==$PYJWT_VERSION"
training="flwr==$FLWR_VERSION
opacus==$OPACUS_VERSION
scikit-learn==$SCIKIT_LEARN_VERSION"

# flwr calls uv only to install an app's dependencies at run time, which the kit never allows: 50 MB less.
printf 'uv\n' >"$work/no-uv"
printf 'uv\ntorch\n' >"$work/no-torch"
# The distribution's torch is built against the distribution's numpy, so everything has to suit that one.
printf 'numpy==%s\n' "$NUMPY_DEBIAN_VERSION" >"$work/numpy"

lock superlink/requirements.lock --excludes "$work/no-uv" <<<"$runtime"
lock apps/requirements-cpu.lock --excludes "$work/no-torch" --constraints "$work/numpy" --no-emit-package numpy <<<"$training"
lock apps/requirements-cuda.lock --excludes "$work/no-uv" <<<"$training
torch==$TORCH_CUDA_VERSION"
