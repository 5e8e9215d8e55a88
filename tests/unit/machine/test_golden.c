// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Whole machines' states as they were recorded (tests/golden/README.md), on a
 * real KVM: what was recorded, of this version and of the one before, loads,
 * and what is saved then says the same in every field but those of time.
 *
 * A vCPU that was recorded on another CPU may be one that this host cannot be:
 * then the vCPUs and the VM are this host's, and all else is the recorded one.
 *
 * POSTERN_GOLDEN: the folder; POSTERN_BARE: the bare guest. With
 * POSTERN_GOLDEN_WRITE set, a file that is missing is written.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../own_dir.h"
#include "base/clock.h"
#include "machine/internal.h"

#define CPUS 2
#define MEMORY_BYTES ((uint64_t)16 << 20)
#define DISK_BYTES ((off_t)3 << 20)
#define STATE_BYTES_MAX (1u << 20)
#define NEW "identity" /* no board had it in version 2 */

/* ---- machines ---- */

struct world {
	struct loop *loop;
	struct machine *machine;
	struct own_dir dir;
	char disk[64], socket[64], net[64];
	int peer;
};

/* With a device of every kind. */
static struct world *world_new(void)
{
	struct machine_config config = {
		.cpus = CPUS,
		.memory_bytes = MEMORY_BYTES,
		.kernel = getenv("POSTERN_BARE"),
		.way_out = WAY_OUT_AUTO,
		.serial = { .type = CHARDEV_NULL },
	};
	struct world *w = calloc(1, sizeof(*w));
	int fds[2], fd;
	struct err err;

	w->dir = own_dir_new();
	snprintf(w->disk, sizeof(w->disk), "%s/disk", w->dir.path);
	snprintf(w->socket, sizeof(w->socket), "cid=7,socket=%s/v", w->dir.path);
	fd = open(w->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	w->peer = fds[1];
	snprintf(w->net, sizeof(w->net), "fd=%d,mac=02:00:00:00:00:01", fds[0]);
	const struct {
		const char *option, *text;
	} devices[] = {
		{ "rng", "" },	       { "disk", w->disk }, { "net", w->net },
		{ "console", "null" }, { "balloon", "" },   { "vsock", w->socket },
	};
	size_t i;

	for (i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
		if (virtio_options_add(&config.virtio, devices[i].option, devices[i].text, &err))
			fail_msg("%s", err.text);
	assert_int_equal(loop_new(&w->loop, &err), 0);
	if (machine_new(&w->machine, w->loop, &config, &err) < 0)
		fail_msg("%s", err.text);
	return w;
}

static void world_free(struct world *w)
{
	assert_int_equal(machine_free(w->machine), 0);
	loop_free(w->loop);
	close(w->peer);
	unlink(w->disk);
	own_dir_free(&w->dir);
	free(w);
}

static struct buf saved(struct world *w)
{
	struct buf buf = { 0 };
	struct err err;

	if (machine_save(w->machine, &buf, &err))
		fail_msg("%s", err.text);
	return buf;
}

/*
 * ---- the encoding, as far as it takes to look at fields:
 * protobuf.dev/programming-guides/encoding ----
 */

enum { MACHINE_VERSION = 1, MACHINE_VM = 4, MACHINE_VCPU = 5, MACHINE_DEVICE = 6 };

struct field {
	const uint8_t *begin, *end; /* all of it */
	unsigned int number;
	const uint8_t *data; /* what stands behind its length; else its number is in value */
	size_t len;
	uint64_t value;
};

static uint64_t varint(const uint8_t **at, const uint8_t *end)
{
	uint64_t value = 0;
	unsigned int shift = 0;

	while (*at < end) {
		value |= (uint64_t)(**at & 0x7f) << shift;
		shift += 7;
		if (*(*at)++ < 0x80)
			break;
	}
	return value;
}

static bool next(const uint8_t **at, const uint8_t *end, struct field *f)
{
	uint64_t tag;

	if (*at >= end)
		return false;
	*f = (struct field){ .begin = *at };
	tag = varint(at, end);
	f->number = (unsigned int)(tag >> 3);
	if ((tag & 7) == 0) {
		f->value = varint(at, end);
	} else {
		f->len = (tag & 7) == 2 ? (size_t)varint(at, end) : (tag & 7) == 1 ? 8 : 4;
		f->data = *at;
		*at += f->len;
	}
	f->end = *at;
	assert_true(*at <= end);
	return true;
}

/* The first field with that number; its data NULL: there is none. */
static struct field field_of(const uint8_t *data, size_t len, unsigned int number)
{
	const uint8_t *at = data;
	struct field f;

	while (next(&at, data + len, &f))
		if (f.number == number)
			return f;
	return (struct field){ 0 };
}

static bool is_device(const struct field *f, const char *name)
{
	struct field own = field_of(f->data, f->len, 1);

	return own.len == strlen(name) && !memcmp(own.data, name, own.len);
}

/* ---- comparison ---- */

enum part { PART_MACHINE, PART_VM, PART_VCPU, PART_DEVICE, PART_POWER, PART_LEAF };

#define VM_CLOCK 6
#define VCPU_TSC_KHZ 4
#define VCPU_MSR 10
#define VCPU_LAPIC 11
#define MSR_TSC 0x10
#define LAPIC_TIMER_COUNT 0x390
#define POWER_TICKS 4
#define POWER_CARRY 5

/*
 * What goes on by itself; or, of the one that was saved now, what the version
 * before did not have.
 */
static bool is_passed_over(enum part part, const struct field *f, bool older)
{
	switch (part) {
	case PART_MACHINE:
		return older && (f->number == MACHINE_VERSION ||
				 (f->number == MACHINE_DEVICE && is_device(f, NEW)));
	case PART_VM:
		return f->number == VM_CLOCK;
	case PART_VCPU:
		return f->number == VCPU_MSR && field_of(f->data, f->len, 1).value == MSR_TSC;
	case PART_POWER:
		return f->number == POWER_TICKS || f->number == POWER_CARRY;
	default:
		return false;
	}
}

static enum part part_of(enum part part, const struct field *f, const struct field *parent)
{
	if (part == PART_MACHINE && f->number == MACHINE_VM)
		return PART_VM;
	if (part == PART_MACHINE && f->number == MACHINE_VCPU)
		return PART_VCPU;
	if (part == PART_MACHINE && f->number == MACHINE_DEVICE)
		return PART_DEVICE;
	if (part == PART_DEVICE && f->number == 3 && is_device(parent, "power"))
		return PART_POWER;
	return PART_LEAF;
}

static bool leaf_is_equal(enum part part, const struct field *a, const struct field *b)
{
	size_t size = (size_t)(a->end - a->begin);
	uint8_t copy[2048];

	/* It is there; how much it is, is the host's where that is nearly right or cannot be set. */
	if (part == PART_VCPU && a->number == VCPU_TSC_KHZ)
		return true;
	if (size != (size_t)(b->end - b->begin))
		return false;
	if (part != PART_VCPU || a->number != VCPU_LAPIC || size > sizeof(copy))
		return !memcmp(a->begin, b->begin, size);
	memcpy(copy, b->begin, size);
	memcpy(copy + (a->data - a->begin) + LAPIC_TIMER_COUNT, a->data + LAPIC_TIMER_COUNT, 4);
	return !memcmp(a->begin, copy, size);
}

static void compare(enum part part, const struct field *a, const struct field *b, bool older,
		    const char *path)
{
	const uint8_t *at_a = a->data, *at_b = b->data;
	struct field x, y;
	bool more_a, more_b;
	char here[96];

	for (;;) {
		while ((more_a = next(&at_a, a->data + a->len, &x)) &&
		       is_passed_over(part, &x, older))
			;
		while ((more_b = next(&at_b, b->data + b->len, &y)) &&
		       is_passed_over(part, &y, older))
			;
		if (!more_a && !more_b)
			return;
		snprintf(here, sizeof(here), "%s.%u", path, more_a ? x.number : y.number);
		if (!more_a || !more_b || x.number != y.number)
			fail_msg("field %s is on one side only", here);
		if (part_of(part, &x, a) != PART_LEAF)
			compare(part_of(part, &x, a), &x, &y, older, here);
		else if (!leaf_is_equal(part, &x, &y))
			fail_msg("field %s is not what it was", here);
	}
}

/* ---- files ---- */

static struct buf file_read(const char *name)
{
	struct buf buf = { 0 };
	char path[512];
	FILE *from;

	snprintf(path, sizeof(path), "%s/machines/%s.state", getenv("POSTERN_GOLDEN"), name);
	from = fopen(path, "rb");
	if (from) {
		uint8_t *to = buf_reserve(&buf, STATE_BYTES_MAX);

		assert_non_null(to);
		buf.len = fread(to, 1, STATE_BYTES_MAX, from);
		fclose(from);
	}
	return buf;
}

/* As a guest writes it. */
static void port_put(struct world *w, uint16_t port, uint8_t value)
{
	assert_true(bus_access(&w->machine->pio, port, true, &value, 1));
}

/* The guest has run, has asked for its end, and is paused for a migration. */
static struct buf file_write(const char *name)
{
	struct world *w = world_new();
	int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
	struct vcpu_stats stats = { 0 };
	struct buf buf;
	char path[512];
	struct err err;
	FILE *to;

	assert_int_equal(machine_cont(w->machine, &err), 0);
	while (!stats.exits) {
		assert_true(clock_now_ns() < end);
		uv_run(loop_uv(w->loop), UV_RUN_NOWAIT);
		vcpu_stats(vm_vcpu(machine_vm(w->machine), 0), &stats);
	}
	assert_int_equal(machine_enter_migrate(w->machine, &err), 0);
	port_put(w, 0x3ff, 0x77); /* the serial port's scratch register */
	port_put(w, 0x70, 0x2f); /* the clock's memory */
	port_put(w, 0x71, 0x5a);
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_SHUTDOWN });
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_RESET });
	buf = saved(w);
	snprintf(path, sizeof(path), "%s/machines/%s.state", getenv("POSTERN_GOLDEN"), name);
	to = fopen(path, "wxb");
	if (!to)
		fail_msg("%s: %s", path, strerror(errno));
	assert_int_equal(fwrite(buf.data, 1, buf.len, to), buf.len);
	assert_int_equal(fclose(to), 0);
	print_message("written: %s\n", path);
	world_free(w);
	return buf;
}

/* ---- tests ---- */

/* All that was recorded but the VM and its vCPUs: these are this machine's. */
static struct buf with_cpus_of(const struct buf *recorded, const struct buf *own)
{
	const struct buf *from[] = { recorded, own };
	struct buf mixed = { 0 };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		const uint8_t *at = from[i]->data;
		struct field f;

		while (next(&at, from[i]->data + from[i]->len, &f))
			if ((f.number == MACHINE_VM || f.number == MACHINE_VCPU) ==
			    (from[i] == own))
				assert_int_equal(
					buf_append(&mixed, f.begin, (size_t)(f.end - f.begin)), 0);
	}
	return mixed;
}

/* Loads what was recorded, as far as this host can; gives back what has been loaded. */
static struct buf load_recorded(struct world *w, struct buf recorded)
{
	struct buf own, mixed;
	struct err err;

	if (!machine_load(w->machine, recorded.data, recorded.len, &err))
		return recorded;
	if (strncmp(err.text, "state of vCPU", strlen("state of vCPU")))
		fail_msg("%s", err.text);
	print_message("without its vCPUs, which were another host's: %s\n", err.text);
	own = saved(w);
	mixed = with_cpus_of(&recorded, &own);
	if (machine_load(w->machine, mixed.data, mixed.len, &err))
		fail_msg("%s", err.text);
	buf_fini(&own);
	buf_fini(&recorded);
	return mixed;
}

/* In ascending order of its fields, as it is saved. */
static struct field sorted(const struct buf *buf, struct buf *to)
{
	unsigned int number;

	for (number = 1; number < 16; number++) {
		const uint8_t *at = buf->data;
		struct field f;

		while (next(&at, buf->data + buf->len, &f))
			if (f.number == number)
				assert_int_equal(buf_append(to, f.begin, (size_t)(f.end - f.begin)),
						 0);
	}
	return (struct field){ .data = to->data, .len = to->len };
}

static void is_what_was_recorded(struct world *w, struct buf recorded, bool older)
{
	struct buf loaded = load_recorded(w, recorded), now = saved(w), in_order = { 0 };
	struct field a = sorted(&loaded, &in_order), b = { .data = now.data, .len = now.len };

	compare(PART_MACHINE, &a, &b, older, "MachineState");
	buf_fini(&in_order);
	buf_fini(&now);
	buf_fini(&loaded);
}

static void a_machine_with_every_device(void **state)
{
	struct buf recorded = file_read("x86_64-3");
	struct world *w;

	(void)state;
	if (!recorded.len && getenv("POSTERN_GOLDEN_WRITE"))
		recorded = file_write("x86_64-3");
	if (!recorded.len)
		fail_msg("tests/golden/machines/x86_64-3.state is missing");
	w = world_new();
	is_what_was_recorded(w, recorded, false);
	world_free(w);
}

/* What it had not, is as in a machine that has just been made; nothing else is new. */
static void a_machine_of_the_version_before(void **state)
{
	struct world *w = world_new();
	struct buf recorded = file_read("x86_64-2"), fresh = saved(w), now;
	const uint8_t *at;
	struct field f, g;

	(void)state;
	assert_true(recorded.len > 0);
	assert_int_equal(field_of(recorded.data, recorded.len, MACHINE_VERSION).value, 2);
	is_what_was_recorded(w, recorded, true);
	now = saved(w);
	assert_int_equal(field_of(now.data, now.len, MACHINE_VERSION).value, 3);
	at = fresh.data;
	while (next(&at, fresh.data + fresh.len, &f) &&
	       !(f.number == MACHINE_DEVICE && is_device(&f, NEW)))
		;
	at = now.data;
	while (next(&at, now.data + now.len, &g) &&
	       !(g.number == MACHINE_DEVICE && is_device(&g, NEW)))
		;
	assert_true(leaf_is_equal(PART_LEAF, &f, &g));
	buf_fini(&now);
	buf_fini(&fresh);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_machine_with_every_device),
		cmocka_unit_test(a_machine_of_the_version_before),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0 || !getenv("POSTERN_BARE") ||
	    !getenv("POSTERN_GOLDEN")) {
		fprintf(stderr,
			"skipped: needs /dev/kvm, the bare guest (POSTERN_BARE), tests/golden (POSTERN_GOLDEN)\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
