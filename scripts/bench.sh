#!/usr/bin/env bash
# Times the built product: the control plane and the store on both databases, then gVisor. Docker is compared when a daemon
# answers. With -plane: the control plane and the store alone.
set -euo pipefail
cd "$(dirname "$0")/.."
export STACYVM_BIN="$PWD/bin/stacyvm"

server="${TMPDIR:-/tmp}/stacyvm-postgres-bench-$$"
trap 'scripts/postgres.sh stop "$server"' EXIT
if dsn=$(scripts/postgres.sh start "$server"); then # with fsync, which is PostgreSQL's default
	export STACYVM_BENCH_POSTGRES_DSN="$dsn" STACYVM_POSTGRES_TEST_DSN="$dsn"
fi

echo "the store (load $(cut -d ' ' -f 1 /proc/loadavg)); aims: Renew (1,000 leases) 10 ms, Page (100 of 10,000) 3 ms per operation"
go test -run '^$' -bench 'Page|Renew|Events' -benchtime 500x ./internal/store | awk '/^Benchmark/ { $2 = ""; print "  " $0 }'
echo "placement of 10,000 creates on 1,000 workers by two control planes; aims: 1,000 creates/s on PostgreSQL, worst imbalance 10 %"
echo "heartbeats and renewals of 1,000 workers with 50 sandboxes each, the store's part; aim: under 10 % of one core"
go test -run '^$' -bench 'Placement|Membership' -benchtime 1x ./internal/control | awk '/^Benchmark/ { $2 = ""; print "  " $0 }'
go run ./test/bench "$@"
