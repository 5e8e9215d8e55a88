#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# nginx 1.22.1-9+deb12u11 (Debian 12), ngx_http_dav_module.
#
# Expected: PUT with "If-None-Match: *" of a file that is there is refused with
#   412 (RFC 9110, 13.1.2: the server "MUST NOT perform the requested method").
# Seen: it is written over, and the answer is that of any other PUT:
#
#       PUT a new file: 201
#       PUT it again, If-None-Match: *: 204
#
# So a file at nginx is no lock, and whoever relies on the condition has to find
# out whether the server knows it.
set -eu
version=1.22.1-9+deb12u11
command -v curl >/dev/null || { echo "skipped: needs curl"; exit 77; }
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "nginx=$version" >/dev/null 2>&1 ||
	{ echo "skipped: nginx $version cannot be had here"; exit 77; }
dpkg -x nginx_*.deb .
mkdir files
cat >conf <<END
daemon off; master_process off; pid $dir/pid; error_log $dir/error.log;
events {}
http {
	access_log off;
	client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
	server { listen unix:$dir/socket; root $dir/files; location / { dav_methods PUT; } }
}
END
usr/sbin/nginx -p "$dir" -e "$dir/error.log" -c "$dir/conf" >/dev/null 2>&1 &
server=$!
for _ in $(seq 100); do
	[ ! -S socket ] || break
	sleep 0.1
done
[ -S socket ] || { echo "skipped: nginx does not start: $(head -1 error.log)"; server=; exit 77; }
ask() {
	curl -s -o /dev/null -w '%{http_code}' --unix-socket socket -T - "$@" http://localhost/claim
}
first=$(echo mine | ask)
again=$(echo yours | ask -H 'If-None-Match: *')
echo "PUT a new file: $first"
echo "PUT it again, If-None-Match: *: $again"
if [ "$first" != 201 ] || [ "$again" != 204 ] || [ "$(cat files/claim)" != yours ]; then
	echo "changed"
	exit 1
fi
echo "as described: the condition is ignored"
