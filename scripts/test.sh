#!/usr/bin/env bash
# Every test, on a stack of its own beside whatever runs here. Brings what it needs, as `make demo` does. Where no Docker Engine
# can be had, runs the tests that need none and then fails, naming what could not run.
#
#   test.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."

# What tests use beside the kit's own needs: a database server without a container, network namespaces, a browser with a trust
# store of its own.
ensure_test_tools() {
    local missing=()
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v certutil >/dev/null || missing+=(libnss3-tools)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Tests need ${missing[*]}: those that do will fail until somebody with root installs them." >&2
        return 0
    fi
    echo "installing ${missing[*]}, which tests use"
    # The package would create a cluster and start it on the host: the tests make their own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "${missing[@]}" >/dev/null
}

engine=yes
scripts/host.sh ensure || engine=no
ensure_test_tools
scripts/venv.sh .venv dev
if [ "$engine" = yes ]; then
    .venv/bin/flowerbed images
    # Beside each other, as most of them wait for containers: the federation of tests/e2e, which takes longest and so comes
    # first, and by file what shares nothing.
    [ $# -gt 0 ] || set -- -n 3 --dist loadfile tests/e2e tests/integration tests/unit
    exec .venv/bin/pytest "$@"
fi
.venv/bin/pytest -m "not docker" tests/unit tests/integration || true
echo "Not run, as no Docker Engine can be had here: the tests marked docker, in tests/integration and tests/e2e." >&2
exit 1
