#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# libcurl 7.88.1-10+deb12u15 (Debian 12).
#
# Expected: curl_multi_remove_handle ends a transfer at once, wherever it is, as
#   its page says ("This can be done at any time, even when a transfer is in
#   progress"). Names are resolved on a thread of libcurl's own.
# Seen: while the name is being resolved it waits for that thread, and with it
#   the caller and all other transfers of the same multi handle, for as long as
#   the system's resolver takes:
#
#       without CURLOPT_QUICK_EXIT: removed after 3000 ms
#       with CURLOPT_QUICK_EXIT: removed after 0 ms
#
# The option (7.87) is documented for programs that exit. The thread goes on,
# detached, and frees what it has.
set -eu
version=7.88.1-10+deb12u15
command -v cc >/dev/null || { echo "skipped: needs a C compiler"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "libcurl4=$version" "libcurl4-openssl-dev=$version" >/dev/null 2>&1 ||
	{ echo "skipped: libcurl $version cannot be had here"; exit 77; }
for deb in *.deb; do dpkg -x "$deb" .; done
cat >try.c <<'END'
#include <curl/curl.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static _Atomic int asked;

/* Instead of the system's: it takes 3 s and finds nothing. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	asked = 1;
	sleep(3);
	return EAI_AGAIN;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static long try(long quick)
{
	CURLM *multi = curl_multi_init();
	CURL *easy = curl_easy_init();
	long from;
	int running;

	asked = 0;
	curl_easy_setopt(easy, CURLOPT_URL, "http://name.example.com/");
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, quick);
	curl_multi_add_handle(multi, easy);
	while (!asked) {
		curl_multi_perform(multi, &running);
		usleep(1000);
	}
	from = now_ms();
	curl_multi_remove_handle(multi, easy);
	return now_ms() - from;
}

int main(void)
{
	long without = try(0), with = try(1);

	printf("without CURLOPT_QUICK_EXIT: removed after %ld ms\n", without);
	printf("with CURLOPT_QUICK_EXIT: removed after %ld ms\n", with);
	return !(without >= 2000 && with < 1000);
}
END
lib=$(dirname "$(find . -name 'libcurl.so.4.*' | head -1)")
cc -w -rdynamic -I"$(dirname "$(find . -path '*curl/curl.h')")/.." try.c "$lib/libcurl.so.4" -o try 2>said ||
	{ echo "skipped: it does not build here: $(head -1 said)"; exit 77; }
if ! LD_LIBRARY_PATH=$lib ./try; then
	echo "changed"
	exit 1
fi
echo "as described: a transfer's removal waits for the resolver"
