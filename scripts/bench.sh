#!/usr/bin/env bash
# Times the built product. Docker is compared when a daemon answers.
set -euo pipefail
cd "$(dirname "$0")/.."
export STACYVM_BIN="$PWD/bin/stacyvm"
exec go run ./test/bench "$@"
