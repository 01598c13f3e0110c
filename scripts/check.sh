#!/usr/bin/env bash
# The quick loop: format, vet with every build tag, lint, the unit tests, and the acceptance scripts of the mock engine. It builds no
# gVisor, needs no root and starts no database. What needs these, or much time, is skipped and counted; `make test` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export STACYVM_TEST_SKIPPED="$work/skipped"
unset STACYVM_TEST_REQUIRE STACYVM_TEST_LONG STACYVM_POSTGRES_TEST_DSN

status=0 began=$SECONDS
step() { # NAME COMMAND...
	local name=$1 began=$SECONDS
	shift
	if "$@" >"$work/$name" 2>&1; then
		echo "ok    $name ($((SECONDS - began)) s)"
	else
		echo "FAIL  $name ($((SECONDS - began)) s)"
		grep -v -e '^ok ' -e '^?' "$work/$name" || true
		status=1
	fi
}

format() {
	local wrong
	wrong=$(git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 gofmt -l)
	[ -z "$wrong" ] || { echo "$wrong"; return 1; }
}

# The launcher links gVisor: whoever changes it runs `make test`.
mapfile -t packages < <(go list ./... | grep -v "/cmd/stacyvm-sentry$")
mapfile -t units < <(printf '%s\n' "${packages[@]}" | grep -v -e /test/ -e /internal/archtest)

# A binary of this tree, with whichever bundle there is: these scripts make no sandbox that needs one.
acceptance() {
	go build -o "$work/stacyvm" ./cmd/stacyvm &&
		STACYVM_BIN="$work/stacyvm" go test -count=1 -short -run TestMockScripts ./test/acceptance
}

step format format
step vet go vet "${packages[@]}"
step vet-cluster go vet -tags cluster ./test/system
step lint go tool -modfile=tools.mod golangci-lint run "${packages[@]/#*stacyvm\/stacyvm/.}"
step test scripts/go-test.sh -short -timeout 10m "${units[@]}"
step imports go test -count=1 ./internal/archtest # it asks the go command, whose answers the test cache does not know
step acceptance acceptance

echo "$((SECONDS - began)) s"
if [ -s "$STACYVM_TEST_SKIPPED" ]; then
	echo "skipped, because it needs gVisor, root, a database or patience: $(sort -u "$STACYVM_TEST_SKIPPED" | wc -l) tests. \`make test\` runs them."
fi
exit "$status"
