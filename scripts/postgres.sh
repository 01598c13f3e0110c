#!/usr/bin/env bash
# A throwaway PostgreSQL server for tests and developers. It listens on a Unix socket in its own directory alone, which
# nobody else can enter, so it needs no port and no password.
#
#   postgres.sh start DIR        make a server in DIR, which must not exist, start it and print its DSN
#   postgres.sh restart DIR      kill it as a power cut of the process would, and start it again
#   postgres.sh standby DIR NEW  make and start a standby of DIR's server in NEW; print its DSN
#   postgres.sh promote DIR      make a standby the primary
#   postgres.sh halt DIR         kill it, keep DIR
#   postgres.sh stop DIR         kill it and remove DIR, which start or standby must have made; nothing to stop is no error
#
# As root it runs as the user postgres. STACYVM_POSTGRES_CONF adds lines to postgresql.conf.
set -euo pipefail

bin() {
	local found
	found=$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
	if [ -z "$found" ]; then
		echo "PostgreSQL's server is not installed: install the package postgresql." >&2
		exit 1
	fi
	dirname "$(readlink -f "$found")"
}

# as runs a command as the server's user, away from our directory, which that user may not enter.
as() {
	if [ "$(id -u)" -eq 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups env -C "$dir" HOME="$dir" LC_ALL=C "$@"
	else
		env -C "$dir" HOME="$dir" LC_ALL=C "$@"
	fi
}

marker=.stacyvm-throwaway-postgres # says that a directory was made here and may be removed whole

make_dir() { # a directory of the server's user
	mkdir "$1"
	chmod 700 "$1"
	touch "$1/$marker"
	if [ "$(id -u)" -eq 0 ]; then chown postgres: "$1"; fi
}

ctl() { as "$(bin)/pg_ctl" -s -t 60 -D "$dir/data" -l "$dir/log" -w "$@" >&2 || { tail -n 20 "$dir/log" >&2; return 1; }; }

dsn() { echo "host=$dir port=5432 user=postgres dbname=postgres sslmode=disable"; }

halt() { if [ -e "$dir/data/postmaster.pid" ]; then as "$(bin)/pg_ctl" -s -D "$dir/data" -m immediate -w stop >&2 || true; fi; }

[ $# -ge 2 ] || { grep '^#  ' "$0" >&2; exit 2; }
dir=$(realpath -m "$2")

case "$1" in
start)
	make_dir "$dir"
	as "$(bin)/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C -N --no-instructions >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
	cat >>"$dir/data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$dir'
		port = 5432
		wal_log_hints = on
		max_connections = 200
		${STACYVM_POSTGRES_CONF:-}
	CONF
	ctl start
	dsn
	;;
restart)
	halt
	ctl start
	;;
standby)
	from=$dir
	dir=$(realpath -m "$3")
	make_dir "$dir"
	as "$(bin)/pg_basebackup" -h "$from" -p 5432 -U postgres -D "$dir/data" -R -X stream -c fast
	echo "unix_socket_directories = '$dir'" | as tee -a "$dir/data/postgresql.conf" >/dev/null
	ctl start
	dsn
	;;
promote)
	ctl promote
	;;
halt)
	halt
	;;
stop)
	[ -e "$dir" ] || exit 0
	if [ ! -f "$dir/$marker" ]; then
		echo "$dir was not made by \`postgres.sh start\`: it is left alone." >&2
		exit 1
	fi
	halt
	rm -rf "$dir"
	;;
*)
	grep '^#  ' "$0" >&2
	exit 2
	;;
esac
