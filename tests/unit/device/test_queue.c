// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Both rings, driven from the other side; pages that are missing, wherever a
 * queue may meet one; a driver that is wrong.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "driver.h"
#include "turns.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define RINGS 0x10000
#define TABLE 0x20000
#define DATA 0x30000
#define SIZE 8
#define COMMON (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define INDIRECT (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define PACKED (UINT64_C(1) << VIRTIO_F_RING_PACKED)

struct box {
	struct memory *mem;
	uint8_t *ram;
	struct vqueue q;
	struct driver d;
};

static void box_rings(struct box *b, struct vqueue *q, struct driver *d, uint64_t at,
		      uint64_t features)
{
	driver_init(d, b->ram, at, SIZE, features & PACKED);
	q->size = SIZE;
	q->desc = d->desc;
	q->driver = d->avail;
	q->device = d->used;
	if (vqueue_enable(q, COMMON | features) < 0)
		fail_msg("%s", q->why);
}

/* late: all pages are missing. */
static struct box *box_new(uint64_t features, bool late)
{
	struct memory *mem;
	uint8_t *ram = ram_new(&mem, RAM_BYTES, late);
	struct box *b = calloc(1, sizeof(*b));

	b->mem = mem;
	b->ram = ram;
	assert_int_equal(vqueue_init(&b->q, b->mem, 0, SIZE), 0);
	box_rings(b, &b->q, &b->d, RINGS, features);
	return b;
}

static void box_free(struct box *b)
{
	vqueue_fini(&b->q);
	ram_free(b->mem);
	free(b);
}

static bool woken(struct vqueue *q)
{
	eventfd_t value;

	return eventfd_read(q->fd, &value) == 0;
}

static void fill(struct box *b, uint64_t gpa, const void *page)
{
	assert_int_equal(memory_fill(b->mem, gpa_to_gfn(GPA(gpa)), 1, page), 1);
}

static void fill_rings(struct box *b)
{
	fill(b, RINGS, NULL);
	fill(b, RINGS + 0x1000, NULL);
	fill(b, RINGS + 0x2000, NULL);
}

static const struct driver_buf out_in[] = {
	{ DATA, 16, false }, { DATA + 0x100, 32, false }, { DATA + 0x1000, 64, true },
};

/* ---- chains go round ---- */

/* So often that indices and wrap counters go round many times, alternating kinds of chains. */
static void go_round(uint64_t features)
{
	struct box *b = box_new(features, false);
	uint8_t bytes[48], back[64];
	struct vchain *chain;
	unsigned int i, k, slots;
	uint32_t len;
	uint16_t id;

	for (i = 0; i < 70000; i++) {
		bool table = features & INDIRECT && i % 3 == 0;

		slots = table ? 1 : 3;
		assert_int_equal(vqueue_pop(&b->q, &chain), 0);
		memset(b->ram + DATA, (int)i, 16);
		memset(b->ram + DATA + 0x100, (int)(i + 1), 32);
		id = driver_add(&b->d, out_in, 3, table ? TABLE : 0);
		assert_int_equal(vqueue_pop(&b->q, &chain), 1);
		assert_int_equal(chain->id, id);
		assert_int_equal(chain->n_out, 2);
		assert_int_equal(chain->n_in, 1);
		assert_int_equal(chain->out_bytes, 48);
		assert_int_equal(chain->in_bytes, 64);
		assert_true(vchain_read(chain, 0, bytes, 48));
		for (k = 0; k < 48; k++)
			assert_int_equal(bytes[k], (uint8_t)(k < 16 ? i : i + 1));
		assert_false(vchain_read(chain, 1, bytes, 48));
		memset(back, (int)(i + 2), sizeof(back));
		assert_true(vchain_write(chain, 0, back, 64));
		assert_false(vchain_write(chain, 60, back, 5));
		assert_int_equal(vqueue_pop(&b->q, &chain), 0);
		assert_int_equal(driver_used(&b->d, slots, &len), -1);
		assert_true(vqueue_push(&b->q, chain, 64) >= 0);
		assert_int_equal(driver_used(&b->d, slots, &len), id);
		assert_int_equal(len, 64);
		assert_memory_equal(b->ram + DATA + 0x1000, back, 64);
	}
	assert_int_equal(b->q.in_flight, 0);
	box_free(b);
}

static void chains_go_round(void **state)
{
	(void)state;
	go_round(0);
	go_round(INDIRECT | EVENT);
	go_round(PACKED);
	go_round(PACKED | INDIRECT | EVENT);
}

/* Several in flight, given back in another order. */
static void chains_come_back_in_any_order(void **state)
{
	const uint64_t types[] = { 0, PACKED };
	struct driver_buf buf = { DATA, 8, true };
	unsigned int type, i;

	(void)state;
	for (type = 0; type < 2; type++) {
		struct box *b = box_new(types[type], false);
		struct vchain *chain[SIZE], *more;
		uint16_t id[SIZE];
		uint32_t len;

		for (i = 0; i < SIZE; i++)
			id[i] = driver_add(&b->d, &buf, 1, 0);
		for (i = 0; i < SIZE; i++)
			assert_int_equal(vqueue_pop(&b->q, &chain[i]), 1);
		assert_true(vqueue_pop(&b->q, &more) <= 0);
		for (i = SIZE; i-- > 0;)
			assert_true(vqueue_push(&b->q, chain[i], i) >= 0);
		for (i = SIZE; i-- > 0;) {
			assert_int_equal(driver_used(&b->d, 1, &len), id[i]);
			assert_int_equal(len, i);
		}
		box_free(b);
	}
}

static bool harvest_has(struct box *b, uint64_t gpa)
{
	uint8_t bits[RAM_BYTES / PAGE_BYTES / 8] = { 0 };
	uint64_t page = gpa / PAGE_BYTES;

	assert_true(memory_harvest_dirty(b->mem, GFN(0), RAM_BYTES / PAGE_BYTES, bits) >= 0);
	return bits[page / 8] >> (page % 8) & 1;
}

/*
 * A disk reads into the buffer while memory is being copied: what comes after a
 * harvest is the next one's.
 */
static void what_is_read_into_a_chain_in_flight_is_harvested(void **state)
{
	const uint64_t types[] = { 0, PACKED };
	unsigned int type;

	(void)state;
	for (type = 0; type < 2; type++) {
		struct box *b = box_new(types[type], false);
		struct vchain *chain;
		struct iovec iov[1];

		driver_add(&b->d, out_in, 3, 0);
		assert_int_equal(vqueue_pop(&b->q, &chain), 1);
		assert_int_equal(vchain_iovec(chain, true, 0, 64, iov), 1);
		harvest_has(b, DATA + 0x1000);
		memset(iov[0].iov_base, 7, iov[0].iov_len);
		assert_false(harvest_has(b, DATA + 0x1000));
		assert_true(vqueue_push(&b->q, chain, 64) >= 0);
		assert_true(harvest_has(b, DATA + 0x1000));
		assert_false(harvest_has(b, DATA));
		/* One that is forgotten may have been written all the same. */
		driver_add(&b->d, out_in, 3, 0);
		assert_int_equal(vqueue_pop(&b->q, &chain), 1);
		harvest_has(b, DATA);
		vqueue_drop(&b->q, chain);
		assert_true(harvest_has(b, DATA + 0x1000));
		box_free(b);
	}
}

static int give_one(struct box *b)
{
	struct driver_buf buf = { DATA, 8, true };
	struct vchain *chain;
	uint32_t len;
	int r;

	driver_add(&b->d, &buf, 1, 0);
	assert_int_equal(vqueue_pop(&b->q, &chain), 1);
	r = vqueue_push(&b->q, chain, 1);
	assert_true(driver_used(&b->d, 1, &len) >= 0);
	return r;
}

static void the_driver_says_when_it_is_interrupted(void **state)
{
	struct vchain *chain;
	struct box *b;
	unsigned int i;

	(void)state;
	b = box_new(0, false);
	assert_int_equal(give_one(b), 1);
	driver_put16(&b->d, b->d.avail, VRING_AVAIL_F_NO_INTERRUPT);
	assert_int_equal(give_one(b), 0);
	box_free(b);

	b = box_new(EVENT, false);
	/* used_event: interrupt when this one is used. */
	driver_put16(&b->d, b->d.avail + 4 + 2 * SIZE, 2);
	assert_int_equal(give_one(b), 0);
	assert_int_equal(give_one(b), 0);
	assert_int_equal(give_one(b), 1);
	assert_int_equal(give_one(b), 0);
	/* And the device says where it wants to be notified. */
	assert_int_equal(vqueue_pop(&b->q, &chain), 0);
	assert_int_equal(driver_get16(&b->d, b->d.used + 4 + 8 * SIZE), 4);
	box_free(b);

	b = box_new(PACKED, false);
	assert_int_equal(give_one(b), 1);
	driver_put16(&b->d, b->d.avail + 2, VRING_PACKED_EVENT_FLAG_DISABLE);
	assert_int_equal(give_one(b), 0);
	box_free(b);

	b = box_new(PACKED | EVENT, false);
	driver_put16(&b->d, b->d.avail + 2, VRING_PACKED_EVENT_FLAG_DESC);
	for (i = 0; i < 5 * SIZE; i++) {
		/* At position 3 of each lap; every second one has the other wrap counter. */
		driver_put16(&b->d, b->d.avail, (uint16_t)(3 | (i / SIZE % 2 == 0) << 15));
		assert_int_equal(give_one(b), i % SIZE == 3);
	}
	assert_int_equal(vqueue_pop(&b->q, &chain), 0);
	assert_int_equal(driver_get16(&b->d, b->d.used), 0 | (i / SIZE % 2 == 0) << 15);
	assert_int_equal(driver_get16(&b->d, b->d.used + 2), VRING_PACKED_EVENT_FLAG_DESC);
	box_free(b);
}

/* ---- missing pages ---- */

/*
 * Every page that a queue may meet is missing at first: rings, indirect table,
 * buffers. Each try asks for some, parks, and is woken by their arrival;
 * meanwhile another queue goes on. Nothing has moved before all was there.
 */
static void park_everywhere(uint64_t features)
{
	struct box *b = box_new(features, true);
	uint8_t *content = calloc(1, RAM_BYTES);
	struct vchain *chain = NULL;
	unsigned int fills = 0;
	struct driver d, e;
	struct vqueue other;
	uint64_t page;
	uint16_t id;
	uint32_t len;
	int r;

	assert_non_null(content);
	/* What the source has: rings with one chain. */
	driver_init(&d, content, RINGS, SIZE, features & PACKED);
	id = driver_add(&d, out_in, 3, features & INDIRECT ? TABLE : 0);
	memset(content + DATA, 0x11, 0x200);
	/* The other queue's are there. */
	assert_int_equal(vqueue_init(&other, b->mem, 1, SIZE), 0);
	for (page = 0x40000; page < 0x44000; page += PAGE_BYTES)
		fill(b, page, NULL);
	box_rings(b, &other, &e, 0x40000, features);

	while ((r = vqueue_pop(&b->q, &chain)) == -EAGAIN) {
		struct driver_buf buf = { 0x43000, 8, true };
		struct vchain *another;

		assert_true(vqueue_is_parked(&b->q));
		assert_false(woken(&b->q));
		assert_int_equal(b->q.avail, 0);
		driver_add(&e, &buf, 1, 0);
		assert_int_equal(vqueue_pop(&other, &another), 1);
		assert_true(vqueue_push(&other, another, 1) >= 0);
		assert_int_equal(driver_used(&e, 1, &len) >= 0, 1);
		page = gfn_to_gpa(b->q.take_wait.ticket.gfn).v;
		fill(b, page, content + page);
		assert_true(woken(&b->q));
		assert_false(vqueue_is_parked(&b->q));
		assert_true(++fills < 10);
	}
	assert_int_equal(r, 1);
	assert_true(fills >= 3);
	assert_int_equal(chain->id, id);
	assert_int_equal(chain->out_bytes, 48);
	/* The used ring was not needed until now. */
	r = vqueue_push(&b->q, chain, 64);
	while (r == -EAGAIN) {
		assert_true(vqueue_is_parked(&b->q));
		page = gfn_to_gpa(b->q.give_wait.ticket.gfn).v;
		fill(b, page, content + page);
		assert_true(woken(&b->q));
		r = vqueue_resume(&b->q);
		assert_true(++fills < 12);
	}
	assert_true(r >= 0);
	d.ram = b->ram;
	assert_int_equal(driver_used(&d, features & INDIRECT ? 1 : 3, &len), id);
	assert_int_equal(len, 64);
	assert_int_equal(b->q.in_flight, 0);
	vqueue_fini(&other);
	free(content);
	box_free(b);
}

static void a_missing_page_parks_one_queue(void **state)
{
	(void)state;
	park_everywhere(0);
	park_everywhere(INDIRECT | EVENT);
	park_everywhere(PACKED);
	park_everywhere(PACKED | INDIRECT | EVENT);
}

static int asked_request(struct page_source *source, gfn_t first, uint64_t n);

struct asking_source {
	struct page_source source;
	uint64_t pages;
};

static const struct page_source_ops asking_ops = { "asking", asked_request };

static int asked_request(struct page_source *source, gfn_t first, uint64_t n)
{
	(void)first;
	((struct asking_source *)source)->pages += n;
	return 0;
}

static void all_missing_buffers_are_asked_for_at_once(void **state)
{
	const struct driver_buf buf[] = { { DATA, 4096, false }, { DATA + 0x4000, 8192, false }, { DATA + 0x8000, 4096, true } };
	struct asking_source source = { .source.ops = &asking_ops };
	struct box *b = box_new(0, true);
	struct vchain *chain;

	(void)state;
	fill_rings(b);
	memory_attach(b->mem, &source.source);
	driver_add(&b->d, buf, 3, 0);
	assert_int_equal(vqueue_pop(&b->q, &chain), -EAGAIN);
	assert_int_equal(source.pages, 4);
	memory_detach(b->mem);
	box_free(b);
}

/*
 * stop takes the ticket back at once: the page may come or not. Afterwards the
 * chain is still there.
 */
static void stop_takes_the_ticket_back(void **state)
{
	struct box *b = box_new(0, true);
	struct vchain *chain;

	(void)state;
	fill_rings(b);
	driver_add(&b->d, out_in, 3, 0);
	assert_int_equal(vqueue_pop(&b->q, &chain), -EAGAIN);
	vqueue_stop(&b->q);
	assert_false(vqueue_is_parked(&b->q));
	fill(b, DATA, NULL);
	assert_false(woken(&b->q));
	/* As after a start: it waits for the other page now; a reset forgets it all. */
	assert_int_equal(vqueue_pop(&b->q, &chain), -EAGAIN);
	assert_int_equal(b->q.take_wait.ticket.gfn.v, (DATA + 0x1000) >> PAGE_SHIFT);
	vqueue_reset(&b->q);
	fill(b, DATA + 0x1000, NULL);
	assert_false(woken(&b->q));
	assert_int_equal(vqueue_pop(&b->q, &chain), 0);
	box_free(b);
}

static void a_lost_page_is_no_hang(void **state)
{
	struct box *b = box_new(0, true);
	struct vchain *chain;

	(void)state;
	fill_rings(b);
	driver_add(&b->d, out_in, 3, 0);
	assert_int_equal(vqueue_pop(&b->q, &chain), -EAGAIN);
	assert_int_equal(memory_lose(b->mem, gpa_to_gfn(GPA(DATA))), 0);
	assert_true(woken(&b->q));
	assert_int_equal(vqueue_pop(&b->q, &chain), -EIO);
	/* Another source has it. */
	fill(b, DATA, NULL);
	fill(b, DATA + 0x1000, NULL);
	assert_int_equal(vqueue_pop(&b->q, &chain), 1);
	vqueue_drop(&b->q, chain);
	box_free(b);
}

/* ---- a driver that is wrong ---- */

static void assert_wrong(struct box *b, const char *words)
{
	struct vchain *chain;

	assert_int_equal(vqueue_pop(&b->q, &chain), -EPROTO);
	if (!strstr(b->q.why, words))
		fail_msg("\"%s\" lacks \"%s\"", b->q.why, words);
	assert_int_equal(b->q.in_flight, 0);
	box_free(b);
}

static struct box *split_with(uint64_t gpa, uint32_t len, unsigned int flags, unsigned int next)
{
	struct box *b = box_new(INDIRECT, false);

	driver_desc(&b->d, b->d.desc, 0, gpa, len, flags, next);
	driver_avail(&b->d, 0);
	return b;
}

static void a_hostile_split_ring_is_refused(void **state)
{
	struct box *b;

	(void)state;
	b = box_new(0, false);
	driver_put16(&b->d, b->d.avail + 2, SIZE + 1);
	assert_wrong(b, "available index 9");
	b = box_new(0, false);
	driver_avail(&b->d, SIZE);
	assert_wrong(b, "descriptor 8 of a table of 8");
	assert_wrong(split_with(DATA, 8, VRING_DESC_F_NEXT, SIZE), "descriptor 8");
	/* A loop. */
	assert_wrong(split_with(DATA, 8, VRING_DESC_F_NEXT, 0), "more than 8 descriptors");
	assert_wrong(split_with(DATA, 0, 0, 0), "without length");
	assert_wrong(split_with(RAM_BYTES - 4, 8, 0, 0), "not in RAM");
	assert_wrong(split_with(UINT64_MAX - 4, 8, VRING_DESC_F_WRITE, 0), "not in RAM");
	assert_wrong(split_with(DATA, UINT32_MAX, 0, 0), "a chain of 4294967295 bytes");
	b = split_with(DATA, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	driver_desc(&b->d, b->d.desc, 1, DATA, 8, 0, 0);
	assert_wrong(b, "behind a writable");
	b = split_with(DATA, UINT32_MAX, VRING_DESC_F_NEXT, 1);
	driver_desc(&b->d, b->d.desc, 1, DATA, UINT32_MAX, 0, 0);
	assert_wrong(b, "a chain of 8589934590 bytes");
	/* Indirect tables: size, kind, place, one inside another, a loop inside. */
	assert_wrong(split_with(TABLE, 15, VRING_DESC_F_INDIRECT, 0), "indirect table of 15");
	assert_wrong(split_with(TABLE, 0, VRING_DESC_F_INDIRECT, 0), "indirect table of 0");
	assert_wrong(split_with(TABLE, 16 * (SIZE + 1), VRING_DESC_F_INDIRECT, 0),
		     "indirect table");
	assert_wrong(split_with(TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 0),
		     "indirect table");
	assert_wrong(split_with(UINT64_MAX - 7, 32, VRING_DESC_F_INDIRECT, 0), "not in RAM");
	b = split_with(TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	driver_desc(&b->d, TABLE, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	assert_wrong(b, "inside another");
	b = split_with(TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	driver_desc(&b->d, TABLE, 0, DATA, 8, VRING_DESC_F_NEXT, 1);
	driver_desc(&b->d, TABLE, 1, DATA, 8, VRING_DESC_F_NEXT, 0);
	assert_wrong(b, "more than 8 descriptors");
	b = box_new(0, false);
	driver_desc(&b->d, b->d.desc, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	driver_avail(&b->d, 0);
	assert_wrong(b, "indirect table");
}

static void a_hostile_packed_ring_is_refused(void **state)
{
	const unsigned int next = packed_flags(true) | VRING_DESC_F_NEXT,
			   table = packed_flags(true) | VRING_DESC_F_INDIRECT;
	struct box *b;
	unsigned int i;

	(void)state;
	/* A chain without end. */
	b = box_new(PACKED, false);
	for (i = 0; i < SIZE; i++)
		driver_packed(&b->d, b->d.desc, i, DATA, 8, i, next);
	assert_wrong(b, "more than 8 descriptors");
	b = box_new(PACKED | INDIRECT, false);
	driver_packed(&b->d, b->d.desc, 0, DATA, 8, 0, next);
	driver_packed(&b->d, b->d.desc, 1, TABLE, 16, 0, table);
	assert_wrong(b, "in a chain");
	b = box_new(PACKED | INDIRECT, false);
	driver_packed(&b->d, b->d.desc, 0, TABLE, 16 * SIZE + 16, 0, table);
	assert_wrong(b, "indirect table");
	b = box_new(PACKED, false);
	driver_packed(&b->d, b->d.desc, 0, RAM_BYTES, 8, 0, packed_flags(true));
	assert_wrong(b, "not in RAM");
}

/*
 * The same for chains of several descriptors, whose head the driver makes
 * available again each time the ring has been gone round.
 */
static void more_descriptors_than_entries_are_refused(void **state)
{
	struct box *b = box_new(PACKED, false);
	struct vchain *chain[2];
	unsigned int i;

	(void)state;
	for (i = 0; i < SIZE; i++)
		driver_packed(&b->d, b->d.desc, i, DATA, 8, i,
			      packed_flags(true) | (i + 2 < SIZE ? VRING_DESC_F_NEXT : 0));
	/* All but one; and the last one. */
	assert_int_equal(vqueue_pop(&b->q, &chain[0]), 1);
	assert_int_equal(chain[0]->slots, SIZE - 1);
	assert_int_equal(vqueue_pop(&b->q, &chain[1]), 1);
	driver_packed(&b->d, b->d.desc, 0, DATA, 8, 0, packed_flags(false) | VRING_DESC_F_NEXT);
	assert_int_equal(vqueue_pop(&b->q, &(struct vchain *){ NULL }), -EPROTO);
	assert_non_null(strstr(b->q.why, "more chains"));
	assert_int_equal(vqueue_push_all(&b->q, chain, 2), 1);
	assert_int_equal(b->q.used, 0);
	assert_false(b->q.used_wrap);
	/* What has been given back makes room. */
	assert_int_equal(vqueue_pop(&b->q, &chain[0]), 0);
	driver_packed(&b->d, b->d.desc, 0, DATA, 8, 0, packed_flags(false));
	assert_int_equal(vqueue_pop(&b->q, &chain[0]), 1);
	vqueue_unpop(&b->q, chain[0]);
	assert_int_equal(b->q.in_flight, 0);
	box_free(b);
}

/* The same chain made available more often than it can be. */
static void more_chains_than_entries_are_refused(void **state)
{
	struct box *b = box_new(0, false);
	struct vchain *chain[SIZE], *more;
	unsigned int i;

	(void)state;
	driver_desc(&b->d, b->d.desc, 0, DATA, 8, 0, 0);
	for (i = 0; i < SIZE; i++) {
		driver_avail(&b->d, 0);
		assert_int_equal(vqueue_pop(&b->q, &chain[i]), 1);
	}
	driver_avail(&b->d, 0);
	assert_int_equal(vqueue_pop(&b->q, &more), -EPROTO);
	for (i = 0; i < SIZE; i++)
		vqueue_drop(&b->q, chain[i]);
	box_free(b);
}

static void settings_are_checked(void **state)
{
	struct box *b = box_new(0, false);

	(void)state;
	vqueue_reset(&b->q);
	b->q.size = 6;
	assert_int_equal(vqueue_enable(&b->q, COMMON), -EPROTO);
	assert_int_equal(vqueue_enable(&b->q, COMMON | PACKED), 0);
	b->q.size = SIZE + 1;
	assert_int_equal(vqueue_enable(&b->q, COMMON | PACKED), -EPROTO);
	b->q.size = 0;
	assert_int_equal(vqueue_enable(&b->q, COMMON), -EPROTO);
	b->q.size = SIZE;
	b->q.desc = 8;
	assert_int_equal(vqueue_enable(&b->q, COMMON), -EPROTO);
	b->q.desc = 16;
	b->q.driver = 1;
	assert_int_equal(vqueue_enable(&b->q, COMMON), -EPROTO);
	b->q.driver = 2;
	b->q.device = 2;
	assert_int_equal(vqueue_enable(&b->q, COMMON), -EPROTO);
	b->q.device = 4;
	assert_int_equal(vqueue_enable(&b->q, COMMON), 0);
	box_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chains_go_round),
		cmocka_unit_test(chains_come_back_in_any_order),
		cmocka_unit_test(what_is_read_into_a_chain_in_flight_is_harvested),
		cmocka_unit_test(the_driver_says_when_it_is_interrupted),
		cmocka_unit_test(a_missing_page_parks_one_queue),
		cmocka_unit_test(all_missing_buffers_are_asked_for_at_once),
		cmocka_unit_test(stop_takes_the_ticket_back),
		cmocka_unit_test(a_lost_page_is_no_hang),
		cmocka_unit_test(a_hostile_split_ring_is_refused),
		cmocka_unit_test(a_hostile_packed_ring_is_refused),
		cmocka_unit_test(more_descriptors_than_entries_are_refused),
		cmocka_unit_test(more_chains_than_entries_are_refused),
		cmocka_unit_test(settings_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
