# shellcheck shell=bash
# Part of host.sh: the federation's names on this host, in /etc/hosts and past a proxy.

hosts=/etc/hosts
valid_mark() { [[ $1 =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "mark $1: lower-case letters, digits and - only"; }
profile_of() { printf '/etc/profile.d/flowerbed-%s.sh' "$1"; }
without_block() { sed "/^# BEGIN flowerbed $1\$/,/^# END flowerbed $1\$/d" "$hosts"; }
block_of() { sed -n "/^# BEGIN flowerbed $1\$/,/^# END flowerbed $1\$/p" "$hosts"; }

# write_hosts MARK [BLOCK]: false if nothing had to change. Written in place, not renamed: where /etc/hosts is a bind mount, a
# rename fails.
write_hosts() {
    local mark=$1 block=${2:-} new
    if [ "$(block_of "$mark")" = "$block" ]; then return 1; fi
    new=$(without_block "$mark")
    printf '%s\n' "$new" ${block:+"$block"} >"$hosts"
}

no_proxy_lines() {
    local list
    list=$(printf '%s,' "$@")
    # shellcheck disable=SC2016  # for the shell that reads the profile
    printf 'export NO_PROXY="%s${NO_PROXY:-${no_proxy:-}}"\nexport no_proxy="$NO_PROXY"\n' "$list"
}

behind_proxy() { [ -n "${HTTPS_PROXY:-}${https_proxy:-}${HTTP_PROXY:-}${http_proxy:-}${ALL_PROXY:-}${all_proxy:-}" ]; }

names() {
    local mark=flowerbed address=127.0.0.1 block profile
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
    printf -v block '# BEGIN flowerbed %s\n%s %s\n# END flowerbed %s' "$mark" "$address" "$*" "$mark"
    if write_hosts "$mark" "$block"; then say "$hosts: $* → $address (block flowerbed $mark)"; else say "$hosts: unchanged"; fi
    # Whether a proxy is set or not: sudo hides it, and without one the variable does nothing.
    profile=$(profile_of "$mark")
    if [ ! -d "$(dirname "$profile")" ] || [ "$(cat "$profile" 2>/dev/null)" = "$(no_proxy_lines "$@")" ]; then return 0; fi
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
    if write_hosts "$mark"; then say "$hosts: block flowerbed $mark removed"; else say "$hosts: unchanged"; fi
    profile=$(profile_of "$mark")
    [ ! -e "$profile" ] || { rm "$profile" && say "$profile removed"; }
}
