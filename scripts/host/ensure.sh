# shellcheck shell=bash
# Part of host.sh: installs and starts what is missing on Debian and Ubuntu.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
dockerd_log=/var/log/flowerbed-dockerd.log

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([^(]*\)$/\1/p'; }
offered() { [ -n "$(candidate "$1")" ]; }

# The packages that this host lacks, one a line. An engine that is there, whoever made it, is left alone.
lacking_packages() {
    local package
    for package in ca-certificates iptables nftables mmdebstrap debian-archive-keyring make; do
        installed "$package" || echo "$package"
    done
    have dockerd || engine_version >/dev/null || { echo docker.io; ! offered docker-cli || echo docker-cli; }
    if ! find_python >/dev/null; then
        if at_least "$(candidate python3)" "$python_least"; then
            printf '%s\n' python3 python3-venv
        elif offered python3.11; then
            printf '%s\n' python3.11 python3.11-venv
        fi
    elif ! "$(find_python)" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$(basename "$(readlink -f "$(find_python)")")-venv"
    fi
}

# Debian calls Compose v2 docker-compose since 13; the package of that name in 12 is the retired Python program.
plugin_packages() {
    local compose=docker-compose
    [ "$(os_release ID)" = debian ] || compose=docker-compose-v2
    compose_is_new_enough || ! at_least "$(candidate "$compose")" "$compose_least" || echo "$compose"
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
    compose_is_new_enough || plugins+=(docker-compose)
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
    if check >/dev/null 2>&1; then
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
