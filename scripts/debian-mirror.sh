#!/usr/bin/env bash
# Prints the URL of a Debian mirror: FLOWERBED_MIRROR, else the one that this host's apt uses when the host is a Debian (a
# derivative's mirror does not serve Debian), else deb.debian.org.
set -euo pipefail
found=${FLOWERBED_MIRROR:-}
if [ -z "$found" ] && grep -q '^ID=debian$' /etc/os-release 2>/dev/null; then
    # shellcheck disable=SC2016  # apt's own placeholder
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null |
        grep -v security | head -n 1 || true)
fi
found=${found:-http://deb.debian.org/debian}
printf '%s\n' "${found%/}"
