# Gates that are tests of the product's packages. Sourced by ci-cluster-conformance.sh.

# passes runs tests of a package by name and demands a PASS of each: a test that was renamed, skipped or not found is a failure.
# One part of a test is named alone, as TEST/PART.
passes() { # package test...
	local package=$1 name pattern
	shift
	pattern=$(IFS='|' && echo "^($*)\$")
	if [[ $1 == */* ]]; then pattern="^${1//\//\$/^}\$"; fi
	scripts/go-test.sh -count=1 -timeout 10m -v -run "$pattern" "$package" >"$work/gate/test" 2>&1 || {
		grep -vE '^ *(=== |--- PASS)' "$work/gate/test"
		name=$(grep -oE '^ *--- FAIL: [^ ]+' "$work/gate/test" | sed 's/.*: //' | head -n 4 | paste -sd ' ')
		why "$package: ${name:-it does not build or run}"
		return 1
	}
	for name in "$@"; do
		grep -qE -- "^ *--- PASS: $name " "$work/gate/test" || { why "$package: no test $name ran"; return 1; }
	done
	if grep -q '^ *--- SKIP' "$work/gate/test"; then why "$package: a test was skipped"; return 1; fi
}

# 1. Everything that a store promises, on SQLite.
gate_store_sqlite() { passes ./internal/store TestSQLiteContract; }

# 2. Who a worker is: own, shared and signed tokens, certificates, audiences, revocation, rotation, scopes.
gate_worker_auth() {
	passes ./internal/auth TestOwnTokenOverridesShared TestMatrix TestForgeries TestScopes TestCertificates TestKeyFileRotates TestJoinOnce &&
		passes ./internal/api TestWorkerIdentityMatrix TestWorkerRoutesWithoutCredentials TestWorkerCredentialsOpenNothingElse
}

# 3. Calls to a worker over mTLS with generated certificates, with signed tokens, each method by its scope.
gate_worker_rpc_mtls() {
	passes ./internal/pki TestHandshakes TestServerKnowsTheCaller TestRotationWithoutRestart &&
		passes ./internal/worker/remote TestSuite TestIdentityMatrix TestScopeTable TestUnknownPaths TestWrongCertificates TestGate TestConfirm TestNoSignOfLife TestSlowIsNotSilent
}

# 6. One holder under concurrent acquire, renewal, expiry and takeover, on both databases; a stopped holder writes nothing.
gate_lease_race() {
	passes ./internal/store TestPostgresContract/lease/races &&
		passes ./internal/store TestSQLiteContract/lease/races &&
		passes ./internal/store TestStoppedHolderWritesNothing TestNoTakeoverAfterAClockJump
}

# 6. Everything that a store promises, on PostgreSQL.
gate_store_postgres() { passes ./internal/store TestPostgresContract TestPostgresProcessesTellEachOther; }

# Owners that are online, stale, draining, offline and missing; a worker that was cut off stops before anybody takes over.
gate_reconcile() {
	passes ./internal/reconcile TestDecide TestOwners TestDutiesHaveOneHolder TestNotOursAnyMore TestUnreachableOnce TestEveryEndIsTold &&
		passes ./internal/worker/member TestPartition TestShownWhenItActs TestSlowAnswers TestHandover TestAnotherProcess
}

# Where sandboxes go: online, fresh workers that can be called, with room.
gate_placement() { passes ./internal/schedule TestPick TestPickIsRight TestNeverBeyondCapacity TestBalance; }
