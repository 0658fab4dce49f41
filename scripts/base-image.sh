#!/usr/bin/env bash
# Makes sure that Docker has debian:<suite>-slim, the base of every image of the kit. Re-runnable; does nothing when the image
# is there. Pulled where a registry answers, else bootstrapped from the host's Debian mirror under the same name.
# Not for: the kit's own images (compose/images.yaml).
#
#   base-image.sh [--bootstrap]      --bootstrap: do not try a registry, and replace an image that exists
#
# FLOWERBED_MIRROR       Debian mirror to bootstrap from (default: see debian-mirror.sh)
# FLOWERBED_PULL_SECONDS how long a registry has to give its first answer (default 20)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=versions.env
. ./versions.env
image="debian:${DEBIAN_SUITE}-slim"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '%s\n' "base image: $*"; }
die() { printf '%s\n' "base image: $*" >&2; exit 2; }

# `docker pull` waits for minutes on a registry that drops packets, so its first answer has a time limit of its own;
# after that the pull may take as long as the line needs.
pull() {
    local log pid second
    log=$(mktemp)
    docker pull "$image" >"$log" 2>&1 &
    pid=$!
    for ((second = 0; second < ${FLOWERBED_PULL_SECONDS:-20}; second++)); do
        if grep -q 'Pulling from' "$log" || ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 1
    done
    grep -q 'Pulling from' "$log" || kill "$pid" 2>/dev/null || true
    local status=0
    wait "$pid" 2>/dev/null || status=$?
    rm -f "$log"
    return "$status"
}

security_mirror() {
    printf '%s\n' "$1" | sed -E 's#/debian$#/debian-security#'
}

# Settings of the official images: no documentation, no package caches. Without the last two, every layer that runs apt
# is about 90 MB larger.
options=(
    --dpkgopt='path-exclude=/usr/share/man/*'
    --dpkgopt='path-exclude=/usr/share/info/*'
    --dpkgopt='path-exclude=/usr/share/locale/*'
    --dpkgopt='path-exclude=/usr/share/doc/*'
    --dpkgopt='path-include=/usr/share/doc/*/copyright'
    --dpkgopt='path-exclude=/usr/share/lintian/*'
    --dpkgopt=force-unsafe-io
    --aptopt='APT::Install-Recommends "false"'
    --aptopt='Apt::AutoRemove::SuggestsImportant "false"'
    --aptopt='Acquire::Languages "none"'
    --aptopt='Acquire::GzipIndexes "true"'
    --aptopt='Dir::Cache::pkgcache ""'
    --aptopt='Dir::Cache::srcpkgcache ""'
)

# A host that has to relax apt's date checks (its clock or its mirror is off) hands that on, or no build could use the mirror.
date_checks() {
    apt-config dump Acquire::Check-Valid-Until Acquire::Check-Date 2>/dev/null | grep '"false"' | tr -d ';' || true
}

ensure_mmdebstrap() {
    local needed=()
    command -v mmdebstrap >/dev/null || needed+=(mmdebstrap)
    [ -e "$keyring" ] || needed+=(debian-archive-keyring)
    if [ ${#needed[@]} -eq 0 ]; then return; fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "no registry answers, and ${needed[*]} is missing to do without: on Debian or Ubuntu, as root, apt-get install ${needed[*]}"
    fi
    say "installing from the distribution: ${needed[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${needed[@]}" >/dev/null
}

bootstrap() {
    local from security option
    ensure_mmdebstrap
    from=$(scripts/debian-mirror.sh)
    security=$(security_mirror "$from")
    while read -r option; do
        [ -z "$option" ] || options+=(--aptopt="$option")
    done < <(date_checks)
    say "bootstrapping $image from $from (about half a minute)"
    # To a file first: at the end of a pipe, a bootstrap that failed would still become an image.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo 'APT::Keep-Downloaded-Packages "false";' >"$work/keep-nothing"
    # shellcheck disable=SC2016  # mmdebstrap's shell expands $1
    mmdebstrap --quiet --variant=minbase --include=ca-certificates "${options[@]}" \
        --keyring="$keyring" \
        --customize-hook="upload '$work/keep-nothing' /etc/apt/apt.conf.d/keep-nothing" \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/ldconfig/* "$1"/var/log/*.log "$1"/var/log/apt' \
        "$DEBIAN_SUITE" "$work/root.tar" \
        "deb $from $DEBIAN_SUITE main" "deb $from $DEBIAN_SUITE-updates main" "deb $security $DEBIAN_SUITE-security main"
    docker import --change 'CMD ["bash"]' --change 'LABEL flowerbed.base=bootstrapped' "$work/root.tar" "$image" >/dev/null
}

main() {
    local mode=${1:-}
    case $mode in '' | --bootstrap) ;; *) die "unknown argument $mode (known: --bootstrap)" ;; esac
    if [ -z "$mode" ] && docker image inspect "$image" >/dev/null 2>&1; then
        say "$image is there"
        return
    fi
    if [ -n "$mode" ] || ! { say "asking the registry for $image" && pull; }; then
        bootstrap
    fi
    say "$image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%.0f MB", $1 / 1000000}')"
}

main "$@"
