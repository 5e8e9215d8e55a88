#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# passt 0.0~git20230309.7c7625d-1 (Debian 12).
#
# Expected: `-D ADDRESS` names the guest's name server, so passt has nothing to
#   complain of.
# Seen: where the host has IPv4 and IPv6, and an IPv4 address is named, it says
#   "Couldn't get any nameserver address", and yet lists the address under
#   "DNS:", as what its DHCP tells the guest (with -4 it does not complain):
#
#       Couldn't get any nameserver address
#       ...
#       DNS:
#           192.0.2.53
#
# So who starts passt for others cannot take that line for what it says: it
# comes with a name server and without one. (As root, in a network namespace.)
set -eu
version=0.0~git20230309.7c7625d-1

if [ "${1-}" != inside ]; then
	[ "$(id -u)" = 0 ] || { echo "skipped: needs root, for a network namespace"; exit 77; }
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	chmod 777 "$dir"	# passt becomes nobody
	script=$(realpath "$0")
	cd "$dir"
	apt-get download -qq "passt=$version" >/dev/null 2>&1 ||
		{ echo "skipped: passt $version cannot be had here"; exit 77; }
	dpkg -x passt_*.deb .
	code=0
	unshare -n bash "$script" inside "$dir" || code=$?
	exit "$code"
fi

# An interface with addresses and default routes, which passt wants to copy.
ip link add v0 type veth peer name v1
ip addr add 192.0.2.2/24 dev v0
ip link set v1 up
ip link set v0 up
ip route add default via 192.0.2.1
ip addr add 2001:db8::2/64 dev v0 nodad
ip route add default via 2001:db8::1
# It says what it will do, and then waits for a guest until it is ended.
timeout 3 "$2/usr/bin/passt" --foreground -t none -u none -D 192.0.2.53 \
	--socket "$2/socket" >"$2/said" 2>&1 || true
grep -v syslog "$2/said"
if ! grep -q "192.0.2.53" "$2/said"; then
	echo "changed: the name server is not listed"
	exit 1
fi
if ! grep -q "Couldn't get any nameserver address" "$2/said"; then
	echo "changed: it no longer complains"
	exit 1
fi
echo "as described: it names the server, and says that it has none"
