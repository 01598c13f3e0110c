#!/usr/bin/env bash
# Installs what the tests need from Debian's packages when it is root; otherwise says what is missing.
set -euo pipefail

# The race detector needs a C compiler; the demo, the system tests and the acceptance tests run Python in sandboxes;
# the image tests import what these programs make, and run busybox in an image.
declare -A package_of=([gcc]=gcc [/usr/include/stdio.h]=libc6-dev [/usr/bin/python3]=python3 [bzip2]=bzip2 [tar]=tar)
missing=()
for need in "${!package_of[@]}"; do
	command -v "$need" >/dev/null 2>&1 || [ -e "$need" ] || missing+=("${package_of[$need]}")
done
# Debian's busybox that is not static does not run in an image.
if ! busybox=$(command -v busybox) || ldd "$busybox" >/dev/null 2>&1; then missing+=(busybox-static); fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]}. Install them with your package manager; tests that need them are skipped, or fail in CI." >&2
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
