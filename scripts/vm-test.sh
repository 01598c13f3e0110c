#!/usr/bin/env bash
# Tries the Debian package in a virtual machine with systemd and cgroup v2, and writes docs/vm-test.md. As root, without KVM: half an
# hour and more. Everything is kept in VM_TEST_DIR (bin/vm), the image for the next run. Arguments go to test/vm, such as
# -only '^(10|15|40)' and -keep.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/bin/vm
[ -z "${VM_TEST_DIR:-}" ] || work=$(realpath -m "$VM_TEST_DIR")
test/vm/image.sh "$work/image"

# Two releases. The newer one has another launcher, as one with another gVisor would: bytes behind a program's end change nothing but
# its content hash.
launcher=bin/parts/stacyvm-sentry bundled=internal/bundle/files/stacyvm-sentry.zst
version=$(git describe --tags --always --dirty)
package() { # package VERSION DIR
	make --no-print-directory build VERSION="$1"
	rm -rf "$2"
	VERSION=$1 scripts/dist.sh "$2"
}
package 0.1.0 "$work/old"
cp -p "$launcher" "$work/launcher"
cp -p "$bundled" "$work/launcher.zst"
restore() {
	cp -p "$work/launcher" "$launcher"
	cp -p "$work/launcher.zst" "$bundled"
}
trap restore EXIT
printf upgrade >>"$launcher"
go run ./scripts/bundle -in "$launcher" -out "$bundled" -strip-blob
package 0.2.0 "$work/new"
restore
trap - EXIT

go build -o "$work/vm-test" ./test/vm
exec "$work/vm-test" -image "$work/image" -work "$work/run" -old "$work"/old/*.deb -new "$work"/new/*.deb \
	-version "$version" -report docs/vm-test.md "$@"
