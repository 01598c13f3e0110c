#!/usr/bin/env bash
# Runs every test. Skipped suites are listed at the end; in CI (CI is set) a suite that cannot run fails instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${CI:-}" ]; then export STACYVM_TEST_REQUIRE=all; fi
export STACYVM_BIN="$PWD/bin/stacyvm"

log=$(mktemp)
before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$log" "$before" "$after"' EXIT
scripts/host-state.sh >"$before"

# The launcher links gVisor, whose packages take minutes to build with the race detector and are not ours to test: it is
# exercised as a real process by the engine's tests, and compiled and vetted here.
packages=$(go list ./... | grep -v /cmd/stacyvm-sentry)
go vet ./...
status=0
# shellcheck disable=SC2086
go test -race -timeout 20m -p "${TEST_PARALLEL:-2}" ${TEST_FLAGS:-} $packages 2>&1 | tee "$log" || status=$?

scripts/host-state.sh >"$after"
if ! diff "$before" "$after" >/dev/null; then
	echo "FAIL: the tests left something on this machine (< before, > after):"
	diff "$before" "$after" || true
	status=1
fi
if grep -q -- '--- SKIP' "$log"; then
	echo "skipped (each says why above):"
	grep -- '--- SKIP' "$log" | sort | uniq
fi
exit "$status"
