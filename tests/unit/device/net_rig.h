/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A network device behind a PCI bridge, as a driver sees it; what is behind the
 * device is a socket pair, of which the test has the other end. What the tests of
 * virtio-net share.
 */
#ifndef POSTERN_TESTS_DEVICE_NET_RIG_H
#define POSTERN_TESTS_DEVICE_NET_RIG_H

#include <linux/virtio_net.h>

#include "bridge.h"
#include "device/virtio/type.h"
#include "device/virtio/net.h"
#include "msi.h"
#include "turns.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define DEVICE_AT 0x2000
/* Rings of queue n; buffers for what is received, sent, ordered. */
#define RINGS(n) (0x10000u + (n) * 0x4000u)
#define RX_DATA 0x40000u
#define TX_DATA 0x80000u
#define CONTROL_DATA 0xc0000u
#define SIZE 16
#define BUFFER 2048u
#define HEADER 12u
#define FEATURE(n) (UINT64_C(1) << (n))
#define VERSION FEATURE(VIRTIO_F_VERSION_1)
#define PACKED FEATURE(VIRTIO_F_RING_PACKED)
#define EVENT FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define MERGE FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define BASIC                                                            \
	(FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS) |      \
	 FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURE(VIRTIO_NET_F_CTRL_RX) | \
	 FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR) | FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define MAC "02:00:00:00:00:01"
#define order_text(r, text) order(r, text, sizeof(text) - 1)
/* A VirtioState with a NetState of these bytes. */
#define OWN(n, bytes) "\x10\x00\x52" n bytes

enum { RX, TX, CONTROL, QUEUES };

struct rig {
	struct loop *loop;
	struct memory *mem;
	uint8_t *ram;
	struct pci_host *host;
	struct vdev *dev;
	struct fake_msi msi;
	struct driver driver[QUEUES];
	int peer;		/* the other end; -1: none */
};

/* The device, on memory that is there already. */
int device_new(struct rig *r, const char *text, const char *machine, struct err *err);
void device_free(struct rig *r);
/* Without a device, and as what is left when a device was freed. */
struct rig *rig_bare(bool late);
void rig_bare_free(struct rig *r);
/* On one end of a socket pair; a small buffer, so that it is soon full. */
void device_on_socket(struct rig *r, int type);
struct rig *rig_new(int type, bool late);
void rig_free(struct rig *r);
/* The loop has nothing to do and would sleep: it does not spin. */
void assert_idle(struct rig *r);

/* ---- registers ---- */

uint64_t get(struct rig *r, uint64_t at, unsigned int size);
void put(struct rig *r, uint64_t at, uint64_t value, unsigned int size);
uint8_t status(struct rig *r);
void set_status(struct rig *r, unsigned int value);
uint64_t features(struct rig *r);
uint16_t link_status(struct rig *r);
/* As a driver starts: queue n with vector n + 1, the configuration with vector 0. */
void driver_start(struct rig *r, uint64_t with);
void notify(struct rig *r, unsigned int i);

/* ---- frames ---- */

void fill_frame(uint8_t *to, size_t len, unsigned int seed);
/* The peer sends; false: its socket is full. */
bool peer_send(struct rig *r, size_t len, unsigned int seed);
/* The next frame that the peer has got: its length, 0: none. It must be that of the seed. */
size_t peer_receive(struct rig *r, unsigned int seed);
void peer_write(struct rig *r, const void *data, size_t len);
void post(struct rig *r, uint64_t gpa, uint32_t len);
/* The guest sends a frame from slot n of its buffers, with this header or none. */
void guest_send_with(struct rig *r, unsigned int n, const struct virtio_net_hdr_v1 *header,
		     uint32_t len, unsigned int seed);
void guest_send(struct rig *r, unsigned int n, uint32_t len, unsigned int seed);
/* What was received in the buffer at gpa. */
void assert_frame(struct rig *r, uint64_t gpa, uint32_t written, size_t len, unsigned int seed);
struct net_stats stats(struct rig *r);
/* A frame of 1400 bytes in buffers of 512. */
void assert_three(struct rig *r, unsigned int seed);
uint16_t used_index(struct rig *r);
/* The guest sends until nothing more is taken; returns how many were. */
unsigned int fill_up(struct rig *r);
uint8_t order(struct rig *r, const void *bytes, uint32_t n);
/* Another machine with the same memory, its guest not started yet. */
void there_new(struct rig *there, struct rig *r, int type);
void fill(struct rig *r, uint64_t gpa, unsigned int pages);
struct rig *rig_late(uint64_t with);

#endif
