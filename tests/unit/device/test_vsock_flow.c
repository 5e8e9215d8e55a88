// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Virtio sockets: credit on either side, packets that are wrong or too many, and
 * what comes between: a reset, a migration, a page that is missing.
 */
#include <signal.h>

#include "base/log.h"
#include "vsock_world.h"

/* A close with bytes that were not read is an error to the other side. */
static void a_host_that_goes_without_reading_is_noticed(void **state)
{
	struct world w = world_new(8);
	int fd = host_dial(&w), i;

	(void)state;
	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	w.host_port = expect_op(&w, VIRTIO_VSOCK_OP_REQUEST).h.src_port;
	guest_send(&w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	/* "OK" lies there. */
	close(fd);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VSOCK_BOTH);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* So does what the guest sent; and what it sends later is kept. */
	fd = guest_calls(&w);
	for (i = 0; i < 3; i++)
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	close(fd);
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "hello", 5);
	while (expect_op(&w, VIRTIO_VSOCK_OP_SHUTDOWN).h.flags != VSOCK_BOTH)
		;
	/* A guest that does not answer is reset in the end. */
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	expect_silence(&w);
	world_free(&w);
}

static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 7 + (at >> 8));
}

/*
 * The host's program reads nothing: what its socket does not take is kept, up
 * to the guest's credit, and nothing is lost.
 */
static void a_host_that_does_not_read_holds_up_the_guest(void **state)
{
	static uint8_t data[4096], back[4096];
	struct world w = world_new(8);
	int fd = guest_calls(&w), size = 4096;
	uint32_t sent = 0, known = 0, got = 0, i;
	struct packet p;
	uint32_t len;
	int id;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	/* As long as there is credit; the device tells of it. */
	for (;;) {
		id = driver_used(&w.s->driver[RX], 1, &len);
		if (id >= 0) {
			memcpy(&p, w.s->ram + RX_AT(id), HEADER);
			assert_int_equal(p.h.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			known = p.h.fwd_cnt;
			give_buffer(&w);
		}
		if (sent - known + sizeof(data) > VSOCK_BUFFER_BYTES) {
			small_turn(w.s);
			if (driver_get16(&w.s->driver[RX], w.s->driver[RX].used + 2) ==
			    w.s->driver[RX].last_used)
				break;
			continue;
		}
		for (i = 0; i < sizeof(data); i++)
			data[i] = byte_at(sent + i);
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
		sent += sizeof(data);
	}
	assert_true(sent > VSOCK_BUFFER_BYTES);
	/* The guest gives up: what it sent is still the host's. */
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	while (got < sent) {
		i = (uint32_t)host_read(&w, fd, back, sizeof(back));
		assert_int_equal(i, sizeof(back));
		for (i = 0; i < sizeof(back); i++)
			assert_int_equal(back[i], byte_at(got + i));
		got += sizeof(back);
	}
	expect_end(&w, fd);
	close(fd);
	world_free(&w);
}

static void a_guest_that_goes_over_its_credit_is_reset(void **state)
{
	static uint8_t data[65536];
	struct world w = world_new(8);
	int fd = guest_calls(&w), size = 4096;
	unsigned int i;
	uint32_t len;

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (i = 0; i < 64; i++) {
		guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, data, sizeof(data));
		if (driver_used(&w.s->driver[RX], 1, &len) >= 0)
			break;
	}
	assert_true(i < 64);
	assert_int_equal(small_status(w.s), 0xf);
	close(fd);
	world_free(&w);
}

static void the_guest_gets_no_more_than_it_has_room_for(void **state)
{
	uint8_t data[3000] = { 1, 2, 3 };
	struct world w = world_new(8);
	struct packet p;
	int fd;

	(void)state;
	w.alloc = 1000;
	fd = host_calls(&w);
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 1000);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	expect_silence(&w);
	w.gone = 600;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	assert_int_equal(expect_op(&w, VIRTIO_VSOCK_OP_RW).h.len, 600);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	/* It says that more has gone than came. */
	w.gone = 5000;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	w.gone = 1600;
	guest_send(&w, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(p.h.len, 1000);
	close(fd);
	world_free(&w);
}

static void packets_of_nobody_are_refused_or_dropped(void **state)
{
	struct world w = world_new(8);
	struct virtio_vsock_hdr h = { .src_cid = CID + 1,
				      .dst_cid = 2,
				      .type = 1,
				      .op = VIRTIO_VSOCK_OP_REQUEST };
	uint32_t len;

	(void)state;
	w.guest_port = 1;
	w.host_port = 2;
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "x", 1);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, 99, 0, NULL, 0);
	expect_op(&w, VIRTIO_VSOCK_OP_RST);
	guest_send(&w, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
	expect_silence(&w);
	/* Another's address. */
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
	small_notify(w.s, TX);
	small_until(w.s, driver_used(&w.s->driver[TX], 1, &len) >= 0);
	expect_silence(&w);
	/* A packet that says it is longer than it is. */
	h = (struct virtio_vsock_hdr){ .src_cid = CID,
				       .dst_cid = 2,
				       .len = 1,
				       .type = 1,
				       .op = VIRTIO_VSOCK_OP_RW };
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
	small_notify(w.s, TX);
	small_until(w.s, small_status(w.s) & VIRTIO_CONFIG_S_NEEDS_RESET);
	world_free(&w);
}

/*
 * A guest that asks and does not listen: answers are bounded, its queue stops,
 * and goes on once it listens.
 */
static void refusals_are_bounded(void **state)
{
	const struct virtio_vsock_hdr h = { .src_cid = CID,
					    .dst_cid = 2,
					    .src_port = 1,
					    .dst_port = 7001,
					    .type = 1,
					    .op = VIRTIO_VSOCK_OP_REQUEST };
	struct world w = world_new(0);
	unsigned int sent = 0, idle = 0, got = 0;
	uint32_t len;

	(void)state;
	w.guest_port = 1;
	memcpy(w.s->ram + TX_AT, &h, sizeof(h));
	for (; idle < 5; idle++) {
		driver_add(&w.s->driver[TX], &(struct driver_buf){ TX_AT, HEADER, false }, 1, 0);
		small_notify(w.s, TX);
		sent++;
		small_turn(w.s);
		if (driver_used(&w.s->driver[TX], 1, &len) >= 0)
			idle = 0;
		assert_true(sent < 200);
	}
	for (; got < sent; got++) {
		if (got < 8)
			give_buffer(&w);
		if (got >= 7)
			expect_op(&w, VIRTIO_VSOCK_OP_RST);
	}
	world_free(&w);
}

static void a_reset_ends_connections(void **state)
{
	struct world w = world_new(8);
	int fd = guest_calls(&w), other = host_dial(&w);

	(void)state;
	small_put(w.s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(small_status(w.s), 0);
	expect_end(&w, fd);
	/* Who is still being greeted is not concerned. */
	memset(w.s->ram + SMALL_RINGS, 0, 3 * SMALL_RING);
	small_start(w.s, SMALL_PACKED);
	assert_int_equal(write(other, "CONNECT 5000\n", 13), 13);
	w.guest_port = 5000;
	give_buffer(&w);
	expect_op(&w, VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	close(other);
	world_free(&w);
}

static void after_a_migration_the_guest_is_told(void **state)
{
	const struct driver_buf buf = { SMALL_DATA + 0x400000, 8, true };
	struct world w = world_new(8), there = w;
	int fd = guest_calls(&w);
	struct small machine = *w.s;
	char text[96];
	uint32_t len;

	(void)state;
	driver_add(&w.s->driver[EVENT], &buf, 1, 0);
	small_notify(w.s, EVENT);
	small_turn(w.s);
	vdev_stop(w.s->dev);
	/* Another machine with the same memory. */
	snprintf(text, sizeof(text), "cid=%d,socket=%s-there", CID, w.path);
	machine = *w.s;
	machine.dev = small_device(w.s, &vsock_type, text);
	there.s = &machine;
	there.guest_port = w.guest_port;
	there.host_port = w.host_port;
	state_torture(&w.s->dev->device_ops, w.s->dev, machine.dev);
	vdev_start(machine.dev);
	small_until(w.s, driver_used(&machine.driver[EVENT], 1, &len) >= 0);
	assert_int_equal(len, 4);
	assert_int_equal(*(uint32_t *)(void *)(w.s->ram + buf.gpa),
			 VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	guest_send(&there, VIRTIO_VSOCK_OP_RW, 0, "x", 1);
	expect_op(&there, VIRTIO_VSOCK_OP_RST);
	vdev_free(machine.dev);
	close(fd);
	world_free(&w);
}

static void fill(struct small *s, uint64_t gpa, uint64_t pages)
{
	assert_true(memory_fill(s->mem, gpa_to_gfn(GPA(gpa)), pages, NULL) >= 0);
}

/* The guest's buffer has not come: what it is to get stays in the socket, what it sends goes on. */
static void a_missing_page_holds_up_one_direction(void **state)
{
	struct world w = world_late(true);
	char text[8] = { 0 };
	struct packet p;
	int fd;

	(void)state;
	fill(w.s, SMALL_RINGS, 16);
	fill(w.s, TX_AT, 2);
	fill(w.s, RX_AT(0), 1);
	small_start(w.s, 0);
	give_buffer(&w);
	fd = guest_calls(&w);
	assert_int_equal(write(fd, "hello", 5), 5);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	guest_send(&w, VIRTIO_VSOCK_OP_RW, 0, "out", 3);
	assert_int_equal(host_read(&w, fd, text, 3), 3);
	assert_string_equal(text, "out");
	/* Stopped meanwhile, and on again. */
	vdev_stop(w.s->dev);
	assert_false(vqueue_is_parked(&w.s->dev->queue[RX]));
	small_turn(w.s);
	vdev_start(w.s->dev);
	fill(w.s, RX_AT(1), 1);
	p = expect_op(&w, VIRTIO_VSOCK_OP_RW);
	assert_memory_equal(p.data, "hello", 5);
	/* The end comes while it is parked. */
	assert_int_equal(write(fd, "more", 4), 4);
	small_until(w.s, vqueue_is_parked(&w.s->dev->queue[RX]));
	close(fd);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_host_that_goes_without_reading_is_noticed),
		cmocka_unit_test(a_host_that_does_not_read_holds_up_the_guest),
		cmocka_unit_test(a_guest_that_goes_over_its_credit_is_reset),
		cmocka_unit_test(the_guest_gets_no_more_than_it_has_room_for),
		cmocka_unit_test(packets_of_nobody_are_refused_or_dropped),
		cmocka_unit_test(refusals_are_bounded),
		cmocka_unit_test(a_reset_ends_connections),
		cmocka_unit_test(after_a_migration_the_guest_is_told),
		cmocka_unit_test(a_missing_page_holds_up_one_direction),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
