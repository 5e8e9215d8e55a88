// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * virtio-net: frames both ways, what holds them up, and what does not: a peer
 * that is slow, a page that is missing.
 */
#include <sys/socket.h>

#include "base/log.h"
#include "net_rig.h"

static void it_is_what_its_back_end_can(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint64_t mac;

	(void)state;
	/* No offloads: a socket's frames have no header. */
	assert_int_equal(features(r), BASIC | MERGE | VERSION | PACKED | EVENT |
					      FEATURE(VIRTIO_RING_F_INDIRECT_DESC));
	mac = get(r, DEVICE_AT, 4) | get(r, DEVICE_AT + 4, 2) << 32;
	assert_int_equal(mac, UINT64_C(0x010000000002));
	assert_int_equal(link_status(r), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(get(r, VIRTIO_PCI_COMMON_NUMQ, 2), QUEUES);
	rig_free(r);
}

static void frames_go_both_ways(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i;
	uint32_t len;

	driver_start(r, BASIC | with);
	/* More than the rings have entries: round and round. */
	for (i = 0; i < 5 * SIZE; i++) {
		guest_send(r, i % SIZE, 60 + i, i);
		run_until(r, driver_used(&r->driver[TX], 1, &len) >= 0);
		assert_int_equal(peer_receive(r, i), 60 + i);
		post(r, RX_DATA + i % SIZE * BUFFER, BUFFER);
		assert_true(peer_send(r, 1000 + i, i));
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA + i % SIZE * BUFFER, len, 1000 + i, i);
	}
	assert_true(r->msi.fired_of[1] > 0);
	assert_true(r->msi.fired_of[2] > 0);
	assert_int_equal(stats(r).sent, 5 * SIZE);
	assert_int_equal(stats(r).received, 5 * SIZE);
	assert_int_equal(stats(r).sent_dropped + stats(r).received_dropped, 0);
	rig_free(r);
}

static void frames_go_both_ways_with_either_ring(void **state)
{
	(void)state;
	frames_go_both_ways(0);
	frames_go_both_ways(PACKED | EVENT);
}

static void a_frame_goes_over_several_buffers(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i;
	uint32_t len;

	driver_start(r, BASIC | MERGE | with);
	for (i = 0; i < 4 * SIZE; i++) {
		/*
		 * Two of the three that it needs: they stay the driver's, and
		 * nobody runs in circles.
		 */
		post(r, RX_DATA, 512);
		post(r, RX_DATA + 512, 512);
		assert_true(peer_send(r, 1400, i));
		assert_idle(r);
		assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
		assert_int_equal(vdev_in_flight(r->dev), 0);
		post(r, RX_DATA + 1024, 512);
		run_until(r, stats(r).received == i + 1);
		if (!(with & PACKED))
			assert_int_equal(used_index(r), 3 * (i + 1));
		assert_three(r, i);
	}
	/* More than the whole ring holds, and there is nothing that could be added. */
	for (i = 0; i < SIZE; i++)
		post(r, RX_DATA, 64);
	assert_true(peer_send(r, 1400, 0));
	run_until(r, stats(r).received_dropped == 1);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	assert_true(peer_send(r, 20, 1));
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 20, 1);
	rig_free(r);
}

static void a_frame_goes_over_several_buffers_of_either_ring(void **state)
{
	(void)state;
	a_frame_goes_over_several_buffers(0);
	a_frame_goes_over_several_buffers(PACKED | EVENT);
}

static void a_frame_that_fits_nowhere_is_counted(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, 512);
	assert_true(peer_send(r, 1400, 0));
	run_until(r, stats(r).received_dropped == 1);
	/* The buffer is there for the next. */
	assert_true(peer_send(r, 100, 1));
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 100, 1);
	rig_free(r);
}

static void without_buffers_nothing_is_read(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i, sent = 0;
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	while (sent < 1000 && peer_send(r, 1000, sent)) {
		sent++;
		turns(r->loop);
	}
	/* One frame is in our hands, the others are the sender's matter. */
	assert_in_range(sent, 2, 999);
	assert_idle(r);
	for (i = 0; i < sent; i++) {
		post(r, RX_DATA, BUFFER);
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA, len, 1000, i);
	}
	assert_int_equal(stats(r).received_dropped, 0);
	rig_free(r);
}

static void stopped_it_reads_nothing(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	turns(r->loop);
	vdev_stop(r->dev);
	assert_true(peer_send(r, 1000, 3));
	guest_send(r, 0, 100, 4);
	assert_idle(r);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	assert_int_equal(peer_receive(r, 4), 0);
	vdev_start(r->dev);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 1000, 3);
	run_until(r, peer_receive(r, 4) == 100);
	rig_free(r);
}

static void a_peer_that_takes_nothing_holds_up_nothing(int type)
{
	struct rig *r = rig_new(type, false);
	unsigned int n, taken;
	struct buf buf = { 0 };
	struct err err;
	uint32_t len;

	driver_start(r, BASIC);
	taken = fill_up(r);
	/* A migration now: there is nothing to wait for. */
	vdev_stop(r->dev);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), 0);
	assert_int_equal(r->dev->device_ops.save(r->dev, &buf, &err), 0);
	buf_fini(&buf);
	vdev_start(r->dev);
	assert_idle(r);
	/* The peer reads: what waits comes, all of it, in order. */
	if (type == SOCK_DGRAM) {
		for (n = 0; n < SIZE; n++)
			run_until(r, peer_receive(r, n) == 1500);
		while (driver_used(&r->driver[TX], 1, &len) >= 0)
			taken++;
		assert_int_equal(taken, SIZE);
		taken = fill_up(r);
	}
	/* A reset is over at once. */
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	turns(r->loop);
	rig_free(r);
}

static void a_peer_that_is_slow(void **state)
{
	(void)state;
	a_peer_that_takes_nothing_holds_up_nothing(SOCK_DGRAM);
	a_peer_that_takes_nothing_holds_up_nothing(SOCK_STREAM);
}

static void a_reset_forgets_the_frame_in_hand(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	assert_true(peer_send(r, 1000, 3));
	turns(r->loop);
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	assert_int_equal(stats(r).received_dropped, 1);
	/* Nobody is there: nothing is read. */
	assert_true(peer_send(r, 500, 4));
	assert_idle(r);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 500, 4);
	rig_free(r);
}

static void a_page_that_is_missing_holds_up_one_way(void **state)
{
	struct rig *r = rig_late(MERGE);
	struct vqueue *rx = &r->dev->queue[RX], *tx = &r->dev->queue[TX];
	const struct driver_buf late = { TX_DATA + 0x1000, 200, false };
	uint32_t len;

	(void)state;
	fill(r, RX_DATA, 1);
	fill(r, TX_DATA, 1);
	/* The second buffer of three is missing. */
	post(r, RX_DATA, 512);
	post(r, RX_DATA + 0x1000, 512);
	post(r, RX_DATA + 512, 512);
	assert_true(peer_send(r, 1400, 9));
	run_until(r, vqueue_is_parked(rx));
	assert_true(peer_send(r, 100, 10));
	assert_idle(r);
	assert_int_equal(vdev_in_flight(r->dev), 0);
	/* The other way goes on. */
	guest_send(r, 0, 100, 11);
	run_until(r, peer_receive(r, 11) == 100);
	assert_true(driver_used(&r->driver[TX], 1, &len) >= 0);
	/* Stopped, no page wakes it; started, it asks anew. */
	vdev_stop(r->dev);
	assert_false(vqueue_is_parked(rx));
	fill(r, RX_DATA + 0x1000, 1);
	assert_idle(r);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	vdev_start(r->dev);
	run_until(r, stats(r).received == 1);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 512);
	/* What the guest sends lies on a page that is missing; then it comes. */
	driver_add(&r->driver[TX], &late, 1, 0);
	notify(r, TX);
	run_until(r, vqueue_is_parked(tx));
	guest_send(r, 0, 120, 13);
	assert_idle(r);
	assert_int_equal(peer_receive(r, 0), 0);
	fill(r, TX_DATA + 0x1000, 1);
	run_until(r, stats(r).sent == 3);
	rig_free(r);
}

/*
 * Buffers that are to be given back together wait together for the ring's page,
 * and nothing else does.
 */
static void the_used_ring_is_missing(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, true);
	struct err err;
	unsigned int i;

	(void)state;
	fill(r, RINGS(RX), 2);
	fill(r, RINGS(TX), 3);
	fill(r, RX_DATA, 1);
	driver_start(r, BASIC | MERGE);
	for (i = 0; i < 3; i++)
		post(r, RX_DATA + 512 * i, 512);
	assert_true(peer_send(r, 1400, 9));
	run_until(r, vdev_in_flight(r->dev) == 3);
	assert_true(vqueue_is_parked(&r->dev->queue[RX]));
	assert_idle(r);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), -ETIMEDOUT);
	assert_int_equal(r->msi.fired_of[1], 0);
	fill(r, RINGS(RX) + 0x2000, 1);
	run_until(r, r->msi.fired_of[1] == 1);
	assert_int_equal(used_index(r), 3);
	assert_three(r, 9);
	rig_free(r);
}

static void the_end_comes_while_parked(void **state)
{
	struct rig *r = rig_late(0);
	struct err err;

	(void)state;
	post(r, RX_DATA, BUFFER);
	assert_true(peer_send(r, 100, 1));
	run_until(r, vqueue_is_parked(&r->dev->queue[RX]));
	/* Nothing is in flight: a migration, a reset, the end. */
	vdev_stop(r->dev);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), 0);
	vdev_start(r->dev);
	run_until(r, vqueue_is_parked(&r->dev->queue[RX]));
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_what_its_back_end_can),
		cmocka_unit_test(frames_go_both_ways_with_either_ring),
		cmocka_unit_test(a_frame_goes_over_several_buffers_of_either_ring),
		cmocka_unit_test(a_frame_that_fits_nowhere_is_counted),
		cmocka_unit_test(without_buffers_nothing_is_read),
		cmocka_unit_test(stopped_it_reads_nothing),
		cmocka_unit_test(a_peer_that_is_slow),
		cmocka_unit_test(a_reset_forgets_the_frame_in_hand),
		cmocka_unit_test(a_page_that_is_missing_holds_up_one_way),
		cmocka_unit_test(the_used_ring_is_missing),
		cmocka_unit_test(the_end_comes_while_parked),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
