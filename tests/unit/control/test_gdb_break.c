// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The table of breakpoints, over fake guest memory.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/gdb_break.h"
#include "fake.h"

struct setup {
	struct machine *machine;
	struct memory *mem;
	struct gdb_breaks breaks;
};

static int set_up(void **state)
{
	struct setup *s = calloc(1, sizeof(*s));
	size_t i;

	if (!s)
		return -1;
	s->machine = fake_machine_new();
	s->mem = machine_memory(s->machine);
	for (i = 0; i < sizeof(s->mem->ram); i++)
		s->mem->ram[i] = (uint8_t)i;
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct setup *s = *state;

	/* No page is held for what is gone. */
	gdb_breaks_clear(&s->breaks, s->mem);
	assert_int_equal(s->mem->held, 0);
	fake_machine_free(s->machine);
	free(s);
	return 0;
}

static int set(struct setup *s, uint64_t at)
{
	return gdb_breaks_set(&s->breaks, s->mem, GVA(FAKE_GVA + at), GPA(FAKE_GPA + at));
}

static int unset(struct setup *s, uint64_t at)
{
	return gdb_breaks_remove(&s->breaks, s->mem, GVA(FAKE_GVA + at));
}

static void written(struct setup *s, uint64_t at, size_t len)
{
	gdb_breaks_written(&s->breaks, &(struct gdb_piece){ GPA(FAKE_GPA + at), len }, 1);
}

#define ASSERT_RAM(s, at, a, b) \
	do { \
		assert_int_equal((s)->mem->ram[at], a); \
		assert_int_equal((s)->mem->ram[(at) + 1], b); \
	} while (0)

static void test_set_and_remove(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	assert_non_null(gdb_breaks_find(&s->breaks, GVA(FAKE_GVA + 16)));
	assert_null(gdb_breaks_find(&s->breaks, GVA(FAKE_GVA + 17)));
	/* Again: fine, and what it covers is not the breakpoint itself. */
	assert_int_equal(set(s, 16), 0);
	assert_int_equal(s->breaks.nsoft, 1);
	assert_int_equal(set(s, 32), 0);
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 16, 17);
	ASSERT_RAM(s, 32, 0xcc, 0xdd);
	assert_int_equal(unset(s, 16), -ENOENT);
	assert_int_equal(unset(s, 32), 0);
	ASSERT_RAM(s, 32, 32, 33);
}

static void test_missing_page(void **state)
{
	struct setup *s = *state;

	s->mem->page[1] = PAGE_MISSING;
	assert_int_equal(set(s, PAGE_BYTES), -EAGAIN);
	assert_int_equal(s->breaks.nsoft, 0);
	ASSERT_RAM(s, PAGE_BYTES, 0, 1);
}

/* What the guest has written over it stays. */
static void test_overwritten_by_guest(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	s->mem->ram[16] = 0x90;
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0x90, 0xdd);
}

static void test_alias(void **state)
{
	struct setup *s = *state;
	gva_t other = GVA(0x7000000);

	assert_int_equal(set(s, 16), 0);
	assert_int_equal(gdb_breaks_set(&s->breaks, s->mem, other, GPA(FAKE_GPA + 16)), 0);
	assert_int_equal(s->mem->held, 1);
	/* In either order: the last one puts back what was there before the first. */
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	assert_int_equal(gdb_breaks_remove(&s->breaks, s->mem, other), 0);
	ASSERT_RAM(s, 16, 16, 17);
}

/* The same address, but it means another place now. */
static void test_moved(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	assert_int_equal(gdb_breaks_set(&s->breaks, s->mem, GVA(FAKE_GVA + 16), GPA(FAKE_GPA + 48)),
			 0);
	ASSERT_RAM(s, 16, 16, 17);
	ASSERT_RAM(s, 48, 0xcc, 0xdd);
	assert_int_equal(s->breaks.nsoft, 1);
}

static void test_lift_and_plant(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	assert_int_equal(set(s, 32), 0);
	gdb_breaks_lift(&s->breaks, s->mem);
	ASSERT_RAM(s, 16, 16, 17);
	ASSERT_RAM(s, 32, 32, 33);
	/* Nothing is remembered of what was covered: it may have changed. */
	s->mem->ram[16] = 0x55;
	gdb_breaks_plant(&s->breaks, s->mem);
	gdb_breaks_plant(&s->breaks, s->mem);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	gdb_breaks_clear(&s->breaks, s->mem);
	ASSERT_RAM(s, 16, 0x55, 17);
	ASSERT_RAM(s, 32, 32, 33);
	assert_int_equal(s->breaks.nsoft, 0);
}

static void test_mask(void **state)
{
	struct setup *s = *state;
	uint8_t data[4];

	assert_int_equal(set(s, 16), 0);
	memcpy(data, s->mem->ram + 15, 4);
	gdb_breaks_mask(&s->breaks, GPA(FAKE_GPA + 15), data, 4);
	assert_memory_equal(data, s->mem->ram + 15 + 256, 4);
	/* Half of it, at either end. */
	memcpy(data, s->mem->ram + 13, 4);
	gdb_breaks_mask(&s->breaks, GPA(FAKE_GPA + 13), data, 4);
	assert_memory_equal(data, s->mem->ram + 13 + 256, 4);
	memcpy(data, s->mem->ram + 17, 4);
	gdb_breaks_mask(&s->breaks, GPA(FAKE_GPA + 17), data, 4);
	assert_memory_equal(data, s->mem->ram + 17 + 256, 4);
	/* Elsewhere nothing. */
	memset(data, 0xcc, 4);
	gdb_breaks_mask(&s->breaks, GPA(FAKE_GPA + 18), data, 4);
	assert_int_equal(data[0], 0xcc);
}

static void test_written(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	memset(s->mem->ram + 15, 0x77, 3);
	written(s, 15, 3);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0x77, 0x77);
}

/*
 * By one of its addresses, or another one: what it covers is the same for all,
 * and it is there again.
 */
static void test_alias_written(void **state)
{
	struct setup *s = *state;
	gva_t other = GVA(0x7000000);
	unsigned int other_last;
	uint8_t data[2];

	for (other_last = 0; other_last < 2; other_last++) {
		assert_int_equal(set(s, 16), 0);
		assert_int_equal(gdb_breaks_set(&s->breaks, s->mem, other, GPA(FAKE_GPA + 16)), 0);
		memset(s->mem->ram + 16, 0x70 + (int)other_last, 2);
		written(s, 16, 2);
		ASSERT_RAM(s, 16, 0xcc, 0xdd);
		assert_int_equal(s->mem->held, 1);
		memcpy(data, s->mem->ram + 16, 2);
		gdb_breaks_mask(&s->breaks, GPA(FAKE_GPA + 16), data, 2);
		assert_int_equal(data[0], 0x70 + other_last);
		/* Whichever goes last puts back what was written. */
		assert_int_equal(other_last ? unset(s, 16) :
					      gdb_breaks_remove(&s->breaks, s->mem, other),
				 0);
		ASSERT_RAM(s, 16, 0xcc, 0xdd);
		assert_int_equal(other_last ? gdb_breaks_remove(&s->breaks, s->mem, other) :
					      unset(s, 16),
				 0);
		ASSERT_RAM(s, 16, 0x70 + other_last, 0x70 + other_last);
	}
}

/* The page is mapped twice in a row, and a write goes over the end of the first. */
static void test_written_twice(void **state)
{
	const struct gdb_piece piece[] = { { GPA(FAKE_GPA + 16), PAGE_BYTES - 16 }, { GPA(FAKE_GPA), 18 } };
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	memset(s->mem->ram + 16, 0x77, 2);
	gdb_breaks_written(&s->breaks, piece, 2);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0x77, 0x77);
}

/* What is written may look like the instruction. */
static void test_instruction_written(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	written(s, 16, 2);
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
}

/* What the guest has overwritten is its own, whatever is written elsewhere. */
static void test_written_elsewhere(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	s->mem->ram[16] = 0x90;
	written(s, 0, 16);
	written(s, 18, 4);
	ASSERT_RAM(s, 16, 0x90, 0xdd);
}

/* A part of the instruction: what covers the rest is not the breakpoint. */
static void test_half_written(void **state)
{
	struct setup *s = *state;

	assert_int_equal(set(s, 16), 0);
	s->mem->ram[17] = 0x77;
	written(s, 17, 1);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	s->mem->ram[16] = 0x66;
	written(s, 13, 4);
	ASSERT_RAM(s, 16, 0xcc, 0xdd);
	assert_int_equal(unset(s, 16), 0);
	ASSERT_RAM(s, 16, 0x66, 0x77);
}

static void test_full(void **state)
{
	struct setup *s = *state;
	unsigned int i;

	for (i = 0; i < GDB_SOFT_MAX; i++)
		assert_int_equal(set(s, 2 * i), 0);
	assert_int_equal(set(s, 2 * i), -ENOSPC);
	ASSERT_RAM(s, 2 * i, (2 * i) & 255, (2 * i + 1) & 255);
	assert_int_equal(unset(s, 0), 0);
	assert_int_equal(set(s, 2 * i), 0);
	gdb_breaks_clear(&s->breaks, s->mem);
	for (i = 0; i < sizeof(s->mem->ram); i++)
		assert_int_equal(s->mem->ram[i], i & 255);
}

static void test_watch(void **state)
{
	struct setup *s = *state;
	struct arch_watch watch = { .type = ARCH_WATCH_WRITE, .gva = GVA(8), .len = 8 };
	unsigned int i;

	assert_int_equal(gdb_breaks_unwatch(&s->breaks, &watch), -ENOENT);
	for (i = 0; i < ARCH_WATCH_MAX; i++, watch.gva.v += 8)
		assert_int_equal(gdb_breaks_watch(&s->breaks, &watch), 0);
	assert_int_equal(gdb_breaks_watch(&s->breaks, &watch), -ENOSPC);
	watch.gva = GVA(8);
	assert_int_equal(gdb_breaks_watch(&s->breaks, &watch), 0);
	watch.type = ARCH_WATCH_ACCESS;
	assert_int_equal(gdb_breaks_unwatch(&s->breaks, &watch), -ENOENT);
	watch.type = ARCH_WATCH_WRITE;
	assert_int_equal(gdb_breaks_unwatch(&s->breaks, &watch), 0);
	assert_int_equal(s->breaks.nwatch, ARCH_WATCH_MAX - 1);
	assert_int_equal(gdb_breaks_unwatch(&s->breaks, &watch), -ENOENT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_set_and_remove), TEST(test_missing_page), TEST(test_overwritten_by_guest),
		TEST(test_alias), TEST(test_moved), TEST(test_lift_and_plant), TEST(test_mask),
		TEST(test_written), TEST(test_alias_written), TEST(test_written_twice), TEST(test_instruction_written),
		TEST(test_written_elsewhere), TEST(test_half_written), TEST(test_full), TEST(test_watch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
