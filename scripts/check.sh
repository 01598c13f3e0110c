#!/usr/bin/env bash
# The quick loop: format, vet with every build tag, lint, the unit tests, and the acceptance scripts of the mock engine. It builds no
# gVisor, needs no root and starts no database. What needs these, or much time, is skipped and counted; `make test` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Go keeps a package's result while the environment that its tests read stays the same.
unset STACYVM_TEST_REQUIRE STACYVM_TEST_LONG STACYVM_TEST_SKIPPED STACYVM_POSTGRES_TEST_DSN

status=0 began=$SECONDS
step() { # NAME COMMAND...
	local name=$1 began=$SECONDS
	shift
	if "$@" >"$work/$name" 2>&1; then
		echo "ok    $name ($((SECONDS - began)) s)"
		sed -n '/packages from the cache/,$s/^/      /p' "$work/$name"
	else
		echo "FAIL  $name ($((SECONDS - began)) s)"
		grep -v -e '^ok ' -e '^?' "$work/$name" || true
		status=1
	fi
}

format() {
	local wrong
	wrong=$(git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 gofmt -l) || return
	[ -z "$wrong" ] || { echo "$wrong"; return 1; }
}

# The launcher links gVisor: whoever changes it runs `make test`.
mapfile -t packages < <(go list ./... | grep -v "/cmd/stacyvm-sentry$")
mapfile -t units < <(printf '%s\n' "${packages[@]}" | grep -v -e /test/ -e /internal/archtest)

tests() { # NAME GO-TEST...
	local name=$1
	shift
	"$@" | go run ./scripts/testreport -skipped "$work/$name.skipped"
}

# A binary of this tree, with whichever bundle there is: these scripts make no sandbox that needs one. Its place and its time stay the same
# while its content does, so that Go keeps the result.
acceptance() {
	go build -buildvcs=false -o "$work/stacyvm" ./cmd/stacyvm || return
	cmp -s "$work/stacyvm" bin/check/stacyvm || { mkdir -p bin/check && mv "$work/stacyvm" bin/check/stacyvm; } || return
	STACYVM_BIN="$PWD/bin/check/stacyvm" tests acceptance go test -json -short -run TestMockScripts ./test/acceptance
}

step format format
step vet go vet "${packages[@]}"
step vet-cluster go vet -tags cluster ./test/system
step vet-pprof go vet -tags pprof ./cmd/stacyvm
step lint go tool -modfile=tools.mod golangci-lint run "${packages[@]/#*stacyvm\/stacyvm/.}"
step test tests test scripts/go-test.sh -json -short -timeout 10m "${units[@]}"
step imports go test -count=1 ./internal/archtest # it asks the go command, whose answers the test cache does not know
step acceptance acceptance

echo "$((SECONDS - began)) s"
skipped=$(cat "$work"/*.skipped | sort -u | wc -l)
[ "$skipped" = 0 ] || echo "skipped, because it needs gVisor, root, a database or patience: $skipped tests. \`make test\` runs them."
exit "$status"
