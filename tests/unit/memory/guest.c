// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_WORDS (PAGE_BYTES / 8)

/* ---- guests ---- */

static void guest_signal(void *arg)
{
	struct guest *guest = arg;

	atomic_store(&guest->signalled, true);
}

static uint64_t guest_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static uint64_t *guest_word(const struct guests *guests, uint64_t page, unsigned int word)
{
	unsigned int n;

	return (uint64_t *)(void *)(memory_regions(guests->mem, &n)->host) + page * PAGE_WORDS +
	       word;
}

void guests_write(struct guests *guests, uint64_t page, unsigned int word, uint64_t value)
{
	__atomic_store_n(guest_word(guests, page, word), value, __ATOMIC_RELAXED);
	guests->shadow[page * PAGE_WORDS + word] = value;
}

/* In bursts, as if it were in the guest; comes out when it is signalled. */
static void guest_run(struct guest *guest, uint64_t *seed)
{
	struct guests *guests = guest->of;
	uint64_t mine = guests->n / guests->guests, page, count;

	memory_thread_enter(guest->waits);
	atomic_store(&guest->inside, true);
	while (!atomic_load(&guest->signalled) && !atomic_load(&guests->park)) {
		page = guests->first + guest_next(seed) % mine * guests->guests + guest->number;
		count = atomic_fetch_add(&guest->writes, 1);
		guests_write(guests, page, (unsigned int)(guest_next(seed) % PAGE_WORDS),
			     page << 40 | (count + 1));
	}
	atomic_store(&guest->inside, false);
	memory_thread_left(guest->waits, -EINTR);
	atomic_store(&guest->signalled, false);
	memory_thread_clear(guest->waits);
}

static void *guest_main(void *arg)
{
	struct guest *guest = arg;
	struct guests *guests = guest->of;
	uint64_t seed = 0x1234567 + guest->number;

	memory_thread_bind(guest->waits);
	while (!atomic_load(&guests->end)) {
		if (atomic_load(&guests->park)) {
			atomic_store(&guest->parked, true);
			wait_a_little();
			continue;
		}
		atomic_store(&guest->parked, false);
		memory_thread_throttle(guest->waits);
		guest_run(guest, &seed);
	}
	memory_thread_unbind(guest->waits);
	return NULL;
}

void guests_start(struct guests *guests, struct memory *mem, unsigned int n_guests, uint64_t first,
		  uint64_t n)
{
	unsigned int i, regions;

	*guests = (struct guests){
		.mem = mem,
		.pages = memory_regions(mem, &regions)->pages,
		.first = first,
		.n = n,
		.guests = n_guests,
		.park = true,
	};
	guests->shadow = calloc(guests->pages, PAGE_BYTES);
	assert_non_null(guests->shadow);
	for (i = 0; i < n_guests; i++) {
		struct guest *guest = &guests->guest[i];

		guest->of = guests;
		guest->number = i;
		guest->waits = memory_thread_new(mem, "guest", (int)i);
		assert_non_null(guest->waits);
		memory_thread_set_signal(guest->waits, guest_signal, guest);
		assert_int_equal(pthread_create(&guest->thread, NULL, guest_main, guest), 0);
	}
	guests_park(guests);
}

void guests_park(struct guests *guests)
{
	unsigned int i;

	atomic_store(&guests->park, true);
	for (i = 0; i < guests->guests; i++)
		for (int left = 100000; !atomic_load(&guests->guest[i].parked); left--) {
			assert_true(left > 0);
			memory_thread_kick(guests->guest[i].waits);
			wait_a_little();
		}
}

void guests_go(struct guests *guests)
{
	unsigned int i;

	for (i = 0; i < guests->guests; i++)
		atomic_store(&guests->guest[i].parked, false);
	atomic_store(&guests->park, false);
}

void guests_stop(struct guests *guests)
{
	unsigned int i;

	guests_park(guests);
	atomic_store(&guests->end, true);
	for (i = 0; i < guests->guests; i++) {
		pthread_join(guests->guest[i].thread, NULL);
		memory_thread_free(guests->guest[i].waits);
	}
	free(guests->shadow);
}

uint64_t guests_writes(const struct guests *guests)
{
	uint64_t writes = 0;
	unsigned int i;

	for (i = 0; i < guests->guests; i++)
		writes += atomic_load(&guests->guest[i].writes);
	return writes;
}

uint64_t *guests_copy(const struct guests *guests)
{
	uint64_t *copy = malloc(guests->pages * PAGE_BYTES);

	assert_non_null(copy);
	memcpy(copy, guests->shadow, guests->pages * PAGE_BYTES);
	return copy;
}

/* ---- savers ---- */

void saver_init(struct saver *saver, struct memory_snapshot *snapshot, const uint64_t *want,
		uint64_t pages)
{
	*saver = (struct saver){ .snapshot = snapshot, .want = want, .pages = pages };
	saver->seen = calloc(pages, 1);
	assert_non_null(saver->seen);
}

static char saver_letter(const struct memory_span *span, unsigned int i)
{
	if (span->same)
		return 's';
	return span->here >> i & 1 ? 'h' :
	       span->zero >> i & 1 ? 'z' :
	       span->late >> i & 1 ? 'l' :
	       span->lost >> i & 1 ? 'x' :
				     0;
}

static void saver_page(struct saver *saver, uint64_t page, char letter, const uint64_t *data)
{
	const uint64_t *want = saver->want ? saver->want + page * PAGE_WORDS : NULL;
	unsigned int i;

	assert_true(letter);
	assert_int_equal(atomic_exchange(&saver->seen[page], letter), 0);
	for (i = 0; i < PAGE_WORDS && want; i++)
		if ((letter == 'h' && data[i] != want[i]) || (letter == 'z' && want[i]))
			atomic_fetch_add(&saver->wrong, 1);
}

void saver_run(struct saver *saver)
{
	uint8_t *data = malloc(MEMORY_SPAN_BYTES);
	struct memory_span span;
	unsigned int i, k;
	int r;

	assert_non_null(data);
	while ((r = memory_snapshot_next(saver->snapshot, &span, data)) > 0) {
		assert_int_equal(span.first.v % MEMORY_SPAN_PAGES, 0);
		assert_true(span.spans == 1 || (span.spans <= 32 && !span.here));
		for (k = 0; k < span.spans; k++)
			for (i = 0; i < MEMORY_SPAN_PAGES; i++)
				if (span.first.v + k * MEMORY_SPAN_PAGES + i < saver->pages)
					saver_page(saver, span.first.v + k * MEMORY_SPAN_PAGES + i,
						   saver_letter(&span, i),
						   (uint64_t *)(void *)(data + i * PAGE_BYTES));
		if (saver->delay_us)
			usleep(saver->delay_us);
	}
	atomic_store(&saver->result, r);
	free(data);
}

static void *saver_main(void *arg)
{
	saver_run(arg);
	return NULL;
}

void saver_start(struct saver *saver)
{
	assert_int_equal(pthread_create(&saver->thread, NULL, saver_main, saver), 0);
}

void saver_join(struct saver *saver)
{
	pthread_join(saver->thread, NULL);
}

uint64_t saver_count(const struct saver *saver, char letter)
{
	uint64_t i, n = 0;

	for (i = 0; i < saver->pages; i++)
		n += atomic_load(&saver->seen[i]) == letter;
	return n;
}

void saver_check(const struct saver *saver)
{
	assert_int_equal(atomic_load(&saver->result), 0);
	assert_int_equal(atomic_load(&saver->wrong), 0);
	assert_int_equal(saver_count(saver, 0), 0);
}

void saver_fini(struct saver *saver)
{
	free((void *)saver->seen);
}

struct memory_snapshot *snapshot_at_once(struct guests *guests,
					 const struct memory_snapshot_config *config,
					 uint64_t **want)
{
	struct memory_snapshot *snapshot;
	struct err err;
	int r;

	assert_int_equal(memory_snapshot_new(&snapshot, guests->mem, config, &err), 0);
	r = memory_snapshot_prepare(snapshot, &err);
	if (r == -EPERM || r == -ENOSYS || r == -ENOTSUP) {
		memory_snapshot_end(snapshot, false);
		guests_stop(guests);
		memory_free(guests->mem);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (r)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
	guests_park(guests);
	*want = guests_copy(guests);
	r = memory_snapshot_begin(snapshot, &err);
	if (r)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
	return snapshot;
}
