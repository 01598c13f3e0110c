#!/usr/bin/env bash
# Does each gate of ci-cluster-conformance.sh fail when what it guards is broken? A fault is planted in a copy of the tree, and the
# gate that it is for must fail, with a reason that has to do with it. Every gate must have a fault.
#
#   conformance-selftest.sh [GATE...]   all faults, or those of the gates that are named
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d "${TMPDIR:-/tmp}/stacyvm-selftest-XXXXXX")
server="${TMPDIR:-/tmp}/stacyvm-postgres-selftest-$$"
trap 'scripts/postgres.sh stop "$server"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# One line for each fault: the gate | words of the reason | the file | a sed script that breaks it | what is broken.
faults=$(cat <<'FAULTS'
store-sqlite|TestSQLiteContract|internal/store/leases.go|s/epoch = l.epoch + 1/epoch = l.epoch/|an epoch comes twice
store-sqlite|no test TestSQLiteContract ran|internal/store/contract_test.go|s/TestSQLiteContract/TestOtherContract/|the test has another name
store-sqlite|a test was skipped|internal/store/contract_test.go|s/func TestSQLiteContract.*/func TestSQLiteContract(t *testing.T) { t.Run("part", func(t *testing.T) { t.Skip() }) }/|the test skips what it is about
worker-auth|TestMatrix|internal/auth/worker_verifier.go|s/slices.Contains(v.config.Revoked, c.TokenID)/false \&\& &/|revoked tokens are accepted
worker-auth|TestOwnTokenOverridesShared|internal/auth/worker_verifier.go|s/case !has \&\& shared:/case shared:/|the shared token is good for a worker with its own
worker-rpc-mtls|internal/worker/remote|internal/worker/remote/scope.go|s/return identity.Allow(scope)$/_ = scope; return nil/|methods do not look at scopes
worker-rpc-mtls|internal/pki|internal/pki/tls.go|s/tls.RequireAndVerifyClientCert/tls.RequestClientCert/|a worker answers callers without a certificate
config-lint|cluster-postgres.yaml|docs/examples/cluster-postgres.yaml|s/admin_fallback_enabled: false/admin_fallback_enabled: true/|an example is not fit for production
config-lint|no warning|internal/config/lint_worker.go|s/shared worker token still configured with signed worker tokens/fine/|a warning is gone
worker-identity-report|it holds a credential|scripts/worker-identity-report.sh|s/^exit .wrong/cat "$dir"\/key.good.token\n&/|the report shows a token
worker-identity-report|WRONG|internal/auth/worker_claims.go|s/case c.ExpiresAt <= at:/case at < 0:/|tokens do not end
store-postgres|TestPostgresContract|internal/store/leases.go|s/generation = generation + 1, expires_us = .4$/expires_us = $4/|a release leaves the generation
lease-race|races|internal/store/leases.go|s/WHERE l.holder_id IS NULL OR l.expires_us/WHERE 1 = 1 OR l.expires_us/|everybody may take a lease
migration-rehearsal|two processes|internal/store/migrations/0003_events.sql|s/BIGINT/BIGINT UNSIGNED/|a migration is not for PostgreSQL
reconcile|TestPartition|internal/worker/member/member.go|s/StopAfter = 25 \* time.Second/StopAfter = 45 * time.Second/|a cut-off worker stops too late
reconcile|TestDecide|internal/reconcile/decide.go|s/return resend/return kill/|an unfinished create is killed
placement|TestPick|internal/schedule/eligible.go|s/stacyvm.WorkerStaleAfter/1000 * &/|stale workers get sandboxes
smoke-sqlite|smoke: |internal/workerd/offer.go|s/RPCURL: w.rpcURL/RPCURL: ""/|a worker does not say where it is
smoke-postgres|smoke: |internal/store/open.go|s/case "postgres", /case /|PostgreSQL is not known
smoke-mtls|smoke: |internal/workerd/listen.go|s/scheme = "https"/scheme = "http"/|a worker announces plain text
smoke-gvisor|smoke: python|internal/node/engines.go|s/return OpenGVisor(p) /return mock.Open(mock.Config{Dir: filepath.Join(p.Engines, gvisor.Name)}) /|the engine isolates nothing
FAULTS
)

# together lists what one fault has to change beside its file.
together() { # scratch what
	[ "$2" != "the engine isolates nothing" ] || break_file "$1" internal/engine/mock/mock.go 's/const Name = "mock"/const Name = "gvisor"/'
}

break_file() { # scratch file sed-script
	cp -p "$1/$2" "$work/before"
	sed -i -e "$3" "$1/$2" # a new file: the others of the copy are links
	if cmp -s "$work/before" "$1/$2"; then
		echo "FAIL $gate: the fault does not change $2: it is from another time"
		exit 1
	fi
}

uncovered=$(comm -23 <(scripts/ci-cluster-conformance.sh --list | sort) <(cut -d'|' -f1 <<<"$faults" | sort -u))
[ -z "$uncovered" ] || { echo "FAIL: no fault is planted for:" $uncovered; exit 1; }

make -s build
mkdir "$work/tree"
git ls-files -co --exclude-standard -z | while IFS= read -r -d '' path; do [ ! -e "$path" ] || printf '%s\0' "$path"; done |
	tar --null -T - -c internal/bundle/files bin/parts | tar -x -C "$work/tree"
if [ -z "${STACYVM_POSTGRES_TEST_DSN:-}" ]; then
	STACYVM_POSTGRES_TEST_DSN=$(scripts/postgres.sh start "$server")
	export STACYVM_POSTGRES_TEST_DSN
fi
unset STACYVM_BIN

status=0
while IFS='|' read -r gate reason file script what; do
	if [ $# -gt 0 ] && [[ " $* " != *" $gate "* ]]; then continue; fi
	rm -rf "$work/scratch" && cp -al "$work/tree" "$work/scratch"
	break_file "$work/scratch" "$file" "$script"
	together "$work/scratch" "$what"
	if "$work/scratch/scripts/ci-cluster-conformance.sh" --only "$gate" >"$work/said" 2>"$work/log" </dev/null; then
		echo "FAIL $gate: passes although $what" && status=1
	elif [ "$(grep -c . "$work/said")" = 1 ] && grep -q "^FAIL $gate: .*$reason" "$work/said"; then
		echo "PASS $gate fails when $what"
	else
		echo "FAIL $gate: when $what, it says: $(cat "$work/said")" && status=1
		tail -n 20 "$work/log" >&2
	fi
done <<<"$faults"
exit $status
