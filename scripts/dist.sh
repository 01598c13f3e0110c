#!/usr/bin/env bash
# dist.sh DIR: the release files in DIR, from bin/stacyvm and bin/parts as `make build` left them: a Debian package, a tarball,
# bills of material and checksums. The same commit gives the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mkdir -p "$1" && cd "$1" && pwd)

# A version for people, and one that Debian can compare: without a tag it is older than every release.
version=${VERSION:-$(git describe --tags --always --dirty)}
version=${version#v}
case $version in
[0-9]*.*) debian=$version ;;
*) debian="0.0.0~$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S).$version" ;;
esac
debian=${debian//-/+}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
GOARCH=${GOARCH:-$(go env GOARCH)}
export SOURCE_DATE_EPOCH GOARCH DEB_VERSION=$debian DIST_DIR=$dir DIST_BINARY=${STACYVM_BIN:-bin/stacyvm}
tool() { env GOARCH= go tool -modfile=packaging/tools.mod "$@"; } # for this machine, whatever the package is for

rm -rf "$dir/sbom"
mkdir -p "$dir/sbom"
for program in "$DIST_BINARY" bin/parts/stacyvm-sentry bin/parts/stacyvm-guest; do
	said=$(tool cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$version" \
		-output "$dir/sbom/$(basename "$program").cdx.json" "$program" 2>&1) || { # it prints its progress, too
		printf 'dist: no SBOM of %s:\n%s\n' "$program" "$said" >&2
		exit 1
	}
done
chmod 644 "$dir"/sbom/*

tool nfpm package --config packaging/nfpm.yaml --packager deb --target "$dir/stacyvm_${debian}_$GOARCH.deb"

name=stacyvm-$version-linux-$GOARCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -d -m 755 "$work/$name/systemd" "$work/$name/docs" "$work/$name/sbom"
install -m 755 "$DIST_BINARY" "$work/$name/stacyvm"
install -m 644 README.md CHANGELOG.md LICENSE stacyvm.example.yaml "$work/$name"
install -m 644 packaging/*.service "$work/$name/systemd"
install -m 644 docs/*.md "$work/$name/docs"
install -m 644 "$dir"/sbom/* "$work/$name/sbom"
tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c "$name" | gzip -9n >"$dir/$name.tar.gz"

(cd "$dir" && sha256sum "stacyvm_${debian}_$GOARCH.deb" "$name.tar.gz" sbom/*.cdx.json >SHA256SUMS)
