# shellcheck shell=bash
# Part of host.sh: what this host has, what it lacks and how to get it. Changes nothing.

engine_least=20.10 compose_least=2.20 python_least=3.11

engine_version() { docker version --format '{{.Server.Version}}' 2>/dev/null; }
compose_version() { docker compose version --short 2>/dev/null | sed 's/^v//'; }
buildx_version() { docker buildx version 2>/dev/null | cut -d' ' -f2; }
compose_is_new_enough() {
    local version
    version=$(compose_version) && [ -n "$version" ] && at_least "$version" "$compose_least"
}

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c "import sys; sys.exit(sys.version_info < (${python_least/./, }))" 2>/dev/null; then
            command -v "$name"
            return
        fi
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
        if [ -n "$file" ] && [ -s "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    done
    die "no bundle of trusted certificates found: install ca-certificates, or set SSL_CERT_FILE"
}

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
    if compose_is_new_enough; then
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

# how_to_get WHAT: docker, compose, buildx, python, venv or make.
how_to_get() {
    if ! with_apt; then how_to_get_elsewhere "$1"; return; fi
    if is_root; then echo "$0 ensure installs it"; return; fi
    case $1 in
        docker) echo "as root: $0 ensure, or apt-get install docker.io" ;;
        compose | buildx) echo "$0 ensure unpacks it into ~/.docker/cli-plugins" ;;
        python) echo "as root: $0 ensure, or apt-get install python3 python3-venv (python3.11 where python3 is older)" ;;
        venv) echo "as root: $0 ensure, or apt-get install python3-venv" ;;
        make) echo "as root: $0 ensure, or apt-get install make" ;;
    esac
}

how_to_get_elsewhere() {
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
