// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * virtio-net and migrations: a guest that arrives is announced, and keeps its
 * address; state that cannot be is refused.
 */
#include <sys/socket.h>

#include "base/log.h"
#include "net_rig.h"

/* Is the next frame of the peer's the announcement of `mac`? */
static bool peer_has_rarp(struct rig *r, const char *mac)
{
	uint8_t frame[2000];
	ssize_t n = recv(r->peer, frame, sizeof(frame), MSG_DONTWAIT);

	if (n < 0)
		return false;
	assert_int_equal(n, 60);
	assert_memory_equal(frame, "\xff\xff\xff\xff\xff\xff", 6);
	assert_memory_equal(frame + 6, mac, 6);
	assert_memory_equal(frame + 12, "\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03", 10);
	assert_memory_equal(frame + 22, mac, 6);
	assert_memory_equal(frame + 32, mac, 6);
	return true;
}

static void a_guest_that_arrives_is_announced(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there;
	unsigned int fired, rounds;
	uint32_t len;

	driver_start(r, BASIC | with);
	assert_int_equal(order_text(r, "\x01\x01\x02\x11\x22\x33\x44\x55"), VIRTIO_NET_OK);
	vdev_stop(r->dev);
	there_new(&there, r, SOCK_DGRAM);
	assert_true(peer_send(&there, 700, 1));
	state_torture(&r->dev->device_ops, r->dev, there.dev);
	vdev_start(there.dev);
	/* The source's address, whatever was said here; at once, and again. */
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 0x55);
	assert_true(peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"));
	assert_int_equal(link_status(&there), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	fired = there.msi.fired_of[0];
	assert_true(fired >= 1);
	assert_int_equal(order_text(&there, "\x03\x00"), VIRTIO_NET_OK);
	assert_int_equal(link_status(&there), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(order_text(&there, "\x03\x00"), VIRTIO_NET_ERR);
	for (rounds = 1; rounds < 3; rounds++)
		run_until(&there, peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"));
	assert_true(there.msi.fired_of[0] >= fired + 2);
	/* Stopped in between, it goes on after. */
	vdev_stop(there.dev);
	assert_idle(&there);
	vdev_start(there.dev);
	run_until(&there, stats(&there).announced == 5);
	assert_idle(&there);
	/* What came here before the guest was not for it; its queues go on where they were. */
	assert_int_equal(stats(&there).received_dropped, 1);
	while (peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"))
		rounds++;
	assert_int_equal(rounds, 5);
	guest_send(&there, 0, 100, 3);
	run_until(&there, driver_used(&there.driver[TX], 1, &len) >= 0);
	assert_int_equal(peer_receive(&there, 3), 100);
	assert_int_equal(status(&there), 0xf);
	/* Its driver begins anew: with the address that the machine was made with, over there. */
	set_status(&there, 0);
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 1);
	device_free(&there);
	rig_free(r);
}

static void a_guest_that_arrives_is_announced_with_either_ring(void **state)
{
	(void)state;
	a_guest_that_arrives_is_announced(0);
	a_guest_that_arrives_is_announced(PACKED | EVENT);
}

/* A machine that starts, or goes on, or whose guest has no driver yet: nobody is told. */
static void only_who_arrives_is_announced(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there;
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	vdev_stop(r->dev);
	there_new(&there, r, SOCK_DGRAM);
	assert_int_equal(r->dev->device_ops.save(r->dev, &buf, &err), 0);
	assert_int_equal(there.dev->device_ops.load(there.dev, buf.data, buf.len, &err), 0);
	vdev_start(there.dev);
	vdev_start(r->dev);
	driver_start(r, BASIC);
	vdev_stop(r->dev);
	vdev_start(r->dev);
	assert_idle(r);
	assert_false(peer_has_rarp(r, ""));
	assert_false(peer_has_rarp(&there, ""));
	assert_int_equal(stats(r).announced + stats(&there).announced, 0);
	buf_fini(&buf);
	device_free(&there);
	rig_free(r);
}

/* The state of r's device is loaded into another one, which is a clone's. */
static void renew_there(struct rig *there, struct rig *r)
{
	struct buf buf = { 0 };
	struct err err;

	assert_int_equal(r->dev->device_ops.save(r->dev, &buf, &err), 0);
	assert_int_equal(there->dev->device_ops.load(there->dev, buf.data, buf.len, &err), 0);
	buf_fini(&buf);
	vdev_renew(there->dev);
}

static void another_machine_has_an_address_of_its_own(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there;
	uint64_t generation;

	(void)state;
	driver_start(r, BASIC);
	assert_int_equal(order_text(r, "\x01\x01\x02\x11\x22\x33\x44\x55"), VIRTIO_NET_OK);
	vdev_stop(r->dev);
	there_new(&there, r, SOCK_DGRAM);
	generation = there.dev->generation;
	renew_there(&there, r);
	/* The driver is told, and finds it; the network is told of it too. */
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 0x77);
	assert_int_not_equal(there.dev->generation, generation);
	assert_true(there.msi.fired_of[0] >= 1);
	vdev_start(there.dev);
	assert_true(peer_has_rarp(&there, "\x02\0\0\0\0\x77"));
	set_status(&there, 0);
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 0x77);
	device_free(&there);
	rig_free(r);
}

static void without_an_address_of_its_own_it_keeps_what_it_had(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there = *r;
	struct err err;
	char text[32];
	int fds[2];

	(void)state;
	driver_start(r, BASIC);
	vdev_stop(r->dev);
	there.msi = (struct fake_msi){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	there.peer = fds[1];
	snprintf(text, sizeof(text), "fd=%d", fds[0]);
	assert_int_equal(device_new(&there, text, "web", &err), 0);
	renew_there(&there, r);
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 1);
	assert_int_equal(there.msi.fired_of[0], 0);
	device_free(&there);
	rig_free(r);
}

static void hostile_state_is_refused(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	struct vdev *dev = r->dev;

	(void)state;
	assert_refused(&dev->device_ops, dev, OWN("\x01", "\x08"), "NetState");
	assert_refused(&dev->device_ops, dev, "", "MAC");
	assert_refused(&dev->device_ops, dev, OWN("\x07", "\x0a\x05\x02\0\0\0\0"), "MAC");
	assert_refused(&dev->device_ops, dev, OWN("\x08", "\x0a\x06\x01\0\0\0\0\0"), "MAC");
	/* A guest that uses checksum offload of a tap's. */
	assert_refused(&dev->device_ops, dev, OWN("\x08", "\x0a\x06\x02\0\0\0\0\0"), "MAC");
	assert_refused(&dev->device_ops, dev,
		       OWN("\x12", "\x0a\x06\x02\0\0\0\0\0\x1a\x06\x02\0\0\0\0\0\x20\x43"),
		       "an MTU of 67");
	assert_refused(&dev->device_ops, dev,
		       OWN("\x12", "\x0a\x06\x02\0\0\0\0\0\x10\x01\x1a\x06\x02\0\0\0\0\0"),
		       "offloads (features 0x1)");
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 1);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_arrives_is_announced_with_either_ring),
		cmocka_unit_test(only_who_arrives_is_announced),
		cmocka_unit_test(another_machine_has_an_address_of_its_own),
		cmocka_unit_test(without_an_address_of_its_own_it_keeps_what_it_had),
		cmocka_unit_test(hostile_state_is_refused),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
