#!/bin/sh
# Fetches the scripts that the pages use into the repository: from the npm
# registry, in these versions, with these sums (npm view NAME dist.integrity).
set -eu

into="$(cd "$(dirname "$0")/.." && pwd)/cmd/bpf_tools_exporter/web/assets/scripts/vendor"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# fetch NAME VERSION SHA512 FILE...
fetch() {
	name=$1 version=$2 sum=$3
	shift 3
	(cd "$work" && npm pack --silent "$name@$version" >/dev/null)
	tarball="$work/$name-$version.tgz"
	echo "$sum  $tarball" | sha512sum --check --quiet -
	tar -xzf "$tarball" -C "$work"
	mkdir -p "$into"
	for file; do
		cp "$work/package/$file" "$into/$(basename "$file")"
	done
	cp "$work/package/LICENSE" "$into/$name.LICENSE"
	rm -rf "$work/package"
}

fetch d3 7.9.0 7b5538ea354ffb0ec8badf09b7cae2d58b0f3af169838ea4f8af13a426f43fece30a48e43e757b5b37c3273307cb52e703ec23e692d3d708cef74d602d778484 \
	dist/d3.min.js
fetch d3-flame-graph 5.0.0 00b650e1ab7c0dec7c1c2a23f43e69e5363a80b344736bc0640cbe34a3bfe862c47e1609986c58b910a53ba44fa29967772387c504cf8a976519e3208248ed9d \
	dist/d3-flamegraph.umd.min.js
