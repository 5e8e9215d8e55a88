// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What --net can name: its options, the address that comes of them, and back ends
 * as this host has them, a tap and passt.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net_rig.h"

static void options_say_what_is_wrong(void **state)
{
	static const char *const good[] = {
		"tap=t", "passt", "passt=/run/passt", "fd=3", "tap=t,mac=02:00:00:00:00:aB", "passt,forward=tcp:8080:80",
		"passt,forward=tcp:22,forward=udp:127.0.0.1/53:5353", "passt,forward=tcp:::1/22,mac=02:00:00:00:00:01",
		"passt,forward=tcp:[::1]/8080:80,forward=udp:[2001:db8::7]/53", "passt,forward=tcp:*/22",
	}, *const bad[] = {
		"", "tap", "tap=", "tap=0123456789abcdef", "passt=", "passt,", "fd", "fd=", "fd=x", "fd=-1", "fd=99999999999", "user",
		"tap=t,mac=", "tap=t,mac=02:00:00:00:00", "tap=t,mac=02:00:00:00:00:00:00", "tap=t,mac=01:00:00:00:00:00",
		"tap=t,mac=00:00:00:00:00:00", "tap=t,mac=02-00-00-00-00-00", "tap=t,forward=tcp:1:1", "passt=/x,forward=tcp:1:1",
		"passt,forward=", "passt,forward=sctp:1:1", "passt,forward=tcp:0:1", "passt,forward=tcp:1:65536", "passt,forward=tcp:1:",
		"passt,forward=tcp:[::1/1:1", "passt,forward=tcp:::1]/1:1", "passt,forward=tcp:[]/1:1", "passt,forward=tcp:[127.0.0.1]/1:1",
		"passt,forward=tcp:[[::1]]/1:1", "passt,forward=tcp:[*]/1:1", "passt,forward=tcp:/1:1",
		"passt,forward=tcp:nowhere/1:1", "passt,forward=tcp:1:1:1", "passt,forward=tcp:1-9", "passt,forward=tcp: 1",
	};
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (net_type.check(good[i], &err) < 0)
			fail_msg("%s: %s", good[i], err.text);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (net_type.check(bad[i], &err) == 0)
			fail_msg("%s is taken", bad[i]);
	assert_int_equal(
		net_type.check(
			"passt,forward=tcp:1,forward=tcp:2,forward=tcp:3,forward=tcp:4,forward=tcp:5,"
			"forward=tcp:6,forward=tcp:7,forward=tcp:8,forward=tcp:9",
			&err),
		-EINVAL);
	assert_non_null(strstr(err.text, "at most 8"));
}

static uint64_t made_mac(struct rig *r, const char *text, const char *machine)
{
	struct err err;
	uint64_t mac;

	assert_int_equal(device_new(r, text, machine, &err), 0);
	mac = get(r, DEVICE_AT, 4) | get(r, DEVICE_AT + 4, 2) << 32;
	device_free(r);
	return mac;
}

static void an_address_is_the_machines(void **state)
{
	struct rig *r = rig_bare(false);
	int fds[2];
	char text[32], other[32];
	uint64_t mac;

	(void)state;
	/* A device owns its descriptor: each gets a new one, of the same number. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	snprintf(text, sizeof(text), "fd=%d", fds[0]);
	mac = made_mac(r, text, "web");
	assert_int_equal(mac & 3, 2);
	assert_int_equal(dup2(fds[1], fds[0]), fds[0]);
	snprintf(other, sizeof(other), "fd=%d", dup(fds[1]));
	/* By its name, whatever the back end is; without one by that. */
	assert_int_equal(made_mac(r, other, "web"), mac);
	assert_true(made_mac(r, text, "web2") != mac);
	assert_int_equal(dup2(fds[1], fds[0]), fds[0]);
	mac = made_mac(r, text, NULL);
	snprintf(other, sizeof(other), "fd=%d", dup2(fds[1], fds[0] + 20));
	assert_true(made_mac(r, other, NULL) != mac);
	close(fds[1]);
	rig_bare_free(r);
}

static void what_is_no_network_says_why(void **state)
{
	struct rig *r = rig_bare(false);
	char text[32];
	struct err err;

	(void)state;
	assert_int_equal(device_new(r, "tap=nosuchtap", NULL, &err), -ENODEV);
	assert_non_null(strstr(err.text, "nosuchtap"));
	assert_int_equal(device_new(r, "passt=/nonexistent/socket", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/socket"));
	assert_int_equal(device_new(r, "fd=987", NULL, &err), -EBADF);
	snprintf(text, sizeof(text), "fd=%d", open("/dev/null", O_RDWR));
	assert_int_equal(device_new(r, text, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "neither a tap nor a socket"));
	rig_bare_free(r);
}

/* It answers for every address: who has 10.0.2.9? */
static void passt_is_started_and_answers(void **state)
{
	static const uint8_t request[60] =
		"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\0\x01"
		"\x0a\0\x02\x0f\0\0\0\0\0\0\x0a\0\x02\x09";
	const struct driver_buf buf = { TX_DATA, HEADER + sizeof(request), false };
	struct rig *r;
	struct err err;
	uint32_t len = 0;

	(void)state;
	if (system("command -v passt >/dev/null && ip route | grep -q ^default") != 0) {
		print_message("skipped: no passt here, or no default route for it\n");
		skip();
	}
	r = rig_bare(false);
	if (device_new(r, "passt,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	vdev_start(r->dev);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	memcpy(r->ram + TX_DATA + HEADER, request, sizeof(request));
	driver_add(&r->driver[TX], &buf, 1, 0);
	notify(r, TX);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0 ||
			     !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_int_equal(link_status(r), VIRTIO_NET_S_LINK_UP);
	assert_true(len >= HEADER + 42);
	rig_free(r);
}

/*
 * In a network namespace of its own; -1: there can be none. The interface lives
 * as long as a descriptor of it.
 */
static int tap_make(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd, sock;

	if (unshare(CLONE_NEWNET) < 0)
		return -1;
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	strcpy(ifr.ifr_name, name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0)
		return -1;
	close(fd);
	sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));
	if (sock < 0 || ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		return -1;
	ifr.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? -1 : sock;
}

static void a_tap_has_offloads(void **state)
{
	const uint64_t offloads =
		FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
		FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_HOST_TSO6) |
		FEATURE(VIRTIO_NET_F_HOST_ECN) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |
		FEATURE(VIRTIO_NET_F_GUEST_TSO6) | FEATURE(VIRTIO_NET_F_GUEST_ECN);
	const struct virtio_net_hdr_v1 headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		/*
		 * The checksum would lie behind the end; segments of no size; a
		 * header that is longer than the frame; no checksum.
		 */
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 90, .csum_offset = 9 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9, .hdr_len = 101 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 9 },
	};
	struct sockaddr_ll {
		unsigned short family, protocol;
		int ifindex;
		unsigned char rest[12];
	} to = { .family = AF_PACKET };
	struct rig *r;
	uint8_t frame[100];
	struct err err;
	unsigned int i;
	uint32_t len;
	int sock = tap_make("tap-test");

	(void)state;
	if (sock < 0) {
		print_message("skipped: no tap can be made here\n");
		skip();
	}
	r = rig_bare(false);
	if (device_new(r, "tap=tap-test,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	vdev_start(r->dev);
	assert_int_equal(features(r) & offloads, offloads);
	driver_start(r, BASIC | MERGE | offloads);
	/*
	 * What the host sends into it (an experimental type, so that nothing
	 * else is meant) comes with a header of zeroes but for the count.
	 */
	fill_frame(frame, sizeof(frame), 0x20);
	memcpy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x88\xb5", 14);
	to.ifindex = (int)if_nametoindex("tap-test");
	for (i = 0; i < SIZE; i++)
		post(r, RX_DATA + i * BUFFER, BUFFER);
	/*
	 * Now that somebody has it open its carrier is on, but what it is sent
	 * is lost until the kernel has noticed.
	 */
	run_until(r, sendto(sock, frame, sizeof(frame), 0, (struct sockaddr *)(void *)&to,
			    sizeof(to)) == sizeof(frame) &&
			     driver_used(&r->driver[RX], 1, &len) >= 0 &&
			     len == HEADER + sizeof(frame));
	/* The other way: with a good header, and with five that are not. */
	for (i = 0; i < 6; i++) {
		guest_send_with(r, i, &headers[i], 100, i);
		memcpy(r->ram + TX_DATA + i * BUFFER + HEADER, frame, sizeof(frame));
	}
	run_until(r, stats(r).sent + stats(r).sent_dropped == 6);
	assert_int_equal(stats(r).sent, 1);
	run_until(r, recv(sock, frame, sizeof(frame), MSG_DONTWAIT) == sizeof(frame));
	/* Somebody deletes it. */
	r->peer = -1;
	{
		char command[] = "ip link delete tap-test 2>/dev/null";

		assert_int_equal(system(command), 0);
	}
	run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_idle(r);
	close(sock);
	rig_free(r);
}

/* A frame of that length, for the guest or the tag in it; what becomes of it. */
static void expect_frame(struct rig *r, unsigned int id, size_t len, bool tagged, bool comes)
{
	uint64_t dropped = stats(r).received_dropped;
	uint8_t frame[2000] = { 0 };
	uint32_t used;

	if (tagged)
		memcpy(frame + 12, "\x81\x00", 2);
	assert_int_equal(send(r->peer, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL), len);
	if (!comes) {
		run_until(r, stats(r).received_dropped == dropped + 1);
		return;
	}
	run_until(r, driver_used(&r->driver[RX], 1, &used) >= 0);
	assert_int_equal(used, HEADER + len);
	assert_int_equal(stats(r).received_dropped, dropped);
	post(r, RX_DATA + id * BUFFER, BUFFER);
}

/* What goes through is known to the driver, which keeps to it wherever it comes. */
static void a_tap_tells_its_mtu(void **state)
{
	const uint64_t told = FEATURE(VIRTIO_NET_F_MTU);
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int sock = tap_make("tap-mtu"), fd;
	struct rig *r, there;
	struct err err;
	char text[32];

	(void)state;
	if (sock < 0) {
		print_message("skipped: no tap can be made here\n");
		skip();
	}
	strcpy(ifr.ifr_name, "tap-mtu");
	ifr.ifr_mtu = 1400;
	assert_int_equal(ioctl(sock, SIOCSIFMTU, &ifr), 0);
	/* One that is handed over is in our network namespace, too. */
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	r = rig_bare(false);
	snprintf(text, sizeof(text), "fd=%d", fd);
	if (device_new(r, text, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(features(r) & told);
	assert_int_equal(get(r, DEVICE_AT + 10, 2), 1400);
	device_free(r);
	r->msi = (struct fake_msi){ 0 };
	if (device_new(r, "tap=tap-mtu,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(features(r) & told);
	assert_int_equal(get(r, DEVICE_AT + 10, 2), 1400);
	vdev_start(r->dev);
	driver_start(r, BASIC | MERGE | told);
	vdev_stop(r->dev);
	/* 1500 bytes, which would end here. */
	assert_refused(&r->dev->device_ops, r->dev,
		       OWN("\x13", "\x0a\x06\x02\0\0\0\0\0\x1a\x06\x02\0\0\0\0\0\x20\xdc\x0b"), "was told of an MTU of 1500, tap tap-mtu here has 1400");
	/*
	 * Where nothing is known of what is behind it, and nothing was offered,
	 * it holds all the same.
	 */
	there_new(&there, r, SOCK_DGRAM);
	assert_false(features(&there) & told);
	assert_true(peer_send(&there, 100, 1));
	state_torture(&r->dev->device_ops, r->dev, there.dev);
	assert_true(features(&there) & told);
	assert_int_equal(get(&there, DEVICE_AT + 10, 2), 1400);
	vdev_start(there.dev);
	for (fd = 0; fd < 8; fd++)
		post(&there, RX_DATA + (unsigned int)fd * BUFFER, BUFFER);
	run_until(&there, stats(&there).received_dropped == 1);
	expect_frame(&there, 8, 1414, false, true);
	expect_frame(&there, 9, 1415, false, false);
	expect_frame(&there, 9, 1418, true, true);
	expect_frame(&there, 10, 1419, true, false);
	/* After a reset, too. */
	set_status(&there, 0);
	assert_true(features(&there) & told);
	assert_int_equal(get(&there, DEVICE_AT + 10, 2), 1400);
	close(there.peer);
	there.peer = -1;
	vdev_stop(there.dev);
	device_free(&there);
	close(sock);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_say_what_is_wrong),
		cmocka_unit_test(an_address_is_the_machines),
		cmocka_unit_test(what_is_no_network_says_why),
		cmocka_unit_test(passt_is_started_and_answers),
		/* Last: it leaves this network namespace. */
		cmocka_unit_test(a_tap_has_offloads),
		cmocka_unit_test(a_tap_tells_its_mtu),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
