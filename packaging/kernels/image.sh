#!/bin/sh
# Makes the disk image of a Debian suite that the kernel matrix boots: its
# newest kernel with headers, and the packages of the BPF tools that belong to
# it. Usage: image.sh SUITE FOLDER. What is in FOLDER already is left alone.
set -eu

suite=$1 folder=$2
[ ! -e "$folder/root.ext4" ] || exit 0

# Every suite is on the mirror that this machine uses; elsewhere on mmdebstrap's own.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)

packages=linux-image-cloud-amd64,linux-headers-cloud-amd64,bpftrace,bpfcc-tools
# libbpf-tools are in Debian from 12.
[ "$suite" = bullseye ] || packages=$packages,libbpf-tools
packages=$packages,systemd,systemd-sysv,dbus,udev,kmod,iproute2,nftables,e2fsprogs,xfsprogs,logrotate,procps,ca-certificates

mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
root=$work/root

mmdebstrap --quiet --variant=minbase --include="$packages" \
	--aptopt='APT::Install-Recommends "false"' \
	--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	"$suite" "$root" ${mirror:+"$mirror"}

# What to run comes as a tar archive on the second disk.
cat >"$root/etc/systemd/system/payload.service" <<'UNIT'
[Unit]
Description=What the second disk brings
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /payload && tar -xf /dev/vdb -C /payload && exec /payload/run'
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec=infinity
ExecStopPost=/bin/systemctl --no-block poweroff

[Install]
WantedBy=graphical.target multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../payload.service "$root/etc/systemd/system/multi-user.target.wants/payload.service"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
echo kernel-matrix >"$root/etc/hostname"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd.img"
mke2fs -q -t ext4 -d "$root" "$work/root.ext4" 4G
mv "$work/root.ext4" "$folder/root.ext4"
