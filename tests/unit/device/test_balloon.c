// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The virtio balloon: what pages hold after the guest gave them up, and when they keep it.
 */
#include <linux/virtio_balloon.h>

#include "base/log.h"
#include "device/virtio/balloon.h"
#include "small.h"

enum { INFLATE, DEFLATE, REPORT };

#define REPORTING (UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING)
#define PAGES (SMALL_RAM / PAGE_BYTES)
#define ACTUAL (SMALL_CONFIG + 4)

/* Every page from `first` on holds its number. */
static void number_pages(struct small *s, uint64_t first)
{
	uint64_t i;

	for (i = first; i < PAGES; i++)
		*(uint64_t *)(void *)(s->ram + i * PAGE_BYTES + 8) = i;
}

static bool holds(struct small *s, uint64_t page)
{
	uint64_t word = *(uint64_t *)(void *)(s->ram + page * PAGE_BYTES + 8);

	assert_true(word == page || word == 0);
	return word == page;
}

static uint64_t discarded(struct small *s)
{
	struct memory_stats stats;

	memory_stats(s->mem, &stats);
	return stats.discarded;
}

static void send_pfns(struct small *s, unsigned int queue, const uint32_t *pfn, unsigned int n)
{
	const struct driver_buf buf = { SMALL_DATA, n * 4, false };
	uint32_t len = 1;

	memcpy(s->ram + SMALL_DATA, pfn, n * sizeof(*pfn));
	driver_add(&s->driver[queue], &buf, 1, 0);
	small_notify(s, queue);
	small_until(s, driver_used(&s->driver[queue], 1, &len) >= 0);
	assert_int_equal(len, 0);
}

static void pages_are_given_up_and_come_back(uint64_t with)
{
	const uint32_t pfn[] = { 1033, 1030, 1031, 1032, 1031, 2000, 1535, 1536 };
	struct small *s = small_new(&balloon_type, "", false);
	uint64_t i;

	small_start(s, with);
	number_pages(s, 1024);
	send_pfns(s, INFLATE, pfn, 8);
	for (i = 1024; i < PAGES; i++)
		assert_int_equal(holds(s, i), !((i >= 1030 && i <= 1033) || i == 2000 ||
						i == 1535 || i == 1536));
	assert_int_equal(discarded(s), 7);
	send_pfns(s, DEFLATE, pfn, 8);
	assert_int_equal(discarded(s), 7);
	s->ram[UINT64_C(1030) * PAGE_BYTES] = 1;
	assert_int_equal(small_status(s), 0xf);
	small_free(s);
}

static void pages_are_given_up_by_either_ring(void **state)
{
	(void)state;
	pages_are_given_up_and_come_back(0);
	pages_are_given_up_and_come_back(SMALL_PACKED);
}

static void free_pages_are_reported(void **state)
{
	/* A huge page, some pages, less than one. */
	const struct driver_buf bufs[] = {
		{ 4 << 20, 2 << 20, true }, { (6 << 20) + 100, 3 * PAGE_BYTES, true }, { (7 << 20) + 10, 100, true },
	};
	struct small *s = small_new(&balloon_type, "", false);
	uint32_t len;
	uint64_t i;

	(void)state;
	assert_int_equal(small_get(s->dev, VIRTIO_PCI_COMMON_NUMQ, 2), 3);
	small_start(s, REPORTING);
	number_pages(s, 1024);
	driver_add(&s->driver[REPORT], bufs, 3, 0);
	small_notify(s, REPORT);
	small_until(s, driver_used(&s->driver[REPORT], 3, &len) >= 0);
	assert_int_equal(discarded(s), 512 + 2);
	for (i = 1024; i < PAGES; i++)
		assert_int_equal(holds(s, i), i >= 1536 && i != 1537 && i != 1538);
	small_free(s);
}

static void what_is_no_ram_needs_a_reset(void **state)
{
	const struct driver_buf bad = { SMALL_RAM, 2 << 20, true };
	const uint32_t pfn[] = { 1024, UINT32_MAX };
	struct small *s = small_new(&balloon_type, "", false);

	(void)state;
	small_start(s, REPORTING);
	memcpy(s->ram + SMALL_DATA, pfn, sizeof(pfn));
	driver_add(&s->driver[INFLATE], &(struct driver_buf){ SMALL_DATA, 8, false }, 1, 0);
	small_notify(s, INFLATE);
	small_until(s, small_status(s) & VIRTIO_CONFIG_S_NEEDS_RESET);
	small_put(s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(small_status(s), 0);
	memset(s->ram + SMALL_RINGS, 0, 3 * SMALL_RING);
	small_start(s, REPORTING);
	driver_add(&s->driver[REPORT], &bad, 1, 0);
	small_notify(s, REPORT);
	small_until(s, small_status(s) & VIRTIO_CONFIG_S_NEEDS_RESET);
	small_free(s);
}

/*
 * A chain longer than any driver sends is taken in bounded time; one that is no
 * whole number says nothing.
 */
static void long_chains_are_bounded(void **state)
{
	struct small *s = small_new(&balloon_type, "", false);
	static uint32_t pfn[65536];
	uint32_t i;

	(void)state;
	small_start(s, 0);
	number_pages(s, 1024);
	for (i = 0; i < 65536; i++)
		pfn[i] = 1024 + i % 2048;
	send_pfns(s, INFLATE, pfn, 65536);
	assert_int_equal(discarded(s), 1024);
	driver_add(&s->driver[INFLATE], &(struct driver_buf){ SMALL_DATA, 3, false }, 1, 0);
	small_notify(s, INFLATE);
	small_until(s, driver_used(&s->driver[INFLATE], 1, &i) >= 0);
	assert_int_equal(small_status(s), 0xf);
	small_free(s);
}

static void late_memory_is_left_alone(void **state)
{
	struct small *s = small_new(&balloon_type, "", true);
	const struct driver_buf report = { 4 << 20, 2 << 20, true };
	const uint32_t pfn[] = { 1024, 1025, 2000 };
	uint8_t page[PAGE_BYTES];
	uint32_t len;

	(void)state;
	assert_true(memory_fill(s->mem, GFN(SMALL_RINGS / PAGE_BYTES), 16, NULL) > 0);
	assert_true(memory_fill(s->mem, GFN(SMALL_DATA / PAGE_BYTES), 1, NULL) > 0);
	memset(page, 7, sizeof(page));
	assert_int_equal(memory_fill(s->mem, GFN(1024), 1, page), 1);
	small_start(s, REPORTING);
	send_pfns(s, INFLATE, pfn, 3);
	assert_int_equal(s->ram[1024 * PAGE_BYTES], 7);
	/* Nothing waits for pages that are only told of, and nobody asks for them. */
	driver_add(&s->driver[REPORT], &report, 1, 0);
	small_notify(s, REPORT);
	small_until(s, driver_used(&s->driver[REPORT], 1, &len) >= 0);
	assert_int_equal(s->ram[1024 * PAGE_BYTES], 7);
	assert_int_equal(memory_page_state(s->mem, GFN(1025)), PAGE_MISSING);
	assert_int_equal(discarded(s), 0);
	/* All is there: from now on they are given up. */
	assert_true(memory_fill(s->mem, GFN(0), PAGES, NULL) > 0);
	assert_false(memory_is_late(s->mem));
	send_pfns(s, INFLATE, pfn, 3);
	assert_int_equal(s->ram[1024 * PAGE_BYTES], 0);
	assert_int_equal(discarded(s), 3);
	small_free(s);
}

static void the_host_sets_it_and_is_told(void **state)
{
	struct small *s = small_new(&balloon_type, "", false);
	uint32_t fired, generation;
	int64_t start = clock_now_ns();

	(void)state;
	assert_true(balloon_is(s->dev));
	small_start(s, 0);
	generation = (uint32_t)small_get(s->dev, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	fired = (uint32_t)small_get(s->dev, 0x1000, 1);
	assert_int_equal(fired, 0);
	balloon_set_target(s->dev, 1000);
	assert_int_equal(small_get(s->dev, SMALL_CONFIG, 4), 1000);
	assert_int_equal(small_get(s->dev, 0x1000, 1), VIRTIO_PCI_ISR_CONFIG);
	assert_int_not_equal(small_get(s->dev, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	/* The target is not the driver's to write. */
	small_put(s->dev, SMALL_CONFIG, 5, 4);
	assert_int_equal(small_get(s->dev, SMALL_CONFIG, 4), 1000);
	small_put(s->dev, ACTUAL, 600, 4);
	small_until(s, s->balloons == 1);
	assert_int_equal(s->balloon, 600);
	assert_int_equal(balloon_actual(s->dev), 600);
	/* One that changes it all the time is not told of all the time. */
	for (fired = 0; fired < 1000; fired++) {
		small_put(s->dev, ACTUAL, fired, 4);
		uv_run(loop_uv(s->loop), UV_RUN_NOWAIT);
	}
	assert_true(s->balloons == 1 || clock_now_ns() - start > NS_PER_SEC);
	small_until(s, s->balloon == 999);
	/* A reset: the driver has its pages back, the host's wish stands. */
	small_put(s->dev, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(balloon_actual(s->dev), 0);
	assert_int_equal(small_get(s->dev, SMALL_CONFIG, 4), 1000);
	small_free(s);
}

static void its_state_travels(void **state)
{
	struct small *s = small_new(&balloon_type, "", false);
	struct vdev *to = small_device(s, &balloon_type, "");

	(void)state;
	small_start(s, 0);
	balloon_set_target(s->dev, 1000);
	small_put(s->dev, ACTUAL, 600, 4);
	vdev_stop(s->dev);
	state_torture(&s->dev->device_ops, s->dev, to);
	assert_int_equal(balloon_actual(to), 600);
	assert_int_equal(small_get(to, SMALL_CONFIG, 4), 1000);
	vdev_free(to);
	small_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_given_up_by_either_ring),
		cmocka_unit_test(free_pages_are_reported),
		cmocka_unit_test(what_is_no_ram_needs_a_reset),
		cmocka_unit_test(long_chains_are_bounded),
		cmocka_unit_test(late_memory_is_left_alone),
		cmocka_unit_test(the_host_sets_it_and_is_told),
		cmocka_unit_test(its_state_travels),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
