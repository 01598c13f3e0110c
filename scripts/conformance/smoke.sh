# Gates with real processes: a control plane, a worker, a sandbox. Sourced by ci-cluster-conformance.sh.

smoke() {
	scripts/ci-remote-worker-smoke.sh "$@" 2>&1 | tee "$work/gate/smoke"
	[ "${PIPESTATUS[0]}" -eq 0 ] || { why "$(grep -m 1 -oE '^smoke: .*' "$work/gate/smoke" || echo 'it ended early')"; return 1; }
}

# on_postgres runs a smoke on a schema of its own.
on_postgres() {
	local name="smoke_$$_$RANDOM" status
	psql "$STACYVM_POSTGRES_TEST_DSN" -qX -v ON_ERROR_STOP=1 -c "CREATE SCHEMA $name" || { why "no schema can be made on the server"; return 1; }
	STACYVM_REMOTE_SMOKE_DATABASE_DSN=$(with_schema "$name") smoke --database postgres "$@"
	status=$?
	psql "$STACYVM_POSTGRES_TEST_DSN" -qX -c "DROP SCHEMA $name CASCADE" 2>/dev/null
	return $status
}

# 7. The remote worker smoke: on SQLite, on PostgreSQL, with mTLS, and with real work in gVisor.
gate_smoke_sqlite() { smoke --database sqlite; }
gate_smoke_postgres() { on_postgres; }
gate_smoke_mtls() { on_postgres --mtls; }
gate_smoke_gvisor() { smoke --database sqlite --mtls --provider gvisor; }
