#!/usr/bin/env bash
# Every test, on a stack of its own beside whatever runs here. Brings what it needs, as `make demo` does. Where no Docker Engine
# can be had, runs the tests that need none and then fails, naming what could not run.
#
#   test.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e .venv/.ready-dev ] || scripts/venv.sh .venv dev

# What tests use beside the kit's own needs: a database server without a container, and network namespaces.
ensure_test_tools() {
    local missing=()
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v openssl >/dev/null || missing+=(openssl)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}, which tests use"
        apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "Tests need ${missing[*]}: those that do will fail until somebody with root installs them." >&2
    fi
}

ensure_test_tools
if scripts/host.sh ensure; then
    .venv/bin/flowerbed images
    [ $# -gt 0 ] || set -- tests/unit tests/integration tests/e2e
    exec .venv/bin/pytest "$@"
fi
.venv/bin/pytest -m "not docker" tests/unit tests/integration
echo "Not run, as no Docker Engine can be had here: the tests marked docker, in tests/integration and tests/e2e." >&2
exit 1
