#!/bin/sh
# Makes a database cluster in $PGDATA unless there is one. It is made beside its place and moved
# there when complete, so that a start that was broken off begins anew.
set -eu

if [ -s "$PGDATA/PG_VERSION" ]; then
    echo "the database in $PGDATA is complete"
    exit 0
fi

scripts=$(dirname "$0")
sockets=${PGHOST:-/var/run/postgresql}
new=$PGDATA.new
rm -rf "$new"
initdb --pgdata="$new" --username=postgres --encoding=UTF8 --locale=C.UTF-8 --data-checksums \
    --auth-local=peer --auth-host=scram-sha-256 --no-instructions

cat >>"$new/postgresql.conf" <<CONF

# The hospital's settings. A standby restored from the vault inherits them.
listen_addresses = '*'
unix_socket_directories = '$sockets'
shared_buffers = 64MB
max_connections = 100
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
max_wal_size = 512MB
log_timezone = 'UTC'
timezone = 'UTC'
CONF

cat >"$new/pg_hba.conf" <<'HBA'
# TYPE  DATABASE     USER      ADDRESS  METHOD
# The administrator comes through `kubectl exec` only.
local   all          postgres           peer map=administrator
host    all          postgres  all      reject
host    all          all       all      scram-sha-256
host    replication  all       all      scram-sha-256
HBA
# The operating-system user is called differently from image to image.
echo "administrator $(id -un) postgres" >"$new/pg_ident.conf"

# No TCP until the roles are there and have their passwords.
pg_ctl --pgdata="$new" --wait --silent --options="-c listen_addresses=" start
psql --username=postgres --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file="$scripts/roles.sql" postgres
pg_ctl --pgdata="$new" --wait --silent --mode=fast stop

mv "$new" "$PGDATA"
echo "the database in $PGDATA is new"
