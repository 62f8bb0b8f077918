#!/bin/sh
# Runs PostgreSQL. Kubernetes sends SIGTERM, on which PostgreSQL would wait for its clients to
# leave; SIGINT makes it close their sessions and stop cleanly.
set -eu
postgres -D "$PGDATA" &
server=$!
trap 'kill -INT "$server"' TERM INT
# `wait` returns early when the signal comes, and then has to wait again for the end.
wait "$server" || wait "$server"
