// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The names that functions had in 0.1 do what the new ones do.
#include "fixture.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/internal.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static void on_signal(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

/* A thread, this one, that waits inside KVM_RUN for page 3 as far as memory knows. */
static struct memory_thread *waiting_thread(struct memory *mem)
{
	struct memory_thread *self = memory_thread_new(mem, "test", -1), *kicked = NULL;

	assert_non_null(self);
	memory_thread_bind(self);
	memory_thread_enter(self);
	memory_note_wait(mem, atomic_load(&self->tid), GFN(3), &kicked);
	assert_true(atomic_load(&self->wait.active));
	return self;
}

static void test_set_nudge_is_set_signal(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	_Atomic int signalled = 0;
	struct memory_thread *self;

	(void)unused;
	self = waiting_thread(mem);
	memory_thread_set_nudge(self, on_signal, &signalled);
	mem->eject_after_ns = 100 * NS_PER_SEC;
	assert_true(memory_eject(mem, self, GFN(3)));
	self->eject_tried_ns = -200 * NS_PER_SEC;
	memory_eject_overdue(mem);
	assert_int_equal(signalled, 1);
	assert_false(memory_thread_left(self, -EINTR));
	memory_thread_free(self);
	memory_free(mem);
}

static void test_sit_out_waits_for_the_page(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self;

	(void)unused;
	self = waiting_thread(mem);
	assert_true(memory_eject(mem, self, GFN(3)));
	assert_true(memory_thread_left(self, -EFAULT));
	assert_true(atomic_load(&self->wait.active));
	/* A kick ends it. */
	memory_thread_kick(self);
	memory_thread_sit_out(self);
	assert_false(atomic_load(&self->wait.active));
	memory_thread_free(self);
	memory_free(mem);
}

static void test_set_stray_sets_what_is_done(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_stats stats;

	(void)unused;
	assert_int_equal(atomic_load(&mem->direct_access), MEMORY_DIRECT_ACCESS_COUNT);
	memory_set_stray(mem, MEMORY_STRAY_ABORT);
	assert_int_equal(atomic_load(&mem->direct_access), MEMORY_DIRECT_ACCESS_ABORT);
	memory_set_stray(mem, MEMORY_STRAY_LOG);
	assert_int_equal(atomic_load(&mem->direct_access), MEMORY_DIRECT_ACCESS_LOG);
	memory_set_stray(mem, MEMORY_STRAY_COUNT);
	assert_int_equal(atomic_load(&mem->direct_access), MEMORY_DIRECT_ACCESS_COUNT);
	/* Nobody waits there: it is this thread, outside KVM_RUN. */
	memory_check_access(mem, gettid(), GFN(3), 0);
	memory_stats(mem, &stats);
	assert_int_equal(stats.direct_accesses, 1);
	assert_int_equal(stats.strays, 1);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_nudge_is_set_signal),
		cmocka_unit_test(test_sit_out_waits_for_the_page),
		cmocka_unit_test(test_set_stray_sets_what_is_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
