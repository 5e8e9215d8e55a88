#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# curl and libcurl 7.88.1-10+deb12u15 (Debian 12).
#
# Expected: a server that sends a header line longer than libcurl takes (100
#   KiB) is said to misbehave.
# Seen: the transfer fails with CURLE_OUT_OF_MEMORY (27), on a machine with
#   gigabytes to spare:
#
#       curl: exit code 27
#
# So that code, before a head is complete, says nothing about memory.
set -eu
version=7.88.1-10+deb12u15
command -v python3 >/dev/null || { echo "skipped: needs python3"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "curl=$version" "libcurl4=$version" >/dev/null 2>&1 ||
	{ echo "skipped: curl $version cannot be had here"; exit 77; }
for deb in *.deb; do dpkg -x "$deb" .; done
lib=$(dirname "$(find . -name 'libcurl.so.4.*' | head -1)")
cat >server.py <<'END'
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.bind('socket')
    s.listen(1)
    s.settimeout(20)
    c, _ = s.accept()
    c.recv(65536)
    try:
        c.sendall(b'HTTP/1.1 200 OK\r\nX-Long: ' + b'x' * (1 << 20) + b'\r\n\r\n')
    except OSError:
        pass
END
python3 server.py &
for _ in $(seq 100); do
	[ ! -S socket ] || break
	sleep 0.1
done
code=0
LD_LIBRARY_PATH=$lib usr/bin/curl -q -s -o /dev/null --max-time 15 --unix-socket socket http://localhost/ || code=$?
wait
echo "curl: exit code $code"
if [ "$code" != 27 ]; then
	echo "changed"
	exit 1
fi
echo "as described: out of memory, it says"
