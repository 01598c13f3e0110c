#!/usr/bin/env bash
# What a cluster is promised, gate by gate: `PASS name` or `FAIL name: why` for each, exit code 1 when one failed. A gate runs
# tests of the product or its built binary. docs/cluster-conformance.md says what each stands for.
#
#   ci-cluster-conformance.sh              every gate
#   ci-cluster-conformance.sh --only GATE  these gates alone (repeat)
#   ci-cluster-conformance.sh --list       their names
#
# STACYVM_POSTGRES_TEST_DSN names a PostgreSQL server whose user may make databases; otherwise one is started for this run.
# STACYVM_BIN names a binary; otherwise it is built. STACYVM_CONFORMANCE_REPORT is where the worker identity report goes.
set -uo pipefail
cd "$(dirname "$0")/.."
export STACYVM_TEST_REQUIRE=all

gates=(store-sqlite worker-auth worker-rpc-mtls config-lint worker-identity-report store-postgres lease-race migration-rehearsal
	reconcile placement smoke-sqlite smoke-postgres smoke-mtls smoke-gvisor)

for part in tests configurations database smoke; do
	# shellcheck source=/dev/null
	. "scripts/conformance/$part.sh"
done

only=()
while [ $# -gt 0 ]; do
	case "$1" in
	--list) printf '%s\n' "${gates[@]}" && exit ;;
	--only)
		[[ " ${gates[*]} " == *" ${2:-} "* ]] || { echo "there is no gate ${2:-}" >&2; exit 2; }
		only+=("$2") && shift 2
		;;
	*) grep '^#  ' "$0" >&2 && exit 2 ;;
	esac
done
[ ${#only[@]} -gt 0 ] || only=("${gates[@]}")

work=$(mktemp -d "${TMPDIR:-/tmp}/stacyvm-conformance-XXXXXX")
server="${TMPDIR:-/tmp}/stacyvm-postgres-conformance-$$"
trap 'scripts/postgres.sh stop "$server"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# why ends a gate that failed with one line about the reason; what else it said is shown below it.
why() { echo "$*" >"$work/why"; return 1; }

prepare() {
	scripts/test-setup.sh || return
	if [ -z "${STACYVM_BIN:-}" ]; then
		make -s build || return
		STACYVM_BIN="$PWD/bin/stacyvm"
	fi
	export STACYVM_BIN
	if [ -z "${STACYVM_POSTGRES_TEST_DSN:-}" ]; then
		STACYVM_POSTGRES_TEST_DSN=$(scripts/postgres.sh start "$server") || return
	fi
	export STACYVM_POSTGRES_TEST_DSN
}
prepare >"$work/log" 2>&1 || { cat "$work/log" >&2; echo "FAIL prepare: see above"; exit 1; }

status=0
for gate in "${only[@]}"; do
	: >"$work/why"
	rm -rf "$work/gate" && mkdir "$work/gate"
	if ("gate_${gate//-/_}") >"$work/log" 2>&1 </dev/null; then
		echo "PASS $gate"
	else
		reason=$(cat "$work/why")
		tail -n 60 "$work/log" | sed 's/^/    /' >&2
		echo "FAIL $gate: ${reason:-see its output}"
		status=1
	fi
done
exit "$status"
