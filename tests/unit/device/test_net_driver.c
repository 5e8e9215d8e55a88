// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * virtio-net and its driver: chains and frames that are wrong, orders, and
 * offloads, of which it is given what it has agreed to.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/log.h"
#include "net_rig.h"

static void a_wrong_chain_needs_a_reset(void **state)
{
	const struct {
		unsigned int queue, n;
		struct driver_buf buf[2];
	} cases[] = {
		/*
		 * Too small for a header; readable where frames are to come; a
		 * frame with a writable buffer; no header.
		 */
		{ RX, 1, { { RX_DATA, HEADER - 1, true } } },
		{ RX, 2, { { RX_DATA, 64, false }, { RX_DATA, 2048, true } } },
		{ TX, 2, { { TX_DATA, 64, false }, { TX_DATA, 64, true } } },
		{ TX, 1, { { TX_DATA, HEADER - 1, false } } },
		{ CONTROL, 1, { { CONTROL_DATA, 2, false } } },
		{ CONTROL, 2, { { CONTROL_DATA, 1, false }, { CONTROL_DATA, 1, true } } },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *r = rig_new(SOCK_DGRAM, false);

		driver_start(r, BASIC | MERGE);
		driver_add(&r->driver[cases[i].queue], cases[i].buf, cases[i].n, 0);
		notify(r, cases[i].queue);
		assert_true(peer_send(r, 100, 0));
		run_until(r, status(r) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_int_equal(vdev_in_flight(r->dev), 0);
		assert_idle(r);
		set_status(r, 0);
		assert_int_equal(status(r), 0);
		rig_free(r);
	}
}

static void wrong_frames_are_dropped_and_counted(void **state)
{
	/* None of these was agreed on. */
	const struct virtio_net_hdr_v1 headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000 },
		{ .gso_type = 77 },
	};
	struct rig *r = rig_new(SOCK_DGRAM, false);
	const struct driver_buf large = { TX_DATA, 70000, false }, none = { TX_DATA, HEADER, false };
	unsigned int i;
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	for (i = 0; i < 3; i++)
		guest_send_with(r, i, &headers[i], 100, i);
	/* Too short for Ethernet; nothing but a header; larger than any frame is. */
	guest_send(r, 3, 13, 0);
	driver_add(&r->driver[TX], &none, 1, 0);
	driver_add(&r->driver[TX], &large, 1, 0);
	notify(r, TX);
	run_until(r, stats(r).sent_dropped == 6);
	for (i = 0; i < 6; i++)
		assert_true(driver_used(&r->driver[TX], 1, &len) >= 0);
	guest_send(r, 5, 100, 5);
	run_until(r, peer_receive(r, 5) == 100);
	assert_int_equal(status(r), 0xf);
	rig_free(r);
}

static void orders_are_checked(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);

	(void)state;
	driver_start(r, BASIC);
	/* Modes; of the ones that are not offered none. */
	assert_int_equal(order_text(r, "\x00\x00\x01"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x00\x01\x01"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x00\x02\x01"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x00\x00"), VIRTIO_NET_ERR);
	/* Tables: whole ones, of none and of one; too short, too long, lengths that are absurd. */
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0\0"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\x01\0\0\0abcdef\0\0\0\0"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\x01\0\0\0abcdef"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0\0x"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\x02\0\0\0abcdef\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\xff\xff\xff\xff\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\xff\xff\xff\xff"), VIRTIO_NET_ERR);
	/* Its address: of a group, half of one, and a good one. */
	assert_int_equal(order_text(r, "\x01\x01\x01\0\0\0\0\x09"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x01\x02\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 1);
	assert_int_equal(order_text(r, "\x01\x01\x02\0\0\0\0\x09"), VIRTIO_NET_OK);
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 9);
	/* Nothing to acknowledge; queue pairs, offloads, what there is not. */
	assert_int_equal(order_text(r, "\x03\x00"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x04\x00\x02\x00"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x05\x00\0\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\xff\xff"), VIRTIO_NET_ERR);
	assert_int_equal(status(r), 0xf);
	rig_free(r);
}

static ssize_t header_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	return writev(b->fd, iov, (int)n);
}

static ssize_t header_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = recv(b->fd, to, room, MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static unsigned int offloads_now;

static void header_set_offloads(struct net_backend *b, unsigned int offloads)
{
	(void)b;
	offloads_now = offloads;
}

/* Like a tap, with the frames' headers to be seen. */
static struct rig *rig_with_header(void)
{
	static const struct net_backend_ops ops = {
		.write = header_write, .read = header_read, .set_offloads = header_set_offloads,
	};
	const struct net_config config = { .mac = { 2, 0, 0, 0, 0, 1 } };
	struct net_backend *b = calloc(1, sizeof(*b));
	struct rig *r = rig_bare(false);
	const struct vdev_env env = { .mem = r->mem,
				      .loop = r->loop,
				      .cpus = 1,
				      .msi = { &fake_msi_ops, &r->msi } };
	struct err err;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds), 0);
	*b = (struct net_backend){ .ops = &ops, .fd = fds[0], .header = true, .offloads = 15 };
	r->peer = fds[1];
	assert_int_equal(net_backend_init(b, &err), 0);
	assert_int_equal(net_new(&r->dev, &env, b, &config, 0, &err), 0);
	r->host = bridge_new();
	bridge_add(r->host, r->dev);
	vdev_start(r->dev);
	return r;
}

static void peer_send_header(struct rig *r, unsigned int flags, unsigned int gso)
{
	struct {
		struct virtio_net_hdr_v1 header;
		uint8_t frame[100];
	} packet = {
		.header = { .flags = (uint8_t)flags, .gso_type = (uint8_t)gso, .gso_size = 50 }
	};

	assert_int_equal(send(r->peer, &packet, sizeof(packet), 0), sizeof(packet));
}

static void a_driver_is_given_what_it_has_agreed_to(void **state)
{
	struct rig *r = rig_with_header();
	struct virtio_net_hdr_v1 header;
	unsigned int i;
	uint32_t len;

	(void)state;
	assert_int_equal(offloads_now, 0);
	driver_start(r,
		     BASIC | FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_TSO4));
	for (i = 0; i < 8; i++)
		post(r, RX_DATA + i * BUFFER, BUFFER);
	turns(r->loop);
	assert_int_equal(offloads_now, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	memcpy(&header, r->ram + RX_DATA, sizeof(header));
	assert_int_equal(header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(header.num_buffers, 1);
	/* What another driver agreed to, before; and what nobody has. */
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM,
			 VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP);
	run_until(r, stats(r).received_dropped == 3);
	set_status(r, 0);
	assert_int_equal(offloads_now, 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
	run_until(r, stats(r).received_dropped == 4);
	peer_send_header(r, VIRTIO_NET_HDR_F_DATA_VALID, 0);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_int_equal(r->ram[RX_DATA], 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_wrong_chain_needs_a_reset),
		cmocka_unit_test(wrong_frames_are_dropped_and_counted),
		cmocka_unit_test(orders_are_checked),
		cmocka_unit_test(a_driver_is_given_what_it_has_agreed_to),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
