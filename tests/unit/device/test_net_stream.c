// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * virtio-net on a stream (passt's): frames with their length before them, and the
 * end of the stream, which takes the guest's link down.
 */
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net_rig.h"

static void a_stream_is_cut_into_frames(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	uint8_t bytes[4 + 100 + 4 + 4 + 200], got[4 + 300];
	uint32_t len = 0, word;
	size_t i, n;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	post(r, RX_DATA + BUFFER, BUFFER);
	/* Two frames, and between them one of no length; byte by byte. */
	word = htonl(100);
	memcpy(bytes, &word, 4);
	fill_frame(bytes + 4, 100, 5);
	memset(bytes + 104, 0, 4);
	word = htonl(200);
	memcpy(bytes + 108, &word, 4);
	fill_frame(bytes + 112, 200, 6);
	for (i = 0; i < sizeof(bytes); i++)
		peer_write(r, bytes + i, 1);
	run_until(r, stats(r).received == 2);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 100, 5);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA + BUFFER, len, 200, 6);
	/* Some at once, of which the driver takes one after the other. */
	peer_write(r, bytes, sizeof(bytes));
	for (i = 0; i < 2; i++) {
		post(r, RX_DATA, BUFFER);
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA, len, i ? 200 : 100, 5 + (unsigned int)i);
	}
	/* The other way. */
	guest_send(r, 0, 300, 7);
	for (n = 0; n < sizeof(got);) {
		ssize_t part;

		turns(r->loop);
		part = recv(r->peer, got + n, sizeof(got) - n, MSG_DONTWAIT);
		n += part > 0 ? (size_t)part : 0;
	}
	memcpy(&word, got, 4);
	assert_int_equal(ntohl(word), 300);
	fill_frame(bytes, 300, 7);
	assert_memory_equal(got + 4, bytes, 300);
	rig_free(r);
}

/* What waits of a frame goes out before the next begins. */
static void a_stream_stays_whole(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	uint8_t got[1504], want[1500];
	unsigned int i;
	uint32_t word;

	(void)state;
	driver_start(r, BASIC);
	fill_up(r);
	set_status(r, 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	guest_send(r, 0, 1500, 0);
	for (i = 0; stats(r).sent * sizeof(got) > i * sizeof(got); i++) {
		size_t n = 0;

		while (n < sizeof(got)) {
			ssize_t part = recv(r->peer, got + n, sizeof(got) - n, MSG_DONTWAIT);

			n += part > 0 ? (size_t)part : 0;
			turns(r->loop);
		}
		memcpy(&word, got, 4);
		assert_int_equal(ntohl(word), 1500);
		fill_frame(want, 1500, i + 1 == stats(r).sent ? 0 : i);
		assert_memory_equal(got + 4, want, 1500);
	}
	assert_int_equal(i, stats(r).sent);
	rig_free(r);
}

static void assert_link_goes_down(struct rig *r)
{
	uint64_t dropped = stats(r).sent_dropped;
	uint32_t len;

	run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_int_equal(r->msi.fired_of[0], 1);
	/* What the guest sends is lost, and the guest not held up. */
	guest_send(r, 0, 100, 0);
	run_until(r, driver_used(&r->driver[TX], 1, &len) >= 0);
	assert_int_equal(stats(r).sent_dropped, dropped + 1);
	assert_idle(r);
	assert_int_equal(status(r), 0xf);
}

static void a_peer_that_hangs_up_takes_the_link_down(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);

	(void)state;
	driver_start(r, BASIC);
	turns(r->loop);
	close(r->peer);
	r->peer = -1;
	assert_link_goes_down(r);
	rig_free(r);
}

/* Nobody reads, for there is no driver, no buffer, or the machine is stopped. */
static void a_peer_that_hangs_up_is_noticed_always(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		if (i)
			r = rig_new(SOCK_STREAM, false);
		if (i)
			driver_start(r, BASIC);
		if (i == 1)
			peer_write(r, "\0\0\0\x10sixteen bytes...\0\0\0\x10sixteen bytes...", 40);
		turns(r->loop);
		if (i == 2)
			vdev_stop(r->dev);
		close(r->peer);
		r->peer = -1;
		run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
		assert_idle(r);
		rig_free(r);
	}
}

static void a_stream_that_is_wrong_takes_the_link_down(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);

	(void)state;
	driver_start(r, BASIC);
	turns(r->loop);
	peer_write(r, "\x00\x02\x00\x00", 4);
	assert_link_goes_down(r);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_is_cut_into_frames),
		cmocka_unit_test(a_stream_stays_whole),
		cmocka_unit_test(a_peer_that_hangs_up_takes_the_link_down),
		cmocka_unit_test(a_peer_that_hangs_up_is_noticed_always),
		cmocka_unit_test(a_stream_that_is_wrong_takes_the_link_down),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
