#!/usr/bin/env bash
# image.sh DIR: a Debian with systemd for QEMU in DIR: vmlinux, initrd.cpio and base.ext4, with the versions in about. What is
# there already is kept. As root; it installs what it needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
[ ! -e about ] || exit 0

suite=bookworm
packages=systemd-sysv,systemd,dbus,udev,python3,curl,ca-certificates,iproute2,procps,kmod,sqlite3,e2fsprogs
kernel_package=linux-image-6.12-cloud-amd64

apt() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root -q "$@" >>apt.log 2>&1; }
need=()
for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio mkfs.ext4:e2fsprogs busybox:busybox-static zstd:zstd xz:xz-utils; do
	command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
apt update
[ ${#need[@]} = 0 ] || apt install -y --no-install-recommends "${need[@]}"

echo "making Debian $suite (minutes)"
rm -rf root kernel initrd
mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	"$suite" root

# The control channel: a script on a virtio port, started by systemd.
install -m 755 "$here/agent.py" root/usr/local/sbin/vm-agent
cat >root/etc/systemd/system/vm-agent.service <<'UNIT'
[Unit]
Description=control channel of the test

[Service]
ExecStart=/usr/local/sbin/vm-agent
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
chroot root systemctl --quiet enable vm-agent.service
chroot root systemctl --quiet mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer
echo vm >root/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 vm\n' >root/etc/hosts
rm -f root/etc/machine-id root/var/cache/apt/*.bin
: >root/etc/machine-id
debian=$(cat root/etc/debian_version)
systemd=$(chroot root dpkg-query -W -f '${Version}' systemd)
rm -f base.ext4
truncate -s 4G base.ext4
mkfs.ext4 -q -F -E lazy_itable_init=0 -d root base.ext4

echo "unpacking $kernel_package"
package=$(apt-cache depends "$kernel_package" | awk '/Depends: linux-image-6/ { print $2; exit }')
apt download "$package"
mkdir kernel
dpkg -x "$package"_*.deb kernel
vmlinuz=$(echo kernel/boot/vmlinuz-*)
offset=$(LC_ALL=C grep -abo $'\x28\xb5\x2f\xfd' "$vmlinuz" | head -1 | cut -d: -f1)
tail -c +$((offset + 1)) "$vmlinuz" | zstd -dc >vmlinux 2>/dev/null || [ -s vmlinux ] # what follows the kernel is not compressed

mkdir -p initrd/mods initrd/bin initrd/proc initrd/dev initrd/root
for module in drivers/virtio/virtio_mmio drivers/block/virtio_blk; do
	xz -dc kernel/lib/modules/*/kernel/$module.ko.xz >"initrd/mods/${module##*/}.ko"
done
install -m 755 "$(command -v busybox)" initrd/bin/busybox
cat >initrd/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /mods/virtio_mmio.ko
/bin/busybox insmod /mods/virtio_blk.ko
until [ -b /dev/vda ]; do /bin/busybox usleep 100000; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod 755 initrd/init
ln -sf busybox initrd/bin/sh
(cd initrd && find . | cpio -o -H newc --quiet) >initrd.cpio
qemu=$(qemu-system-x86_64 --version | head -1)
printf 'Debian %s\nsystemd %s\nkernel %s\n%s\n' "$debian" "$systemd" "${package#linux-image-}" "${qemu%% (*}" >about
rm -rf root kernel initrd
