#!/usr/bin/env bash
# The store's tests of what chance decides, on both drivers, many times: lease races, kills of writers, holders that were
# stopped, restarts of the server and a promotion, all under load.
set -euo pipefail
cd "$(dirname "$0")/.."

server="${TMPDIR:-/tmp}/stacyvm-postgres-$$"
trap 'scripts/postgres.sh stop "$server"' EXIT
if [ -z "${STACYVM_POSTGRES_TEST_DSN:-}" ]; then
	STACYVM_POSTGRES_TEST_DSN=$(scripts/postgres.sh start "$server")
	export STACYVM_POSTGRES_TEST_DSN
fi
export STACYVM_TEST_REQUIRE=all STACYVM_TEST_LONG=1
scripts/go-test.sh -count=1 -timeout 60m -v -run 'Contract/lease/races|Kill|StoppedHolder|Restarts|Promotion' ./internal/store ./internal/store/dbtool |
	grep -vE '^(=== |\s+--- PASS: .*/(sandbox|worker|audit))'
