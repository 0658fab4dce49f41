#!/bin/bash
# Starts PostgreSQL: makes the cluster at the first start, then brings roles and databases to what /secrets says, then becomes
# the server. One file /secrets/<role>.password stands for one role that owns one database of its name. Where the image has a file
# databases/<role>.sql, the superuser owns that database and the file says what the role may do in it.
# Not for: other schemas and migrations, which belong to the consumer that owns the database.
set -euo pipefail

config=/etc/postgresql/postgresql.conf
schemas=/etc/postgresql/databases
# While roles are reconciled the server listens here, where no health check looks.
private=/tmp/reconcile

say() { printf '%s\n' "entrypoint: $*" >&2; }
die() { say "$*"; exit 1; }

check_mounts() {
    local file
    for file in /secrets/tls.crt /secrets/tls.key; do
        [ -r "$file" ] || die "$file is missing or not readable for uid $(id -u): run make up, which writes it"
    done
    [ -w "$(dirname "$PGDATA")" ] || die "$(dirname "$PGDATA") is not writable for uid $(id -u): the volume has a foreign owner"
}

# Made beside its place and renamed, so that a start that was killed leaves nothing half made.
ensure_cluster() {
    [ ! -e "$PGDATA/PG_VERSION" ] || return 0
    say "first start: making the cluster"
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --username=postgres --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 \
        --auth-local=peer --auth-host=reject --data-checksums --no-instructions >/dev/null
    sync
    mv "$PGDATA.new" "$PGDATA"
}

stop_private_server() {
    [ ! -d "$private" ] || pg_ctl --silent --pgdata="$PGDATA" --mode=fast stop || true
    rm -rf "$private"
}

sql() { psql --host="$private" --username=postgres --dbname=postgres --no-psqlrc --quiet --tuples-only --no-align "$@"; }

ensure_role() {
    local owner=$1
    [ ! -e "$schemas/$1.sql" ] || owner=postgres
    sql --set=role="$1" --set=owner="$owner" --file=/etc/postgresql/reconcile.sql
    [ ! -e "$schemas/$1.sql" ] || sql --dbname="$1" --file="$schemas/$1.sql"
}

ensure_roles() {
    local file role roles=()
    for file in /secrets/*.password; do
        [ -e "$file" ] || continue
        role=$(basename "$file" .password)
        [[ $role =~ ^[a-z][a-z0-9_]{0,62}$ && $role != postgres && $role != pg_* ]] ||
            die "$file: a role's name is lower-case letters, digits and _, not postgres or pg_*"
        [ -s "$file" ] || die "$file is empty: without a password the role could not log in"
        ensure_role "$role"
        roles+=("$role")
    done
    say "roles: ${roles[*]:-none}"
    retire_other_roles "${roles[@]}"
}

# A role whose password file is gone keeps its data and loses its login.
retire_other_roles() {
    local IFS=,
    sql --set=keep="$*" <<'SQL'
SELECT format('ALTER ROLE %I NOLOGIN', rolname) FROM pg_roles
    WHERE rolcanlogin AND NOT rolsuper AND rolname <> ALL (string_to_array(:'keep', ',')) \gexec
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
SQL
}

reconcile() {
    mkdir -m 0700 "$private"
    trap stop_private_server EXIT
    # A statement that fails would be logged with the password in it.
    pg_ctl --silent --pgdata="$PGDATA" --timeout=600 start --log=/tmp/reconcile.log --options="-c config_file=$config \
        -c listen_addresses='' -c unix_socket_directories=$private -c log_min_error_statement=panic" ||
        { cat /tmp/reconcile.log >&2; die "the server did not start"; }
    ensure_roles
    trap - EXIT
    stop_private_server
    rm -f /tmp/reconcile.log
}

main() {
    # The kernel drops signals that process 1 does not handle, so a stop during the first start would have to wait to be killed.
    trap 'exit 143' TERM INT
    check_mounts
    rm -rf "$private"
    ensure_cluster
    reconcile
    trap - TERM INT
    exec postgres -D "$PGDATA" -c config_file="$config" "$@"
}

main "$@"
