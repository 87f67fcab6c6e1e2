#!/bin/sh
# Runs the steps of the Dockerfile's last stage in a chroot, where there is no
# container engine: try.sh BINARY FOLDER, as root, with mmdebstrap. FOLDER becomes
# the image's root.
set -eu

binary=$1 root=$2
dockerfile=$(dirname "$0")/Dockerfile
stage() { sed -n '/^FROM debian/,$p' "$dockerfile"; }

suite=$(stage | sed -n 's/^FROM debian:\([a-z]*\)-slim$/\1/p')
mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
	--skip=cleanup/apt/lists "$suite" "$root" \
	"$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)"
arguments=$(stage | sed -n 's/^ARG //p')
stage | sed -n 's/^RUN //p' | while read -r command; do
	chroot "$root" /bin/sh -euc "$arguments
export DEBIAN_FRONTEND=noninteractive
$command" </dev/null
done
cp "$binary" "$root$(stage | sed -n 's/^COPY --from=build [^ ]* //p')"
entry=$(stage | sed -n 's/^ENTRYPOINT \["\(.*\)"\]$/\1/p')
chroot "$root" "$entry" --version
chroot "$root" bpftrace --version
