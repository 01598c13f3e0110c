#!/usr/bin/env bash
# Installs what the tests need from Debian's packages when it is root; otherwise says what is missing.
set -euo pipefail

# The race detector needs a C compiler; the demo, the system tests and the acceptance tests run Python in sandboxes;
# the image tests import what these programs make, and run busybox in an image; the store's tests start PostgreSQL;
# the cluster's tests make network namespaces, and its gates speak HTTP and SQL from the shell.
declare -A package_of=([gcc]=gcc [/usr/include/stdio.h]=libc6-dev [/usr/bin/python3]=python3 [bzip2]=bzip2 [tar]=tar
	[/usr/sbin/pgbouncer]=pgbouncer [setpriv]=util-linux [ip]=iproute2 [curl]=curl [jq]=jq [openssl]=openssl [psql]=postgresql-client)
missing=()
for need in "${!package_of[@]}"; do
	command -v "$need" >/dev/null 2>&1 || [ -e "$need" ] || missing+=("${package_of[$need]}")
done
# Debian's busybox that is not static does not run in an image.
if ! busybox=$(command -v busybox) || ldd "$busybox" >/dev/null 2>&1; then missing+=(busybox-static); fi
if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ! command -v initdb >/dev/null; then missing+=(postgresql); fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]}. Install them with your package manager; tests that need them are skipped, or fail in CI." >&2
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The tests start their own servers: packages start none, and make no database that anybody would have to look after.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
clusters=/etc/postgresql-common/createcluster.conf
if [[ " ${missing[*]} " == *" postgresql "* && ! -e $clusters ]]; then
	mkdir -p "${clusters%/*}"
	echo "create_main_cluster = false" >$clusters
fi
apt-get -q -o DPkg::Lock::Timeout=300 update
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
