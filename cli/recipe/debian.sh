#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# Makes a Debian for a virtual machine: a raw ext4 file system with a kernel in it, without a partition table. `postern image
# debian` has this text inside and runs it, and so does the lab; what it is to do stands in the environment:
#
#     IMAGE_OUT        the file; it must not be there yet
#     IMAGE_WORK       an empty directory, on a disk with room for twice the image; the caller removes it
#     TMPDIR           where mmdebstrap unpacks: room as large, and others than the user may pass to it; /tmp if it is not set
#     IMAGE_SIZE       as mke2fs takes it: with K, M, G or T
#     IMAGE_SUITE      Debian's release
#     IMAGE_PACKAGES   more packages, by blanks
#     IMAGE_HOSTNAME
#     IMAGE_PASSWORD   root's; empty: none is asked for on the console, and ssh takes keys only
#     IMAGE_KEY        ssh keys for root, as in authorized_keys; may be empty
#     IMAGE_MIRROR     where packages come from; empty: where this machine's own come from
#
# Each step is announced on standard output by a line that begins with "== ".
set -eu
export LC_ALL=C
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
trusted=
[ ! -e $keyring ] || trusted=" signed-by=$keyring"

# One line for sources.list for each of Debian's archives that this machine's apt knows, but of the suite that is wanted.
sources() {
	if [ -n "$IMAGE_MIRROR" ]; then
		echo "deb [arch=amd64$trusted] $IMAGE_MIRROR $IMAGE_SUITE main"
		return
	fi
	apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
		while IFS='|' read -r origin uri name component; do
			[ "$origin" = Debian ] && [ "$component" = main ] || continue
			case ${name%%-*} in *[!a-z]*) continue ;; esac
			case $IMAGE_SUITE:$name in
			sid:*-* | unstable:*-*) continue ;;	# updates come to it directly; testing has archives for them
			*-updates) name=$IMAGE_SUITE-updates ;;
			*-security) name=$IMAGE_SUITE-security ;;
			*-*) continue ;;
			*) name=$IMAGE_SUITE ;;
			esac
			echo "deb [arch=amd64$trusted] $uri $name main"
		done | sort -u
}

# What the image says of itself, before packages are set up: the initial RAM disk is made while the kernel's package is.
# tiny-initramfs: one small program that loads these drivers and mounts; a machine has no other disks.
before='
set -eu
mkdir -p "$1/etc/tiny-initramfs" "$1/etc/initramfs-tools/conf.d"
printf "AUTO_MODULES=no\nMICROCODE=no\nINCLUDE_MODULES=virtio_pci,virtio_blk\n" > "$1/etc/tiny-initramfs/tiny-initramfs.conf"
printf "MODULES=list\n" > "$1/etc/initramfs-tools/conf.d/postern"
printf "virtio_pci\nvirtio_blk\next4\n" > "$1/etc/initramfs-tools/modules"
'

# In the set-up root; $1 is where it lies.
after='
set -eu
cd "$1"
echo "$IMAGE_HOSTNAME" > etc/hostname
printf "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n" "$IMAGE_HOSTNAME" > etc/hosts
# Each machine makes its own identity at its first start.
: > etc/machine-id
rm -f var/lib/dbus/machine-id etc/ssh/ssh_host_* etc/resolv.conf var/lib/systemd/random-seed
ln -s ../run/systemd/resolve/resolv.conf etc/resolv.conf

if [ -n "$IMAGE_PASSWORD" ]; then
	printf "root:%s\n" "$IMAGE_PASSWORD" | chroot . chpasswd
	[ ! -d etc/ssh/sshd_config.d ] || echo "PermitRootLogin yes" > etc/ssh/sshd_config.d/50-root.conf
else
	chroot . passwd -q -d root
fi
if [ -n "$IMAGE_KEY" ]; then
	mkdir -m 700 -p root/.ssh
	printf "%s\n" "$IMAGE_KEY" > root/.ssh/authorized_keys
	chmod 600 root/.ssh/authorized_keys
fi

# The network: what the kernel command line says by ip=... (systemd-network-generator writes 90-*.network), else DHCP.
ln -sf /dev/null etc/systemd/network/99-default.link	# eth0, not enp0s3
cat > etc/systemd/network/95-dhcp.network <<END
[Match]
Name=eth* en*
[Network]
DHCP=yes
[DHCPv4]
ClientIdentifier=mac
END
[ -e lib/systemd/system/systemd-resolved.service ] || {
	rm etc/resolv.conf
	printf "" > etc/resolv.conf
}
chroot . systemctl -q enable systemd-networkd systemd-network-generator
# One host key, made by the first connection: others would take longer than the start of the machine.
if [ -d etc/ssh/sshd_config.d ]; then
	cat > etc/ssh/sshd_config.d/40-hostkey.conf <<END
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
END
	cat > etc/systemd/system/ssh-hostkey.service <<END
[Unit]
Description=Make the key of the SSH server
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
RequiredBy=ssh.service
END
	chroot . systemctl -q disable ssh.service
	chroot . systemctl -q enable ssh.socket ssh-hostkey.service
fi
# What a virtual machine has no use for, or what would hold up its start.
for unit in systemd-networkd-wait-online.service getty@tty1.service systemd-rfkill.service systemd-rfkill.socket \
	systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pcrmachine.service systemd-pstore.service \
	e2scrub_all.timer e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
	systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service \
	systemd-binfmt.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount \
	sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
	modprobe@drm.service modprobe@fuse.service modprobe@efi_pstore.service modprobe@dm_mod.service modprobe@loop.service; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
# What the kernel says need not be read as it is written: the journal stays in memory.
mkdir -p etc/systemd/journald.conf.d etc/systemd/system.conf.d
printf "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n" > etc/systemd/journald.conf.d/volatile.conf
printf "[Manager]\nDefaultTimeoutStopSec=20s\n" > etc/systemd/system.conf.d/stop.conf
rm -rf usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/locale/*
ls boot/vmlinuz-* boot/initrd.img-* > /dev/null
'

initrd=tiny-initramfs
[ "$IMAGE_SUITE" = bookworm ] || initrd=initramfs-tools
set -- systemd systemd-sysv udev dbus linux-image-cloud-amd64 $initrd openssh-server iproute2 iputils-ping e2fsprogs login \
	kmod procps $IMAGE_PACKAGES
include=$(printf '%s,' "$@")

echo "== packages of Debian $IMAGE_SUITE"
sources > "$IMAGE_WORK/sources.list"
[ -s "$IMAGE_WORK/sources.list" ] || {
	echo "apt knows no Debian mirror here: run apt-get update, or say which (--mirror)" >&2
	exit 1
}
export IMAGE_HOSTNAME IMAGE_PASSWORD IMAGE_KEY
mmdebstrap --mode=auto --variant=minbase --architectures=amd64 --format=tar --include="${include%,}" \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--essential-hook="$before" --customize-hook="$after" "$IMAGE_SUITE" "$IMAGE_WORK/root.tar" "$IMAGE_WORK/sources.list"

echo "== file system"
pack='
set -eu
PATH=$PATH:/usr/sbin:/sbin
mkdir "$1/root"
tar -C "$1/root" --numeric-owner --xattrs --exclude="./dev/*" -xf "$1/root.tar"
rm "$1/root.tar"
mke2fs -q -t ext4 -m 1 -L debian -E lazy_itable_init=0,lazy_journal_init=0 -d "$1/root" "$2" "$3" > /dev/null
'
if [ "$(id -u)" = 0 ]; then
	sh -c "$pack" sh "$IMAGE_WORK" "$IMAGE_WORK/image" "$IMAGE_SIZE"
else
	fakeroot sh -c "$pack" sh "$IMAGE_WORK" "$IMAGE_WORK/image" "$IMAGE_SIZE"
fi
# Neither over what has come there meanwhile, nor into it.
mv -nT -- "$IMAGE_WORK/image" "$IMAGE_OUT" || :
if [ -e "$IMAGE_WORK/image" ]; then
	echo "$IMAGE_OUT: the image cannot take that name: something else has it now, or the directory refuses it" >&2
	exit 1
fi
