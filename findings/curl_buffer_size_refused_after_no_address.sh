#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# libcurl 7.88.1-10+deb12u15 (Debian 12), by its easy interface.
#
# Expected: options that were taken once are taken again when a handle is used
#   anew, as its manual page promises for all but a few; CURLOPT_BUFFERSIZE is
#   documented to be refused while a transfer is under way.
# Seen: after a transfer whose host had no address (CURLE_COULDNT_RESOLVE_HOST,
#   6), when nothing is under way any more, the same handle refuses the same
#   CURLOPT_BUFFERSIZE with CURLE_BAD_FUNCTION_ARGUMENT (43), for good:
#
#       first: set 0, transfer 6
#       again: set 43, transfer 6
#       after a reset of the handle: set 43
#
# So a client that sets all options for each request, and takes a refused one for
# a fault of its own, makes of a name server's hiccup a store that is lost.
set -eu
version=7.88.1-10+deb12u15
command -v python3 >/dev/null || { echo "skipped: needs python3"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "libcurl4=$version" >/dev/null 2>&1 ||
	{ echo "skipped: libcurl4 $version cannot be had here"; exit 77; }
for deb in *.deb; do dpkg -x "$deb" .; done
lib=$(find . -name 'libcurl.so.4.*' | head -1)
cat >ask.py <<'END'
import ctypes, sys
BUFFERSIZE, URL, NOPROXY, TIMEOUT = 98, 10002, 10177, 13
lib = ctypes.CDLL(sys.argv[1])
lib.curl_easy_init.restype = ctypes.c_void_p
easy = ctypes.c_void_p(lib.curl_easy_init())
def number(option, value):
    return lib.curl_easy_setopt(easy, option, ctypes.c_long(value))
def text(option, value):
    return lib.curl_easy_setopt(easy, option, ctypes.c_char_p(value))
def options():
    text(URL, b'http://nobody.invalid/')
    text(NOPROXY, b'*')
    number(TIMEOUT, 20)
    return number(BUFFERSIZE, 65536)
print('first: set %d, transfer %d' % (options(), lib.curl_easy_perform(easy)))
print('again: set %d, transfer %d' % (options(), lib.curl_easy_perform(easy)))
lib.curl_easy_reset(easy)
print('after a reset of the handle: set %d' % options())
END
python3 ask.py "$lib" | tee said
printf '%s\n' 'first: set 0, transfer 6' 'again: set 43, transfer 6' 'after a reset of the handle: set 43' | cmp -s - said ||
	{ echo "changed"; exit 1; }
echo "as described"
