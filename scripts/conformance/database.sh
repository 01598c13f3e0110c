# The gate of PostgreSQL's schema as an operator sees it, with the built binary. Sourced by ci-cluster-conformance.sh.

# with_schema gives the server's DSN with one schema.
with_schema() {
	case "$STACYVM_POSTGRES_TEST_DSN" in
	*://*\?*) echo "$STACYVM_POSTGRES_TEST_DSN&search_path=$1" ;;
	*://*) echo "$STACYVM_POSTGRES_TEST_DSN?search_path=$1" ;;
	*) echo "$STACYVM_POSTGRES_TEST_DSN search_path=$1" ;;
	esac
}

# 6. A new schema is rehearsed, made by two processes at once, and rehearsed again; both dialects have the same tables.
gate_migration_rehearsal() {
	local name="conformance_$$_$RANDOM" said="$work/gate/said"
	psql "$STACYVM_POSTGRES_TEST_DSN" -qX -v ON_ERROR_STOP=1 -c "CREATE SCHEMA $name" || { why "no schema can be made on the server"; return 1; }
	rehearse "$name" >"$said" 2>&1
	local status=$?
	psql "$STACYVM_POSTGRES_TEST_DSN" -qX -c "DROP SCHEMA $name CASCADE"
	cat "$said"
	[ $status -eq 0 ] || return $status
	passes ./internal/store TestDialectsHaveOneSchema TestManyProcessesOpenOneNewDatabase TestUpgrade
}

rehearse() { # schema
	local left first second
	export STACYVM_DATABASE_DRIVER=postgres STACYVM_DATABASE_DSN="$(with_schema "$1")" STACYVM_DATA_DIR="$work/gate/data" STACYVM_CONFIG=
	"$STACYVM_BIN" db pg-rehearse || { why "the rehearsal on an empty database fails"; return 1; }
	"$STACYVM_BIN" db migrate --dry-run | tee "$work/gate/steps"
	grep -q '^pending: ' "$work/gate/steps" || { why "nothing is pending on an empty database"; return 1; }
	left=$(tables "$1")
	[ "$left" -eq 0 ] || { why "the rehearsal made $left tables"; return 1; }
	STACYVM_DATA_DIR="$work/gate/one" "$STACYVM_BIN" db migrate >"$work/gate/one.log" 2>&1 & first=$!
	STACYVM_DATA_DIR="$work/gate/two" "$STACYVM_BIN" db migrate >"$work/gate/two.log" 2>&1 & second=$!
	wait $first && wait $second || { cat "$work"/gate/{one,two}.log; why "two processes that migrate at once do not both succeed"; return 1; }
	"$STACYVM_BIN" db pg-rehearse || { why "the rehearsal after the migration fails"; return 1; }
	"$STACYVM_BIN" db migrate --dry-run >"$work/gate/steps" || { why "the steps cannot be listed after the migration"; return 1; }
	if grep '^pending: ' "$work/gate/steps"; then why "steps are pending after the migration"; return 1; fi
	left=$(tables "$1")
	[ "$left" -ge 17 ] || { why "$left tables, not the contract's 16 and ours"; return 1; }
}

tables() { psql "$STACYVM_POSTGRES_TEST_DSN" -qXtA -c "SELECT count(*) FROM information_schema.tables WHERE table_schema = '$1'"; }
