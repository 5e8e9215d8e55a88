// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * passt as a network's back end: the real one, in a network namespace of the
 * test's, which is spoken to as a guest would; and programs that are called
 * passt and behave as the real one seldom does. Skipped where there is no
 * passt, no root or no veth.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper.h"
#include "base/log.h"
#include "device/net/backend.h"
#include "device/net/frame.h"

#define GUEST_MAC "02:00:00:00:00:01"
#define HOST4 "10.9.0.2"
#define GATEWAY4 "10.9.0.1"
#define HOST6 "fd09::2"
#define GATEWAY6 "fd09::1"
#define PORT 4444

static const uint8_t guest_mac[] = { 2, 0, 0, 0, 0, 1 };

static void open_fails(const char *text, struct err *err)
{
	struct net_config config;
	struct net_backend *b;

	assert_int_equal(net_config_parse(&config, text, err), 0);
	assert_true(net_backend_open(&b, NULL, &config, err) < 0);
}

static struct net_backend *open_well(const char *text, struct loop *loop)
{
	struct net_config config;
	struct net_backend *b = NULL;
	struct err err;

	if (net_config_parse(&config, text, &err) < 0 || net_backend_open(&b, loop, &config,
			&err) < 0)
		fail_msg("%s: %s", text, err.text);
	return b;
}

/* ---- frames ---- */

/* The one's complement sum that IP and TCP share (RFC 1071). */
static uint16_t checksum(uint32_t sum, const void *data, size_t len)
{
	const uint8_t *at = data;
	size_t i;

	for (i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)at[i] << 8 | at[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/*
 * The guest begins a connection to this address, at PORT, from a port of its
 * own; the frame's length.
 */
static size_t syn_make(uint8_t *to, const char *address, uint16_t from_port)
{
	struct tcphdr tcp = { .source = htons(from_port), .dest = htons(PORT), .seq = htonl(1000),
		.doff = 5, .syn = 1, .window = 0xffff };
	uint8_t pseudo[40] = { 0 };
	struct iphdr ip = { .version = 4, .ihl = 5, .tot_len = htons(40), .ttl = 64,
		.protocol = IPPROTO_TCP };
	struct ip6_hdr ip6 = { .ip6_flow = htonl(6u << 28), .ip6_plen = htons(20),
		.ip6_nxt = IPPROTO_TCP, .ip6_hlim = 64 };
	bool six = strchr(address, ':');
	size_t at = 14, n = six ? 16 : 4;

	memset(to, 0xff, 6);
	memcpy(to + 6, guest_mac, 6);
	memcpy(to + 12, six ? "\x86\xdd" : "\x08\x00", 2);
	if (six) {
		inet_pton(AF_INET6, HOST6, &ip6.ip6_src);
		inet_pton(AF_INET6, address, &ip6.ip6_dst);
		memcpy(pseudo, &ip6.ip6_src, 32);
		memcpy(to + at, &ip6, sizeof(ip6));
		at += sizeof(ip6);
	} else {
		inet_pton(AF_INET, HOST4, &ip.saddr);
		inet_pton(AF_INET, address, &ip.daddr);
		memcpy(pseudo, &ip.saddr, 8);
		ip.check = checksum(0, &ip, sizeof(ip));
		memcpy(to + at, &ip, sizeof(ip));
		at += sizeof(ip);
	}
	tcp.check = checksum(IPPROTO_TCP + 20 + (uint16_t)~ntohs(checksum(0, pseudo, 2 * n)), &tcp,
			     sizeof(tcp));
	memcpy(to + at, &tcp, sizeof(tcp));
	return at + sizeof(tcp);
}

static int send_frame(struct net_backend *b, uint8_t *frame, size_t len)
{
	struct virtio_net_hdr_v1 header = { 0 };
	struct iovec iov[2] = { { 0 }, { frame, len } };

	return net_backend_send(b, &header, iov, 2, len);
}

static const char *const loopbacks[] = {
	"127.0.0.1", "127.9.8.7", "127.255.255.255", "0.0.0.0", "0.1.2.3", "::1", "::",
		"::ffff:127.0.0.1", "::ffff:0.0.0.0",
};
static const char *const others[] = {
	"10.9.0.1", "126.255.255.255", "128.0.0.1", "1.0.0.0", "255.255.255.255", "fd09::1", "::2",
		"::1:1", "100::1", "fe80::1", "ff02::1",
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/*
 * Over a stream, however the guest has cut its frame to pieces; what else it
 * sends comes out unchanged.
 */
static void frames_for_a_loopback_go_nowhere(void **state)
{
	struct virtio_net_hdr_v1 header = { 0 };
	uint8_t frame[128], got[256];
	struct net_backend *b;
	struct iovec iov[128];
	unsigned int i, piece;
	size_t len, at, n;
	char text[32];
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	snprintf(text, sizeof(text), "fd=%d", fds[0]);
	b = open_well(text, NULL);
	for (piece = 1; piece < 80; piece += piece < 8 ? 1 : 13) {
		for (i = 0; i < COUNT(loopbacks) + COUNT(others); i++) {
			bool to_loopback = i < COUNT(loopbacks);

			len = syn_make(frame,
				       to_loopback ? loopbacks[i] : others[i - COUNT(loopbacks)],
					       40000);
			for (at = 0, n = 1; at < len; at += piece, n++)
				iov[n] = (struct iovec){ frame + at,
					len - at < piece ? len - at : piece };
			assert_int_equal(net_backend_send(b, &header, iov, (unsigned int)n, len),
					 to_loopback ? -EACCES : 0);
			n = to_loopback ? 0 : len + 4;
			assert_int_equal(recv(fds[1], got, sizeof(got), MSG_DONTWAIT),
					 to_loopback ? -1 : (ssize_t)n);
			if (!to_loopback)
				assert_memory_equal(got + 4, frame, len);
		}
	}
	/* Shorter than any address, and of another protocol. */
	len = syn_make(frame, "127.0.0.1", 1);
	assert_int_equal(send_frame(b, frame, 20), 0);
	assert_int_equal(send_frame(b, frame, 33), 0);
	assert_int_equal(send_frame(b, frame, 34), -EACCES);
	frame[12] = 0x81;
	assert_int_equal(send_frame(b, frame, len), 0);
	net_backend_close(b);
	close(fds[1]);
}

/* ---- the real one ---- */

static bool in_namespace(void)
{
	char command[] = "command -v passt >/dev/null && ip link set lo up && ip link add v0 type "
			 "veth peer name v1 && ip link set v1 up && "
			 "ip address add " HOST4 "/24 dev v0 && ip -6 address add " HOST6 "/64 "
					 "dev v0 nodad && ip link set v0 up && "
			 "ip route add default via " GATEWAY4 " && ip -6 route add default via "
							      "" GATEWAY6;
	static int works = -1;

	if (works < 0)
		works = !geteuid() && !unshare(CLONE_NEWNET) && !system(command);
	return works;
}

static void need_namespace(void)
{
	if (in_namespace())
		return;
	print_message("skipped: no passt, or no network namespace with a default route can be "
		      "made\n");
	skip();
}

/*
 * What it knows of the protocol is of no matter: whoever listens there would
 * have been connected to.
 */
static int listen_at(const char *address, int type)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	bool six = strchr(address, ':');
	int fd = socket(six ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	assert_true(fd >= 0);
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (six) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		inet_pton(AF_INET6, address, &in6.sin6_addr);
		assert_int_equal(bind(fd, (struct sockaddr *)&in6, sizeof(in6)), 0);
	} else {
		inet_pton(AF_INET, address, &in.sin_addr);
		assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	}
	assert_true(type != SOCK_STREAM || !listen(fd, 64));
	return fd;
}

static unsigned int clients(int listener)
{
	unsigned int n = 0;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		close(fd);
		n++;
	}
	return n;
}

/* Waits until the guest is answered by a SYN and ACK to this port. */
static void answered(struct net_backend *b, uint16_t port)
{
	static uint8_t frame[NET_HEADER_BYTES + NET_FRAME_MAX];
	int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
	struct pollfd p = { .fd = b->fd, .events = POLLIN };
	const uint8_t *tcp;
	ssize_t n;

	for (;;) {
		n = net_backend_receive(b, frame);
		assert_true(n > 0 || n == -EAGAIN);
		assert_true(clock_now_ns() < end);
		if (n == -EAGAIN)
			poll(&p, 1, 100);
		tcp = frame + NET_HEADER_BYTES + 14 + (frame[NET_HEADER_BYTES + 12] == 8 ? 20 : 40);
		if (n > 60 && (tcp[2] << 8 | tcp[3]) == port && (tcp[13] & 0x12) == 0x12)
			return;
	}
}

static void call(struct net_backend *b, const char *address, uint16_t port, int result)
{
	uint8_t frame[128];
	size_t len = syn_make(frame, address, port);

	assert_int_equal(send_frame(b, frame, len), result);
}

/*
 * QMP may listen there, and much else that takes whoever can reach it for the
 * host's own.
 */
static void no_guest_reaches_the_hosts_loopback(void **state)
{
	int local4, local6, all4;
	struct net_backend *b;
	uint16_t port = 40000;
	size_t i;

	(void)state;
	need_namespace();
	local4 = listen_at("127.0.0.1", SOCK_STREAM);
	local6 = listen_at("::1", SOCK_STREAM);
	all4 = listen_at(HOST4, SOCK_STREAM);
	b = open_well("passt,mac=" GUEST_MAC, NULL);
	for (i = 0; i < COUNT(loopbacks); i++)
		call(b, loopbacks[i], port++, -EACCES);
	call(b, GATEWAY4, port++, 0);
	call(b, GATEWAY6, port++, 0);
	/*
	 * The host's other addresses are as reachable as from any neighbour;
	 * and it takes one after the other.
	 */
	call(b, HOST4, port, 0);
	answered(b, port);
	assert_int_equal(clients(local4), 0);
	assert_int_equal(clients(local6), 0);
	assert_int_equal(clients(all4), 1);
	net_backend_close(b);
	/* Asked for by name. */
	b = open_well("passt,host-loopback,mac=" GUEST_MAC, NULL);
	call(b, GATEWAY4, ++port, 0);
	answered(b, port);
	call(b, GATEWAY6, ++port, 0);
	answered(b, port);
	call(b, loopbacks[0], ++port, -EACCES);
	assert_int_equal(clients(local4), 1);
	assert_int_equal(clients(local6), 1);
	net_backend_close(b);
	close(local4);
	close(local6);
	close(all4);
}

static void a_port_that_is_taken_is_said_in_its_own_words(void **state)
{
	static const struct {
		const char *address, *option, *words;
		int type;
	} tries[] = {
		{ "127.0.0.1", "passt,forward=tcp:4444:22", "Failed to bind", SOCK_STREAM },
		{ HOST4, "passt,forward=tcp:10.9.0.2/4444:22", "Failed to bind", SOCK_STREAM },
		{ "127.0.0.1", "passt,forward=udp:4444:22", "Failed to bind", SOCK_DGRAM },
		{ "::1", "passt,forward=tcp:8080,forward=tcp:::1/4444", "Failed to bind",
			SOCK_STREAM },
		/* passt itself is content with the other half. */
		{ "0.0.0.0", "passt,forward=tcp:*/4444:22",
			"TCP port 4444 of every IPv4 address: Address already in use",
				SOCK_STREAM },
		{ "::", "passt,forward=udp:*/4444:22",
			"UDP port 4444 of every IPv6 address: Address already in use", SOCK_DGRAM },
	};
	struct net_backend *b;
	struct err err;
	size_t i;
	int fd;

	(void)state;
	need_namespace();
	for (i = 0; i < COUNT(tries); i++) {
		fd = listen_at(tries[i].address, tries[i].type);
		open_fails(tries[i].option, &err);
		if (!strstr(err.text, tries[i].words) || strstr(err.text, "syslog"))
			fail_msg("%s: %s", tries[i].option, err.text);
		close(fd);
		b = open_well(tries[i].option, NULL);
		net_backend_close(b);
	}
	/* A port that is root's. */
	b = open_well("passt,forward=tcp:80,forward=udp:53", NULL);
	net_backend_close(b);
}

/* Nobody but the host itself, unless it is said. */
static void forwards_listen_at_the_loopback(void **state)
{
	struct net_backend *b;
	char command[] = "ss -Hltn | grep -q '127.0.0.1:8080 ' && ! ss -Hltn | grep -v "
			 "'127.0.0.1:8080 ' | grep -q :8080 && "
			 "ss -Hlun | grep -qF '0.0.0.0:8081 '";

	(void)state;
	need_namespace();
	b = open_well("passt,forward=tcp:8080:80,forward=udp:*/8081", NULL);
	assert_int_equal(system(command), 0);
	net_backend_close(b);
}

/* ---- others of that name ---- */

struct fake {
	char dir[64], path[96], file[128];
	char *before;
};

static void fake_begin(struct fake *f, const char *script)
{
	char path[4096];
	FILE *file;

	strcpy(f->dir, "/tmp/postern-passt-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	/* It is nobody's, and notes something. */
	assert_int_equal(chmod(f->dir, 0777), 0);
	snprintf(f->path, sizeof(f->path), "%s/passt", f->dir);
	snprintf(f->file, sizeof(f->file), "%s/note", f->dir);
	file = fopen(f->path, "we");
	assert_non_null(file);
	fprintf(file, "#!/bin/sh\n%s\n", script);
	fclose(file);
	assert_int_equal(chmod(f->path, 0755), 0);
	f->before = strdup(getenv("PATH"));
	snprintf(path, sizeof(path), "%s:%s", f->dir, f->before);
	setenv("PATH", path, 1);
}

static void fake_end(struct fake *f)
{
	setenv("PATH", f->before, 1);
	free(f->before);
	unlink(f->path);
	unlink(f->file);
	assert_int_equal(rmdir(f->dir), 0);
}

static void a_newer_one_is_told_in_its_words(void **state)
{
	static const char *const refuses[] = { "--no-map-gw", "--[nm][oa]*-*" };
	char script[512], words[256];
	struct net_backend *b;
	struct fake f;
	struct err err;
	unsigned int i;
	FILE *file;

	(void)state;
	for (i = 0; i < 2; i++) {
		snprintf(script, sizeof(script),
			 "for w in \"$@\"; do case $w in %s) echo \"passt: unrecognized option "
			 "'$w'\" >&2; "
						 "printf 'Usage:\\n  --no-map-gw\\n' >&2; exit "
						 "1;; esac; done; "
						 "echo \"$@\" > $0.new; mv $0.new ${0%%/*}/note; "
						 "exec cat <&3 >&3", refuses[i]);
		fake_begin(&f, script);
		if (i) {
			open_fails("passt", &err);
			assert_non_null(strstr(err.text,
					       "cannot be kept from the host's loopback"));
		} else {
			b = open_well("passt,dns=192.0.2.7", NULL);
			file = fopen(f.file, "re");
			assert_non_null(file);
			assert_non_null(fgets(words, sizeof(words), file));
			fclose(file);
			assert_string_equal(words,
					    "--foreground --quiet --fd 3 --map-host-loopback none "
					    "--dns 192.0.2.7 -t none -u none\n");
			net_backend_close(b);
		}
		fake_end(&f);
	}
}

static void one_that_dies_at_once_is_an_error(void **state)
{
	static const struct {
		const char *script, *words;
	} tries[] = {
		{ "exit 7", "passt ended with status 7" },
		{ "kill -9 $$", "passt was ended by signal 9" },
		{ "echo 'Failed to send 47 bytes to syslog' >&2; echo no way >&2; echo nor there "
		  ">&2; exit 1", "status 1: no way; nor there" },
		{ "printf '\\377\\377\\377\\377' >&3; exec sleep 100",
			"a frame of 4294967295 bytes" },
	};
	struct fake f;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(tries); i++) {
		fake_begin(&f, tries[i].script);
		open_fails("passt", &err);
		if (!strstr(err.text, tries[i].words))
			fail_msg("%s: %s", tries[i].script, err.text);
		fake_end(&f);
	}
}

static void on_signal(int number)
{
	(void)number;
}

/* Of one that says nothing. */
static void a_signal_ends_the_wait(void **state)
{
	const struct sigaction plain = { .sa_handler = on_signal };
	struct sigaction before;
	struct fake f;
	struct err err;
	pid_t pid, self = getpid();

	(void)state;
	sigaction(SIGUSR1, &plain, &before);
	fake_begin(&f, "echo > ${0%/*}/note; exec sleep 100");
	pid = fork();
	if (!pid) {
		while (access(f.file, F_OK) < 0)
			usleep(1000);
		/*
		 * As long as it is there: a signal may come a moment before the
		 * wait.
		 */
		while (!kill(self, SIGUSR1))
			usleep(10000);
		_exit(0);
	}
	open_fails("passt", &err);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_string_equal(err.text, "interrupted by a signal");
	fake_end(&f);
	sigaction(SIGUSR1, &before, NULL);
}

static bool has_children(void)
{
	char path[64], text[8];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	file = fopen(path, "re");
	assert_non_null(file);
	n = fread(text, 1, sizeof(text), file);
	fclose(file);
	return n;
}

/* By the loop, with nobody asking for it: a zombie would still be a child. */
static void one_that_ends_is_reaped(void **state)
{
	int64_t end = clock_now_ns() + 60 * NS_PER_SEC;
	struct net_backend *b;
	struct loop *loop;
	struct fake f;
	struct err err;
	int i;

	(void)state;
	/*
	 * An answer, then its end, with its socket's a while before or at the
	 * same moment.
	 */
	fake_begin(&f, "head -c 64 <&3 >&3; exec 3>&-; exit 3");
	assert_int_equal(loop_new(&loop, &err), 0);
	for (i = 0; i < 20; i++) {
		b = open_well("passt", loop);
		while (has_children()) {
			uv_run(loop_uv(loop), UV_RUN_NOWAIT);
			assert_true(clock_now_ns() < end);
		}
		net_backend_close(b);
	}
	assert_true(loop_free(loop));
	fake_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_for_a_loopback_go_nowhere),
		cmocka_unit_test(a_newer_one_is_told_in_its_words),
		cmocka_unit_test(one_that_dies_at_once_is_an_error),
		cmocka_unit_test(a_signal_ends_the_wait),
		cmocka_unit_test(one_that_ends_is_reaped),
		cmocka_unit_test(no_guest_reaches_the_hosts_loopback),
		cmocka_unit_test(a_port_that_is_taken_is_said_in_its_own_words),
		cmocka_unit_test(forwards_listen_at_the_loopback),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
