#!/usr/bin/env bash
# Times the built product, in turns with its neighbours: the control plane on both databases, then gVisor. Docker is compared when a daemon
# answers. Options are those of test/bench; with -before BINARY an earlier build takes turns, too; -profile DIR keeps a profile of each row
# instead of figures. -smoke and -profile leave the store's own figures out.
set -euo pipefail
cd "$(dirname "$0")/.."
export STACYVM_BIN="${STACYVM_BIN:-$PWD/bin/stacyvm}"

server="${TMPDIR:-/tmp}/stacyvm-postgres-bench-$$"
trap 'scripts/postgres.sh stop "$server"; scripts/postgres.sh stop "$server-before"' EXIT
if dsn=$(scripts/postgres.sh start "$server"); then # with fsync, which is PostgreSQL's default
	export STACYVM_BENCH_POSTGRES_DSN="$dsn" STACYVM_POSTGRES_TEST_DSN="$dsn"
	case " $* " in *" -before "* | *" -before="*) STACYVM_BENCH_POSTGRES_DSN_BEFORE=$(scripts/postgres.sh start "$server-before") && export STACYVM_BENCH_POSTGRES_DSN_BEFORE ;; esac
fi

case " $* " in
*" -smoke "*) ;;
*" -profile "* | *" -profile="*)
	CGO_ENABLED=0 go build -tags pprof -o bin/parts/stacyvm-pprof ./cmd/stacyvm
	export STACYVM_BIN="$PWD/bin/parts/stacyvm-pprof"
	;;
*)
	echo "the store (load $(cut -d ' ' -f 1 /proc/loadavg))"
	go test -run '^$' -bench 'Page|Renew|Events' -benchtime 500x ./internal/store | awk '/^Benchmark/ { $2 = ""; print "  " $0 }'
	echo "placement of 10,000 creates on 1,000 workers by two control planes; heartbeats and renewals of 1,000 workers with 50 sandboxes each"
	go test -run '^$' -bench 'Placement|Membership' -benchtime 1x ./internal/control | awk '/^Benchmark/ { $2 = ""; print "  " $0 }'
	case " $* " in
	*" -plane "*) ;;
	*) # what a command costs by gVisor's own call
		go test -c -tags bench -o bin/parts/execute.test ./cmd/stacyvm-sentry
		export STACYVM_BENCH_EXECUTE="$PWD/bin/parts/execute.test"
		;;
	esac
	;;
esac
go run ./test/bench "$@"
