# Power cut, ten times, beside creates and deletes: SQLite whole, no answered create lost
prepare() {
	# The mock engine makes sandboxes in milliseconds: most of the transactions are its.
	echo STACYVM_PROVIDERS_MOCK_ENABLED=true >/etc/stacyvm/environment
	systemctl restart stacyvm
	ready
}
tell() { echo "$*" >/dev/ttyS0; }
make() { # make PROVIDER: prints the id once the create was answered
	call -X POST "$api/sandboxes" -d "{\"ttl\":\"2h\",\"provider\":\"$1\",\"memory_mb\":64}" | grep -o 'sb-[0-9a-f]*' | head -1
}
churn() { # churn PROVIDER KEEP: every KEEP-th sandbox stays
	local n=0 id
	while :; do
		id=$(make "$1") || continue
		[ -n "$id" ] || continue
		tell "ANSWERED $id"
		n=$((n + 1))
		[ $((n % $2)) != 0 ] || continue
		call -X DELETE "$api/sandboxes/$id" >/dev/null && tell "DESTROYED $id"
	done
}
load() {
	set +e
	ready
	churn mock 6 &
	churn mock 6 &
	churn gvisor 50 &
	wait
}
