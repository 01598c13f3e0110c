#!/usr/bin/env bash
# go test with the race detector, for everything but SQLite's own code. That is C translated to Go: the detector looks at each of its
# memory accesses and makes it six times slower, and its inside is not ours to test. No other package may be added: what uses
# atomics or generic code of the standard library without the detector makes it report races that are none.
set -euo pipefail
exec go test -race -gcflags=modernc.org/sqlite/lib=-race=false "$@"
