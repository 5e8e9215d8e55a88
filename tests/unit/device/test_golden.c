// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Devices' states as they were recorded (tests/golden/README.md): what a
 * device saves after the same accesses is still byte for byte what it saved
 * then, and what was recorded, of this version and of the one before, loads
 * and is saved as it was. A field that changes its meaning without a new
 * version fails one or the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "../../own_dir.h"
#include "device/identity.h"
#include "device/pci/host.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/virtio/balloon.h"
#include "device/virtio/net.h"
#include "small.h"

/* Needs cmocka, which small.h brings. */
#include "../../golden.h"

#define BIT(n) (UINT64_C(1) << (n))
#define DISK_BYTES (UINT64_C(3) << 20)
#define TABLE_AT 0x4000u

/* ---- the two sides of every test ---- */

static struct buf saved(const struct device *device)
{
	struct buf buf = { 0 };
	struct err err;

	if (device->ops->save(device->dev, &buf, &err))
		fail_msg("%s", err.text);
	return buf;
}

/* what: "", or "+" and what is different about this one. */
static void name_of(char to[64], const struct device *device, const char *what)
{
	snprintf(to, 64, "devices/%s%s", device->ops->name, what);
}

/* The device has been brought to the state that was recorded. */
static void is_saved_as_recorded(const struct device *device, const char *what)
{
	struct buf buf = saved(device);
	char name[64];

	name_of(name, device, what);
	golden_saved(&buf, name, device->ops->version);
	buf_fini(&buf);
}

static struct buf reload(void *arg, uint32_t version, const uint8_t *data, size_t len)
{
	const struct device *device = arg;
	struct err err;

	if (device_load(device, version, data, len, &err))
		fail_msg("%s", err.text);
	return saved(device);
}

/* The device is fresh. */
static void loads_as_recorded(struct device *device, const char *what)
{
	struct err err;
	char name[64];

	name_of(name, device, what);
	golden_loads(name, device->ops->version, reload, device);
	assert_int_equal(device_load(device, device->ops->version + 1, NULL, 0, &err), -EPROTO);
}

/* ---- serial port, power management, clock ---- */

static void ignore_line(void *arg, bool level)
{
	(void)arg, (void)level;
}

static void ignore(void *arg)
{
	(void)arg;
}

static void ignore_output(void *arg, const uint8_t *data, size_t len)
{
	(void)arg, (void)data, (void)len;
}

static struct serial *serial_make(void)
{
	const struct irq_line irq = { .fn = ignore_line };
	const struct serial_wire wire = { .output = ignore_output, .accept_input = ignore };
	struct serial *serial;
	struct err err;

	assert_int_equal(serial_new(&serial, &irq, &wire, &err), 0);
	return serial;
}

static void the_serial_port(void **state)
{
	struct serial *from = serial_make(), *to = serial_make();
	unsigned int i;

	(void)state;
	put8(serial_access, from, 3, 0x83); /* LCR: divisor latch */
	put8(serial_access, from, 0, 0x34);
	put8(serial_access, from, 1, 0x12);
	put8(serial_access, from, 3, 0x1b);
	put8(serial_access, from, 2, 0xc1); /* FCR */
	put8(serial_access, from, 4, 0x0a); /* MCR */
	put8(serial_access, from, 1, 0x07); /* IER */
	put8(serial_access, from, 7, 0x77); /* scratch */
	assert_int_equal(serial_input(from, (const uint8_t *)"0123456789abcdef", 16), 16);
	put8(serial_access, from, 4, 0x19); /* loops back: modem lines change, a byte too many */
	for (i = 0; i < 2; i++)
		put8(serial_access, from, 0, 'x');
	is_saved_as_recorded(&(struct device){ &serial_device_ops, from }, "");
	loads_as_recorded(&(struct device){ &serial_device_ops, to }, "");
	serial_free(from);
	serial_free(to);
}

static int64_t time_ns;

static int64_t time_now(void)
{
	return time_ns;
}

static struct power *power_make(void)
{
	const struct power_config config = {
		.sci = { .fn = ignore_line },
		.s5_slp_typ = 5,
		.now_ns = time_now,
	};
	struct power *power;
	struct err err;

	assert_int_equal(power_new(&power, &config, &err), 0);
	return power;
}

static void power_management(void **state)
{
	struct power *from, *to;

	(void)state;
	time_ns = 7 * NS_PER_SEC;
	from = power_make();
	put8(power_event_access, from, 3, 0x01); /* PM1 enable: power button */
	put8(power_event_access, from, 2, 0x21);
	put8(power_control_access, from, 0, 0x01);
	put8(power_control_access, from, 1, 0x04);
	put8(power_reset_access, from, 0, 0x02);
	put8(power_port_a_access, from, 0, 0x02);
	power_press_button(from);
	time_ns += 3 * NS_PER_SEC + 1;
	is_saved_as_recorded(&(struct device){ &power_device_ops, from }, "");
	time_ns += 100 * NS_PER_SEC;
	to = power_make();
	loads_as_recorded(&(struct device){ &power_device_ops, to }, "");
	/* The timer's top bit has changed. */
	time_ns += 600 * NS_PER_SEC;
	is_saved_as_recorded(&(struct device){ &power_device_ops, from }, "+carry");
	loads_as_recorded(&(struct device){ &power_device_ops, to }, "+carry");
	power_free(from);
	power_free(to);
}

static void rtc_time(struct timespec *now)
{
	*now = (struct timespec){ .tv_sec = 1000000000 };
}

static void the_clock(void **state)
{
	struct rtc *from, *to;
	struct err err;
	unsigned int i;

	(void)state;
	assert_int_equal(rtc_new(&from, rtc_time, &err), 0);
	assert_int_equal(rtc_new(&to, rtc_time, &err), 0);
	for (i = 0; i < 128; i++) {
		put8(rtc_access, from, 0, i);
		put8(rtc_access, from, 1, 0x80 ^ i);
	}
	put8(rtc_access, from, 0, 0x2f);
	is_saved_as_recorded(&(struct device){ &rtc_device_ops, from }, "");
	loads_as_recorded(&(struct device){ &rtc_device_ops, to }, "");
	rtc_free(from);
	rtc_free(to);
}

static void which_machine_it_is(void **state)
{
	const struct irq_line line = { .fn = ignore_line };
	/*
	 * All of it comes from nowhere else: random numbers, and what machines
	 * have been through.
	 */
	static _Alignas(PAGE_BYTES) uint8_t pages[2][IDENTITY_PAGES * PAGE_BYTES];
	static const uint8_t been[] = "\x0a\x10"
				      "0123456789abcdef"
				      "\x10\x05\x18\x03\x20\x0c";
	struct identity *from, *to;
	struct err err;

	(void)state;
	assert_int_equal(identity_new(&from, pages[0], &line, &err), 0);
	assert_int_equal(identity_new(&to, pages[1], &line, &err), 0);
	assert_int_equal(identity_device_ops.load(from, been, sizeof(been) - 1, &err), 0);
	is_saved_as_recorded(&(struct device){ &identity_device_ops, from }, "");
	loads_as_recorded(&(struct device){ &identity_device_ops, to }, "");
	identity_free(from);
	identity_free(to);
}

static void the_pci_bridge(void **state)
{
	const struct pci_range windows[PCI_WINDOWS] = { { UINT64_C(0xc0000000), 0x1000000 },
							{ 0, 0 } };
	struct pci_host *host[2];
	uint8_t address[4] = { 0x3c, 0xf8, 0x01, 0x80 };
	struct err err;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++)
		assert_int_equal(pci_host_new(&host[i], windows, &err), 0);
	pci_host_ecam_access(host[0], PCI_INTERRUPT_LINE, true, (uint8_t[]){ 0x0b }, 1);
	pci_host_port_access(host[0], 0, true, address, sizeof(address));
	is_saved_as_recorded(&(struct device){ &pci_host_device_ops, host[0] }, "");
	loads_as_recorded(&(struct device){ &pci_host_device_ops, host[1] }, "");
	for (i = 0; i < 2; i++)
		pci_host_free(host[i]);
}

/* ---- virtio ---- */

static unsigned int msix_at(struct vdev *dev)
{
	uint8_t at = PCI_CAPABILITY_LIST, cap = 0;

	pci_function_config_access(&dev->fn, at, false, &at, 1);
	while (at) {
		pci_function_config_access(&dev->fn, at, false, &cap, 1);
		if (cap == PCI_CAP_ID_MSIX)
			return at;
		pci_function_config_access(&dev->fn, at + 1u, false, &at, 1);
	}
	fail_msg("no MSI-X");
	return 0;
}

/*
 * Every vector has an address of its own; each queue another one; the selectors
 * stay where no default is.
 */
static void virtio_vectors(struct vdev *dev)
{
	uint16_t enable = PCI_MSIX_FLAGS_ENABLE;
	unsigned int i;

	for (i = 0; i < dev->fn.msix.vectors; i++) {
		small_put(dev, TABLE_AT + 16 * i, 0xfee00000 + 0x1000 * i, 4);
		small_put(dev, TABLE_AT + 16 * i + 4, i % 2, 4);
		small_put(dev, TABLE_AT + 16 * i + 8, 0x4021 + i, 4);
		small_put(dev, TABLE_AT + 16 * i + 12, i == 1, 4);
	}
	pci_function_config_access(&dev->fn, msix_at(dev) + PCI_MSIX_FLAGS, true,
				   (uint8_t *)&enable, sizeof(enable));
	small_put(dev, VIRTIO_PCI_COMMON_MSIX, 1, 2);
	for (i = 0; i < dev->queues; i++) {
		small_put(dev, VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
		small_put(dev, VIRTIO_PCI_COMMON_Q_MSIX, i % dev->fn.msix.vectors, 2);
	}
}

static void virtio_selectors(struct vdev *dev)
{
	small_put(dev, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	small_put(dev, VIRTIO_PCI_COMMON_GFSELECT, 3, 4);
	small_put(dev, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
}

/* The device has been brought where it was; `text` makes another one of it. */
static void virtio_end(struct small *s, const struct virtio_type *type, const char *text,
		       const char *what)
{
	struct vdev *to;

	virtio_selectors(s->dev);
	vdev_stop(s->dev);
	is_saved_as_recorded(&(struct device){ &s->dev->device_ops, s->dev }, what);
	vdev_release(s->dev);
	to = small_device(s, type, text);
	loads_as_recorded(&(struct device){ &to->device_ops, to }, what);
	vdev_free(to);
	small_free(s);
}

/* A chain of one queue, and its answer. */
static void chain(struct small *s, unsigned int queue, const struct driver_buf *buf, unsigned int n)
{
	uint32_t len;

	driver_add(&s->driver[queue], buf, n, 0);
	vdev_run(s->dev, queue);
	small_until(s, driver_used(&s->driver[queue], n, &len) >= 0);
}

/* Interrupts by ISR: MSI-X stays off. */
static void entropy(void **state)
{
	const struct driver_buf buf = { SMALL_DATA, 16, true };
	struct small *s = small_new(&rng_type, "", false);
	unsigned int i;

	(void)state;
	small_start(s, 0);
	for (i = 0; i < 3; i++)
		chain(s, 0, &buf, 1);
	virtio_end(s, &rng_type, "", "");
}

static void a_disk(void **state)
{
	struct own_dir dir = own_dir_new();
	const struct driver_buf flush[] = { { SMALL_DATA, 16, false },
					    { SMALL_DATA + 0x1000, 1, true } };
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_FLUSH };
	struct small *s;
	char path[64], text[80];
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/disk", dir.path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	s = small_new(&blk_type, path, false);
	small_start(s, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_SEG_MAX));
	virtio_vectors(s->dev);
	memcpy(s->ram + SMALL_DATA, &header, sizeof(header));
	chain(s, 0, flush, 2);
	virtio_end(s, &blk_type, path, "");
	snprintf(text, sizeof(text), "%s,readonly", path);
	s = small_new(&blk_type, text, false);
	small_start(s, BIT(VIRTIO_BLK_F_RO));
	virtio_vectors(s->dev);
	virtio_end(s, &blk_type, text, "+readonly");
	unlink(path);
	own_dir_free(&dir);
}

/* The driver has set an address of its own: the one before comes back with a reset. */
static void a_network(void **state)
{
	static const uint8_t order[] = {
		VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 0x52, 0x54, 0, 1, 2, 3
	};
	const struct driver_buf bufs[] = { { SMALL_DATA, 2, false },
					   { SMALL_DATA + 2, 6, false },
					   { SMALL_DATA + 64, 1, true } };
	struct small *s;
	char text[64], again[64];
	int fds[4];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds + 2), 0);
	snprintf(text, sizeof(text), "fd=%d,mac=02:00:00:00:00:01", fds[0]);
	snprintf(again, sizeof(again), "fd=%d,mac=02:00:00:00:00:01", fds[2]);
	s = small_new(&net_type, text, false);
	small_start(s, BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
			       BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
			       SMALL_PACKED);
	virtio_vectors(s->dev);
	memcpy(s->ram + SMALL_DATA, order, sizeof(order));
	chain(s, 2, bufs, 3);
	assert_int_equal(s->ram[SMALL_DATA + 64], VIRTIO_NET_OK);
	virtio_end(s, &net_type, again, "");
	close(fds[1]);
	close(fds[3]);
}

static ssize_t tap_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	(void)b, (void)iov, (void)n;
	return -EAGAIN;
}

static ssize_t tap_read(struct net_backend *b, void *to, size_t room)
{
	(void)b, (void)to, (void)room;
	return -EAGAIN;
}

/* What a tap can do, which a socket cannot. */
static int tap_make(struct vdev **out, const struct vdev_env *env, const char *text,
		    unsigned int number, struct err *err)
{
	static const struct net_backend_ops ops = { .write = tap_write, .read = tap_read };
	const struct net_config config = { .mac = { 2, 0, 0, 0, 0, 1 } };
	struct net_backend *b = calloc(1, sizeof(*b));

	(void)text;
	b->ops = &ops;
	b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b->header = true;
	b->offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
	b->mtu = 1400;
	assert_int_equal(net_backend_init(b, err), 0);
	return net_new(out, env, b, &config, number, err);
}

static void a_network_with_offloads(void **state)
{
	const struct virtio_type type = { .make = tap_make };
	struct small *s = small_new(&type, "", false);

	(void)state;
	small_start(s, BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_CSUM) |
			       BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_CSUM) |
			       BIT(VIRTIO_NET_F_GUEST_TSO4));
	virtio_vectors(s->dev);
	virtio_end(s, &type, "", "+offloads");
}

static void a_console(void **state)
{
	const struct driver_buf out = { SMALL_DATA, 4, false };
	struct small *s = small_new(&console_type, "null", false);

	(void)state;
	small_start(s, 0);
	virtio_vectors(s->dev);
	chain(s, 1, &out, 1);
	virtio_end(s, &console_type, "null", "");
}

static void a_balloon(void **state)
{
	const struct driver_buf pages = { SMALL_DATA, 4, false };
	const uint32_t page = 0x200000 / PAGE_BYTES;
	struct small *s = small_new(&balloon_type, "", false);

	(void)state;
	small_start(s, BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | SMALL_PACKED);
	virtio_vectors(s->dev);
	balloon_set_target(s->dev, 0x1234);
	memcpy(s->ram + SMALL_DATA, &page, sizeof(page));
	chain(s, 0, &pages, 1);
	small_put(s->dev, SMALL_CONFIG + 4, 0x1001, 4);
	virtio_end(s, &balloon_type, "", "");
}

static void sockets(void **state)
{
	struct own_dir dir = own_dir_new();
	char text[96], again[96];
	struct small *s;

	(void)state;
	snprintf(text, sizeof(text), "cid=7,socket=%s/v", dir.path);
	snprintf(again, sizeof(again), "cid=7,socket=%s/w", dir.path);
	s = small_new(&vsock_type, text, false);
	small_start(s, 0);
	virtio_vectors(s->dev);
	virtio_end(s, &vsock_type, again, "");
	own_dir_free(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_serial_port),
		cmocka_unit_test(power_management),
		cmocka_unit_test(the_clock),
		cmocka_unit_test(which_machine_it_is),
		cmocka_unit_test(the_pci_bridge),
		cmocka_unit_test(entropy),
		cmocka_unit_test(a_disk),
		cmocka_unit_test(a_network),
		cmocka_unit_test(a_network_with_offloads),
		cmocka_unit_test(a_console),
		cmocka_unit_test(a_balloon),
		cmocka_unit_test(sockets),
	};

	if (!getenv("POSTERN_GOLDEN")) {
		fprintf(stderr, "POSTERN_GOLDEN is not set: meson sets it\n");
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
