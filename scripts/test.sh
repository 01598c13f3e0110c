#!/usr/bin/env bash
# Runs every test. What was skipped is listed at the end; in CI (CI is set) a test that cannot run fails instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${CI:-}" ]; then export STACYVM_TEST_REQUIRE=all; fi
export STACYVM_BIN="$PWD/bin/stacyvm"

work=$(mktemp -d)
server="${TMPDIR:-/tmp}/stacyvm-postgres-$$"
trap 'scripts/postgres.sh stop "$server"; rm -rf "$work"' EXIT
export STACYVM_TEST_SKIPPED="$work/skipped"
scripts/host-state.sh >"$work/before"

# The store's tests run on both databases; without a server those of PostgreSQL are skipped, or fail in CI.
if [ -z "${STACYVM_POSTGRES_TEST_DSN:-}" ] && dsn=$(scripts/postgres.sh start "$server"); then
	export STACYVM_POSTGRES_TEST_DSN="$dsn"
fi

# The launcher links gVisor, whose packages take minutes to build with the race detector and are not ours to test: it is
# exercised as a real process by the engine's tests, and compiled and vetted here.
packages=$(go list ./... | grep -v -e "/cmd/stacyvm-sentry$" -e /test/)
status=0
CGO_ENABLED=0 go vet -trimpath ./... || status=$? # with the flags of the build, so that gVisor is not compiled twice
# shellcheck disable=SC2086 # lists of words
scripts/go-test.sh -timeout 20m -p "${TEST_PARALLEL:-2}" ${TEST_FLAGS:-} $packages || status=$?
# One after the other and alone: they load the machine and measure what a neighbour notices.
# shellcheck disable=SC2086
scripts/go-test.sh -timeout 25m -p 1 ${TEST_FLAGS:-} ./test/... || status=$?

scripts/postgres.sh stop "$server"
scripts/host-state.sh >"$work/after"
if ! diff "$work/before" "$work/after" >"$work/left"; then
	echo "FAIL: the tests left something on this machine (< before, > after):"
	cat "$work/left"
	status=1
fi
if [ -s "$STACYVM_TEST_SKIPPED" ]; then
	echo "skipped:"
	sort -u "$STACYVM_TEST_SKIPPED"
fi
exit "$status"
