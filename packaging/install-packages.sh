#!/bin/sh
# Installs those of the named Debian packages that are missing; says on another
# system what to install by hand.
set -eu

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	cat >&2 <<EOF
This system has no apt. Install by hand what these Debian packages hold: $*
  Fedora, RHEL:  dnf install bpftrace bcc-tools libbpf-tools
  Arch:          pacman -S bpftrace bcc-tools libbpf-tools
  Alpine:        apk add bpftrace bcc-tools
EOF
	# What is there already will do.
	for package in "$@"; do
		case $package in
		bpftrace) command -v bpftrace >/dev/null || exit 1 ;;
		esac
	done
	exit 0
fi

missing=
for package in "$@"; do
	case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
	"install ok installed") ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "missing packages; run as root: apt-get install$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
apt-get install -y -qq --no-install-recommends $missing >/dev/null
