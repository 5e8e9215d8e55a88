// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * identity.c - the pages of the VM generation ID and of vmclock.
 *
 * The truth is kept here and written to the pages; they are never read back. A
 * reset leaves all as it is: the machine is the same afterwards. So does loading a
 * state: a guest that migrates is the same machine elsewhere. What is different
 * then is said by identity_disrupt and identity_renew.
 *
 * A change is written before the guest is told. vmclock's readers use a sequence
 * count, odd while it changes; the generation ID has none, and needs none: no
 * vCPU runs meanwhile.
 */
#include "device/identity.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/proto.h"
#include "identity.pb-c.h"

/* vmclock-abi.h; little endian. */
struct clock_page {
	uint32_t magic, size;
	uint16_t version;
	uint8_t counter_id, time_type;
	_Atomic uint32_t sequence;
	uint64_t disruption_marker, flags;
	uint8_t pad[2], status, smearing_hint;
	uint16_t tai_offset_sec;
	uint8_t leap, period_shift;
	uint64_t counter_value, period[3], time_sec, time_frac_sec, time_error[2];
	uint64_t generation_counter;
};

_Static_assert(offsetof(struct clock_page, sequence) == 12, "as the interface has it");
_Static_assert(offsetof(struct clock_page, generation_counter) == 104, "as the interface has it");

enum {
	CLOCK_MAGIC = 0x4b4c4356,
	CLOCK_VERSION = 1,
	CLOCK_COUNTER_INVALID = 0xff,
	CLOCK_GENERATION_PRESENT = 1 << 8,
	CLOCK_NOTIFICATION_PRESENT = 1 << 9,
};

struct identity {
	struct irq_line line;
	pthread_mutex_t lock; /* guards all below; the interrupt controller's lock comes after it */
	uint8_t id[IDENTITY_ID_BYTES];
	uint64_t disruption_marker, generation_counter;
	uint32_t sequence; /* even */
	uint8_t *pages; /* the guest's, not its own */
};

static void clock_write(const struct identity *i)
{
	struct clock_page *page = (struct clock_page *)(void *)(i->pages + IDENTITY_CLOCK_AT);

	atomic_store(&page->sequence, i->sequence - 1);
	page->magic = CLOCK_MAGIC;
	page->size = PAGE_BYTES;
	page->version = CLOCK_VERSION;
	page->counter_id = CLOCK_COUNTER_INVALID;
	page->flags = CLOCK_GENERATION_PRESENT | CLOCK_NOTIFICATION_PRESENT;
	page->disruption_marker = i->disruption_marker;
	page->generation_counter = i->generation_counter;
	/* Sequentially consistent, both: who sees the even number sees all of it. */
	atomic_store(&page->sequence, i->sequence);
}

/* With the lock held. */
static void pages_write(const struct identity *i)
{
	memcpy(i->pages + IDENTITY_GENERATION_AT, i->id, sizeof(i->id));
	clock_write(i);
}

static void guest_tell(const struct identity *i)
{
	irq_line_set(&i->line, true);
	irq_line_set(&i->line, false);
}

static int id_draw(uint8_t id[IDENTITY_ID_BYTES], struct err *err)
{
	ssize_t got = getrandom(id, IDENTITY_ID_BYTES, 0);

	if (got == IDENTITY_ID_BYTES)
		return 0;
	return err_errno(err, got < 0 ? -errno : -EIO, "random numbers for the VM generation ID");
}

int identity_new(struct identity **out, void *pages, const struct irq_line *line, struct err *err)
{
	struct identity *i = calloc(1, sizeof(*i));
	int r;

	if (!i)
		return err_set(err, -ENOMEM, "no memory for the VM generation ID");
	pthread_mutex_init(&i->lock, NULL);
	i->line = *line;
	i->sequence = 2;
	i->pages = pages;
	r = id_draw(i->id, err);
	if (r < 0) {
		identity_free(i);
		return r;
	}
	pages_write(i);
	*out = i;
	return 0;
}

void identity_free(struct identity *i)
{
	if (!i)
		return;
	pthread_mutex_destroy(&i->lock);
	free(i);
}

void identity_id(struct identity *i, uint8_t id[IDENTITY_ID_BYTES])
{
	pthread_mutex_lock(&i->lock);
	memcpy(id, i->id, sizeof(i->id));
	pthread_mutex_unlock(&i->lock);
}

void identity_disrupt(struct identity *i)
{
	pthread_mutex_lock(&i->lock);
	i->disruption_marker++;
	i->sequence += 2;
	pages_write(i);
	guest_tell(i);
	pthread_mutex_unlock(&i->lock);
}

int identity_renew(struct identity *i, struct err *err)
{
	uint8_t id[IDENTITY_ID_BYTES];
	int r = id_draw(id, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&i->lock);
	memcpy(i->id, id, sizeof(id));
	i->generation_counter++;
	pthread_mutex_unlock(&i->lock);
	identity_disrupt(i);
	return 0;
}

/* ---- as a device ---- */

static void identity_reset(void *dev)
{
	(void)dev;
}

static int identity_save(void *dev, struct buf *out, struct err *err)
{
	Postern__Device__IdentityState msg = POSTERN__DEVICE__IDENTITY_STATE__INIT;
	uint8_t id[IDENTITY_ID_BYTES];
	struct identity *i = dev;
	uint8_t *to;

	pthread_mutex_lock(&i->lock);
	memcpy(id, i->id, sizeof(id));
	msg.disruption_marker = i->disruption_marker;
	msg.generation_counter = i->generation_counter;
	msg.sequence = i->sequence;
	pthread_mutex_unlock(&i->lock);
	msg.generation_id.data = id;
	msg.generation_id.len = sizeof(id);
	to = buf_reserve(out, postern__device__identity_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the VM generation ID's state");
	out->len += postern__device__identity_state__pack(&msg, to);
	return 0;
}

static int identity_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__IdentityState *msg = proto_unpack(
		&postern__device__identity_state__descriptor, data, len, PROTO_FIELDS_MAX, err);
	struct identity *i = dev;
	int r = 0;

	if (!msg)
		return -EINVAL;
	if (msg->generation_id.len != IDENTITY_ID_BYTES)
		r = err_set(err, -EINVAL, "a generation ID of %zu bytes, not %d",
			    msg->generation_id.len, IDENTITY_ID_BYTES);
	else if (msg->sequence % 2)
		r = err_set(err, -EINVAL, "sequence count %u is odd: it was being changed",
			    msg->sequence);
	if (!r) {
		pthread_mutex_lock(&i->lock);
		memcpy(i->id, msg->generation_id.data, sizeof(i->id));
		i->disruption_marker = msg->disruption_marker;
		i->generation_counter = msg->generation_counter;
		i->sequence = msg->sequence;
		pages_write(i);
		pthread_mutex_unlock(&i->lock);
	}
	postern__device__identity_state__free_unpacked(msg, NULL);
	return r;
}

const struct device_ops identity_device_ops = {
	.name = "identity",
	.version = 1,
	.save = identity_save,
	.load = identity_load,
	.reset = identity_reset,
};
