#!/bin/sh
# Makes the deb and the rpm of each named architecture in dist/, and with
# RELEASE=1 a tar archive and an SBOM as well, and checksums of it all. Needs no
# network once the modules are there. Usage: package.sh ARCH...
set -eu
cd "$(dirname "$0")/.."

GO=${GO:-go}
VERSION=$(cat VERSION)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export VERSION SOURCE_DATE_EPOCH

tool() {
	$GO tool -modfile=packaging/tools/go.mod "$@"
}

# What the flags say, by a binary that runs here: the same for all architectures.
documents() {
	mkdir -p "$1"
	./bpf_tools_exporter --completion-script-bash >"$1/completion.bash"
	./bpf_tools_exporter --completion-script-zsh >"$1/completion.zsh"
	./bpf_tools_exporter --help-man | sed -n '/^\.SH "OPTIONS"/,$p' | sed -e 1d -e '/^\\fB/s/-/\\-/g' >"$1/options.man"
	sed -e "s/@VERSION@/$VERSION/" -e "s/@DATE@/$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)/" -e "/@OPTIONS@/{
r $1/options.man
d
}" packaging/man/bpf_tools_exporter.8.in | gzip -9n >"$1/bpf_tools_exporter.8.gz"
}

archive() {
	name=bpf_tools_exporter-$VERSION.linux-$ARCH
	tar --create --gzip --file "dist/$name.tar.gz" --owner=0 --group=0 --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
		--transform "s,^,$name/," -C "$DIST" bpf_tools_exporter -C ../.. LICENSE README.md CONFIGURATION.md CHANGELOG.md docs/install.md
	# It takes the architecture from the environment, where "go tool" would build for it.
	GOARCH=$ARCH "$(tool -n cyclonedx-gomod)" bin -json -version "$VERSION" -output "dist/$name.cdx.json" "$DIST/bpf_tools_exporter"
}

rm -f dist/*.deb dist/*.rpm dist/*.tar.gz dist/*.cdx.json dist/SHA256SUMS
for ARCH in "$@"; do
	DIST=dist/$ARCH
	export ARCH DIST
	GOARCH=$ARCH make --no-print-directory build BINARY_PATH="$DIST/bpf_tools_exporter"
	documents "$DIST"
	for format in deb rpm; do
		tool nfpm package --config packaging/nfpm.yaml --packager "$format" --target dist/
	done
	[ -z "${RELEASE:-}" ] || archive
done
cd dist
sha256sum ./*.deb ./*.rpm $(ls ./*.tar.gz ./*.cdx.json 2>/dev/null) | sed 's,\./,,' >SHA256SUMS
