#!/usr/bin/env bash
# A cluster of real processes in network namespaces, under faults: see docs/cluster-conformance.md. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

server="${TMPDIR:-/tmp}/stacyvm-postgres-$$"
trap 'scripts/postgres.sh stop "$server"' EXIT
if [ -z "${STACYVM_POSTGRES_TEST_DSN:-}" ]; then
	STACYVM_POSTGRES_TEST_DSN=$(scripts/postgres.sh start "$server")
	export STACYVM_POSTGRES_TEST_DSN
fi
export STACYVM_TEST_REQUIRE=all STACYVM_BIN="$PWD/bin/stacyvm"
scripts/go-test.sh -count=1 -timeout 60m -v -tags cluster -run "${TEST_RUN:-Cluster}" ./test/system
