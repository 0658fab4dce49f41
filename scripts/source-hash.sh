#!/usr/bin/env bash
# What each image is made of: one list of inputs per image, and the SHA-256 over their paths, modes and contents. An image carries
# that sum as label flowerbed.source, so that `make up` can tell images that are older than the sources.
#
#   source-hash.sh IMAGE    postgres, nginx, tools, flower, app, samples or keycloak: prints the sum
#   source-hash.sh --env    prints FLOWERBED_SOURCE_<IMAGE>=<sum> for all, as compose/images.yaml wants them
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=versions.env
. ./versions.env
images="postgres nginx tools flower app samples keycloak"

inputs() {
    case $1 in
        postgres) echo postgres/{Dockerfile,entrypoint.sh,postgresql.conf,pg_hba.conf,reconcile.sql,audit.sql} ;;
        nginx | tools) echo nginx/Dockerfile ;;
        flower) echo superlink/{Dockerfile,requirements.lock,flowerbed_superlink} supernode/flowerbed_supernode wire/flowerbed_wire ;;
        app) echo apps/{Dockerfile,requirements-"${FLOWERBED_TORCH:-cpu}".lock,flowerbed_app} supernode/flowerbed_executor wire/flowerbed_wire ;;
        keycloak) echo keycloak/{Dockerfile,administrator.sh,fetch.sh,healthy.sh} ;;
        samples) echo apps/{Dockerfile,requirements-cpu.lock,samples.py,seed} ;;
        *) echo "source-hash: no image $1 (known: $images)" >&2; exit 2 ;;
    esac
}

# .dockerignore decides what of the inputs reaches a build; byte code never does.
sum() {
    local paths
    paths=$(inputs "$1")
    # shellcheck disable=SC2086  # a list of paths without blanks
    {
        echo "$DEBIAN_SUITE $POSTGRES_MAJOR"
        [ "$1" != keycloak ] || echo "$KEYCLOAK_VERSION $KEYCLOAK_SHA256"
        find $paths -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        find $paths -type f -perm -u+x ! -name '*.pyc' | LC_ALL=C sort
    } | sha256sum | cut -d' ' -f1
}

case ${1:-} in
    --env) for image in $images; do echo "FLOWERBED_SOURCE_$(tr '[:lower:]' '[:upper:]' <<<"$image")=$(sum "$image")"; done ;;
    "" | -*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) sum "$1" ;;
esac
