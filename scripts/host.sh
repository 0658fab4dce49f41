#!/usr/bin/env bash
# Makes a host ready for the kit, and says what it does. Re-runnable. Not for: images (base-image.sh) and the federation itself.
#
#   host.sh check                     what is there and what is missing; changes nothing; exit 2 if something is missing
#   host.sh ensure                    installs and starts what is missing (Debian or Ubuntu, as root), else says how to get it
#   host.sh names [--mark MARK] [--address IP] NAME...
#                                     lets the federation's names resolve on this host, past any proxy: /etc/hosts and
#                                     /etc/profile.d as root, else printed
#   host.sh forget-names [MARK]       takes that back
#   host.sh ca-bundle                 prints the host's bundle of trusted certificates, for builds behind an inspecting proxy
#   host.sh python                    prints the Python interpreter to make the kit's environment with
#
# Exit codes: 0 done, 2 something is missing and the lines above say what and how to get it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
clone=$(dirname "$here")

say() { printf 'host: %s\n' "$*"; }
die() { printf 'host: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
os_release() { (. /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""); }
with_apt() { case $(os_release ID) in debian | ubuntu) have apt-get ;; *) false ;; esac }

# at_least FOUND LEAST: dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# shellcheck source=scripts/host/check.sh
. "$here/host/check.sh"
# shellcheck source=scripts/host/ensure.sh
. "$here/host/ensure.sh"
# shellcheck source=scripts/host/names.sh
. "$here/host/names.sh"

main() {
    local verb=${1:-}
    [ $# -eq 0 ] || shift
    case $verb in
        check) check || exit 2; name_limits ;;
        ensure) ensure ;;
        names) names "$@" ;;
        forget-names) forget_names "$@" ;;
        ca-bundle) ca_bundle ;;
        python) find_python || die "Python: needed $python_least or newer: $(how_to_get python)" ;;
        *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
}

main "$@"
