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
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
dockerd_log=/var/log/flowerbed-dockerd.log
engine_least=20.10 compose_least=2.20 python_least=3.11

say() { printf 'host: %s\n' "$*"; }
die() { printf 'host: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
os_release() { (. /etc/os-release 2>/dev/null && eval "printf '%s' \"\${$1:-}\""); }
with_apt() { case $(os_release ID) in debian | ubuntu) have apt-get ;; *) false ;; esac }

# at_least FOUND LEAST: dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# --- what is there -------------------------------------------------------------------------------------------------------------

engine_version() { docker version --format '{{.Server.Version}}' 2>/dev/null; }
compose_version() { docker compose version --short 2>/dev/null | sed 's/^v//'; }
buildx_version() { docker buildx version 2>/dev/null | cut -d' ' -f2; }

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        have "$name" && "$name" -c "import sys; sys.exit(sys.version_info < (${python_least/./, }))" 2>/dev/null || continue
        command -v "$name"
        return
    done
    return 1
}

# A Windows drive inside WSL keeps neither owners nor modes, so keys on it would be world-readable.
on_windows_mount() {
    local mount
    have findmnt || return 1
    mount=$(findmnt --noheadings --output FSTYPE,SOURCE,OPTIONS --target "$clone" 2>/dev/null | tail -n 1)
    case $mount in drvfs* | *aname=drvfs*) return 0 ;; *) return 1 ;; esac
}

ca_bundle() {
    local file
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem \
        /etc/ssl/cert.pem; do
        [ -n "$file" ] && [ -s "$file" ] || continue
        printf '%s\n' "$file"
        return
    done
    die "no bundle of trusted certificates found: install ca-certificates, or set SSL_CERT_FILE"
}

# --- check ---------------------------------------------------------------------------------------------------------------------

missing=0
ok() { printf 'host: %-16s %s\n' "$1" "$2"; }
lacks() {
    printf 'host: %-16s MISSING: %s\n' "$1" "$2" >&2
    missing=1
}

check_clone() {
    if on_windows_mount; then
        lacks clone "$clone lies on a Windows drive, which keeps no file modes: clone it inside the Linux file system (cd ~)"
    fi
}

check_engine() {
    local version error
    if version=$(engine_version) && [ -n "$version" ]; then
        if at_least "$version" "$engine_least"; then
            ok "Docker Engine" "$version"
        else
            lacks "Docker Engine" "found $version, needed $engine_least or newer: upgrade the package it came from"
        fi
        return
    fi
    if ! have docker; then
        lacks "Docker Engine" "no docker command: $(how_to_get docker)"
        return
    fi
    error=$(docker version 2>&1 >/dev/null || true)
    case $error in
        *"permission denied"*)
            lacks "Docker Engine" "$(id -un) may not use its socket: sudo usermod -aG docker $(id -un), then log in again" ;;
        *) lacks "Docker Engine" "it does not run: $(how_to_start)" ;;
    esac
}

check_plugins() {
    local version
    have docker || return 0
    version=$(compose_version) || true
    if [ -n "$version" ] && at_least "$version" "$compose_least"; then
        ok "Docker Compose" "$version"
    else
        lacks "Docker Compose" "found ${version:-none}, needed $compose_least or newer: $(how_to_get compose)"
    fi
    version=$(buildx_version) || true
    if [ -n "$version" ]; then ok "Docker Buildx" "$version"; else lacks "Docker Buildx" "$(how_to_get buildx)"; fi
}

check_python() {
    local python
    if ! python=$(find_python); then
        lacks Python "needed $python_least or newer: $(how_to_get python)"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        lacks Python "$python cannot make virtual environments: $(how_to_get venv)"
    else
        ok Python "$("$python" -c 'import platform; print(platform.python_version())') ($python)"
    fi
    if have make; then ok make "$(make --version 2>/dev/null | head -n 1)"; else lacks make "$(how_to_get make)"; fi
}

# What the platform cannot promise, said plainly; none of it stops the kit.
name_limits() {
    local system security
    system=$(docker info --format '{{.OperatingSystem}}' 2>/dev/null || true)
    security=$(docker info --format '{{.SecurityOptions}}' 2>/dev/null || true)
    case $system in
        *"Docker Desktop"*)
            say "NOTE: Docker Desktop runs containers in a virtual machine, where this host's firewall rules do not apply: containers" \
                "can reach services of the virtual machine and of this host. Fit for trying out, not for patient data." ;;
    esac
    case $security in
        *rootless*) say "NOTE: this Docker Engine is rootless: the kit's firewall rules cannot be installed for it." ;;
    esac
}

how_to_get() {
    local packages
    if with_apt; then
        case $1 in
            docker) packages=docker.io ;;
            compose | buildx) packages="" ;;
            python) packages="a newer release of $(os_release ID), or python3.11 and python3.11-venv" ;;
            venv) packages=python3-venv ;;
            *) packages=$1 ;;
        esac
        if is_root; then echo "$0 ensure installs it"; return; fi
        if [ -z "$packages" ]; then echo "$0 ensure unpacks it into ~/.docker/cli-plugins"; return; fi
        echo "as root: $0 ensure, or apt-get install $packages"
        return
    fi
    case $1 in
        docker) echo "install Docker Engine or Docker Desktop: https://docs.docker.com/engine/install/" ;;
        compose | buildx) echo "install the plugin docker-$1: https://docs.docker.com/compose/install/linux/" ;;
        python | venv) echo "install Python $python_least or newer with venv: https://www.python.org/downloads/" ;;
        make) echo "install GNU make from the system's packages (macOS: xcode-select --install)" ;;
    esac
}

how_to_start() {
    if [ "$(uname -s)" != Linux ]; then echo "start Docker Desktop"; return; fi
    if ! is_root; then echo "as root: $0 ensure"; return; fi
    echo "$0 ensure starts it"
}

check() {
    missing=0
    check_clone
    check_engine
    check_plugins
    check_python
    return "$missing"
}

# --- ensure --------------------------------------------------------------------------------------------------------------------

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
offered() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

# The packages that this host lacks, one a line. An engine that is there, whoever made it, is left alone.
lacking_packages() {
    local package
    for package in ca-certificates iptables nftables mmdebstrap debian-archive-keyring make; do
        installed "$package" || echo "$package"
    done
    have dockerd || engine_version >/dev/null || { echo docker.io; ! offered docker-cli || echo docker-cli; }
    if ! find_python >/dev/null; then
        if offered python3.11; then printf '%s\n' python3.11 python3.11-venv; else printf '%s\n' python3 python3-venv; fi
    elif ! "$(find_python)" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$(basename "$(readlink -f "$(find_python)")")-venv"
    fi
}

# Debian calls Compose v2 docker-compose since 13; the package of that name in 12 is the retired Python program.
plugin_packages() {
    local compose=docker-compose
    [ "$(os_release ID)" = debian ] || compose=docker-compose-v2
    [ -n "$(compose_version)" ] || ! apt-cache policy "$compose" | grep -q 'Candidate: 2' || echo "$compose"
    [ -n "$(buildx_version)" ] || ! offered docker-buildx || echo docker-buildx
}

ensure_packages() {
    local packages=()
    say "asking apt for its current lists"
    apt-get update -qq || die "apt-get update failed: see above"
    mapfile -t packages < <(lacking_packages; plugin_packages)
    if [ ${#packages[@]} -eq 0 ]; then return; fi
    say "installing from the distribution: ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}" >/dev/null ||
        die "apt-get install failed: see above"
}

ensure_running() {
    local second
    if [ -n "$(engine_version)" ]; then return; fi
    if [ -d /run/systemd/system ]; then
        say "starting Docker Engine with systemd, now and at boot"
        systemctl enable --now docker >/dev/null
    else
        say "starting dockerd; it logs to $dockerd_log and has to be started again after a reboot"
        setsid nohup dockerd >>"$dockerd_log" 2>&1 </dev/null &
    fi
    for ((second = 0; second < 60; second++)); do
        if [ -n "$(engine_version)" ]; then return; fi
        sleep 1
    done
    die "Docker Engine did not answer within 60 s: see $dockerd_log or journalctl -u docker"
}

# apt with lists, cache and sources of its own: nothing of the host's apt is touched, and Debian's keys sign what comes.
private_apt() {
    local home=$1
    shift
    apt-get -q -o Dir::State="$home/state" -o Dir::State::status="$home/status" -o Dir::Cache="$home/cache" \
        -o Dir::Etc::SourceList="$home/sources.list" -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root "$@"
}

# Debian 12 has neither plugin: those of Debian 13 run on it.
ensure_plugins() {
    local work plugin plugins=() target=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    [ -n "$(compose_version)" ] || plugins+=(docker-compose)
    [ -n "$(buildx_version)" ] || plugins+=(docker-buildx)
    if [ ${#plugins[@]} -eq 0 ]; then return; fi
    [ -e "$keyring" ] || die "Debian's signing keys are missing: apt-get install debian-archive-keyring"
    say "unpacking ${plugins[*]} of Debian 13 into $target"
    work=$(mktemp -d)
    mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial "$target"
    : >"$work/status"
    echo "deb [signed-by=$keyring] $("$here/debian-mirror.sh") trixie main" >"$work/sources.list"
    private_apt "$work" update >/dev/null || die "Debian 13's package lists could not be fetched: see above"
    (cd "$work" && private_apt "$work" download "${plugins[@]}" >/dev/null) || die "download failed: see above"
    for plugin in "${plugins[@]}"; do
        dpkg-deb --extract "$work/$plugin"_*.deb "$work/root"
        install -m 0755 "$work/root/usr/libexec/docker/cli-plugins/$plugin" "$target/$plugin"
    done
    rm -rf "$work"
}

ensure() {
    if check 2>/dev/null >&2; then
        check
        name_limits
        return
    fi
    ! on_windows_mount || { check_clone; exit 2; }
    if with_apt && is_root; then
        ensure_packages
        ensure_running
    fi
    if with_apt && have docker; then ensure_plugins; fi
    check || die "not ready: the lines marked MISSING say what to do. Without Docker, make simulate still runs the first app."
    name_limits
}

# --- names ---------------------------------------------------------------------------------------------------------------------

hosts=/etc/hosts
valid_mark() { [[ $1 =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "mark $1: lower-case letters, digits and - only"; }
profile_of() { printf '/etc/profile.d/flowerbed-%s.sh' "$1"; }
without_block() { sed "/^# BEGIN flowerbed $1\$/,/^# END flowerbed $1\$/d" "$hosts"; }

# Written in place, not renamed: where /etc/hosts is a bind mount, a rename fails.
write_hosts() {
    local mark=$1 address=$2 new
    shift 2
    new=$(without_block "$mark" && { [ $# -eq 0 ] || printf '# BEGIN flowerbed %s\n%s %s\n# END flowerbed %s\n' "$mark" "$address" "$*" "$mark"; })
    if [ "$new" = "$(cat "$hosts")" ]; then return 1; fi
    printf '%s\n' "$new" >"$hosts"
}

no_proxy_lines() {
    local list
    list=$(printf ',%s' "$@")
    # shellcheck disable=SC2016  # for the shell that reads the profile
    printf 'export NO_PROXY="${NO_PROXY:-${no_proxy:-}}%s"\nexport no_proxy="$NO_PROXY"\n' "$list"
}

behind_proxy() { [ -n "${HTTPS_PROXY:-}${https_proxy:-}${HTTP_PROXY:-}${http_proxy:-}${ALL_PROXY:-}${all_proxy:-}" ]; }

names() {
    local mark=flowerbed address=127.0.0.1 profile
    while [ $# -gt 0 ]; do
        case $1 in
            --mark) mark=${2:?--mark needs a value}; shift 2 ;;
            --address) address=${2:?--address needs a value}; shift 2 ;;
            *) break ;;
        esac
    done
    [ $# -gt 0 ] || die "names: give at least one name"
    valid_mark "$mark"
    if ! is_root; then
        print_names "$address" "$@"
        return
    fi
    if write_hosts "$mark" "$address" "$@"; then say "$hosts: $* → $address (block flowerbed $mark)"; else say "$hosts: unchanged"; fi
    behind_proxy || return 0
    profile=$(profile_of "$mark")
    mkdir -p "$(dirname "$profile")"
    no_proxy_lines "$@" >"$profile"
    say "NO_PROXY: new shells read $profile; in this one: . $profile"
}

print_names() {
    local address=$1
    shift
    say "not root, so nothing is written. For $hosts:"
    printf '%s %s\n' "$address" "$*"
    behind_proxy || return 0
    say "and, because a proxy is set, for your shell's profile:"
    no_proxy_lines "$@"
}

forget_names() {
    local mark=${1:-flowerbed} profile
    valid_mark "$mark"
    is_root || die "only root may change $hosts: remove the block flowerbed $mark there, and $(profile_of "$mark")"
    if write_hosts "$mark" ""; then say "$hosts: block flowerbed $mark removed"; else say "$hosts: unchanged"; fi
    profile=$(profile_of "$mark")
    [ ! -e "$profile" ] || { rm "$profile" && say "$profile removed"; }
}

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
