#!/usr/bin/env bash
# Installs what the tests need from Debian's packages when it is root; otherwise says what is missing.
set -euo pipefail

declare -A package_of=([gcc]=gcc [/usr/include/stdio.h]=libc6-dev [/usr/bin/python3]=python3 [git]=git [setpriv]=util-linux)
missing=()
for need in "${!package_of[@]}"; do
	command -v "$need" >/dev/null 2>&1 || [ -e "$need" ] || missing+=("${package_of[$need]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]}. Install them with your package manager; tests that need them are skipped or fail." >&2
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
