// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Threads that touch missing pages themselves are seen; those that may are not blamed.
#include "fixture.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/internal.h"

static uint64_t direct_accesses(const struct memory *mem)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	return stats.direct_accesses;
}

static uint64_t faults(const struct memory *mem)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	return stats.faults;
}

static void fill_one(struct memory *mem, uint64_t gfn)
{
	assert_int_equal(memory_fill(mem, GFN(gfn), 1, NULL), 1);
}

/*
 * Touches page `gfn`, as a memory_thread where it has one, inside KVM_RUN (as
 * far as memory knows) where `inside`.
 */
struct toucher {
	struct memory *mem;
	uint64_t gfn;
	struct memory_thread *self;
	bool inside;
	bool more;		/* and the next page */
	pthread_t thread;
};

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	pthread_setname_np(pthread_self(), "toucher");
	if (t->self)
		memory_thread_bind(t->self);
	if (t->inside)
		memory_thread_enter(t->self);
	(void)*(volatile uint8_t *)(t->mem->region[0].host + t->gfn * PAGE_BYTES);
	if (t->more)
		(void)*(volatile uint8_t *)(t->mem->region[0].host + (t->gfn + 1) * PAGE_BYTES);
	if (t->inside)
		memory_thread_left(t->self, 0);
	return NULL;
}

/*
 * Lets it touch its page, fills that, and waits until it is through; the fault
 * was judged by then.
 */
static void touch(struct toucher *t)
{
	uint64_t before = faults(t->mem);

	assert_int_equal(pthread_create(&t->thread, NULL, toucher_main, t), 0);
	wait_until(faults(t->mem) > before);
	/* The fault thread may still be at it: the fault's note comes after the judgement. */
	wait_until(state_load(&t->mem->state[0][t->gfn]) & STATE_WAITED);
	fill_one(t->mem, t->gfn);
	if (t->more) {
		wait_until(state_load(&t->mem->state[0][t->gfn + 1]) & STATE_WAITED);
		fill_one(t->mem, t->gfn + 1);
	}
	pthread_join(t->thread, NULL);
}

/* What the fault thread logs. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_last[1024];
static unsigned int log_lines;

static void log_keep(enum log_level level, const char *line)
{
	if (level != LOG_ERROR)
		return;
	pthread_mutex_lock(&log_lock);
	strncpy(log_last, line, sizeof(log_last) - 1);
	log_lines++;
	pthread_mutex_unlock(&log_lock);
}

/* How many lines there were so far; last gets the latest. */
static unsigned int log_kept(char last[sizeof(log_last)])
{
	unsigned int lines;

	pthread_mutex_lock(&log_lock);
	memcpy(last, log_last, sizeof(log_last));
	lines = log_lines;
	pthread_mutex_unlock(&log_lock);
	return lines;
}

static void test_a_direct_access_is_counted_and_named_once_a_thread(void **unused)
{
	char last[sizeof(log_last)];
	struct toucher t = { .gfn = 3 };
	struct memory *mem;

	(void)unused;
	/* A handler is set while there are no threads. */
	log_set_handler(log_keep);
	t.mem = mem = memory_for_test(2, 0, true, NULL);
	touch(&t);
	assert_int_equal(direct_accesses(mem), 1);
	assert_int_equal(log_kept(last), 0);
	memory_set_direct_access(mem, MEMORY_DIRECT_ACCESS_LOG);
	t.gfn = 4;
	touch(&t);
	assert_int_equal(log_kept(last), 1);
	assert_non_null(strstr(last, "(toucher)"));
	assert_non_null(strstr(last, "0x4000;"));
	/* The same thread again. */
	t.gfn = 5;
	t.more = true;
	touch(&t);
	assert_int_equal(direct_accesses(mem), 4);
	assert_int_equal(log_kept(last), 2);
	memory_free(mem);
	log_set_handler(NULL);
}

static void test_a_vcpu_thread_may_wait_inside_kvm_run_alone(void **unused)
{
	char last[sizeof(log_last)];
	struct toucher t = { .inside = true };
	struct memory *mem;

	(void)unused;
	log_set_handler(log_keep);
	t.mem = mem = memory_for_test(2, 0, true, NULL);
	t.self = memory_thread_new(mem, "vcpu7", 7);
	/* The eject's mprotect would end a touch in user mode by a SIGSEGV. */
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	touch(&t);
	assert_int_equal(direct_accesses(mem), 0);
	t.inside = false;
	t.gfn = 1;
	memory_set_direct_access(mem, MEMORY_DIRECT_ACCESS_LOG);
	touch(&t);
	assert_int_equal(direct_accesses(mem), 1);
	log_kept(last);
	assert_non_null(strstr(last, "0x1000 outside KVM_RUN;"));
	memory_thread_free(t.self);
	memory_free(mem);
	log_set_handler(NULL);
}

static void test_a_vcpu_thread_that_has_just_left_is_not_blamed(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct memory_thread *self = memory_thread_new(mem, "vcpu0", 0);
	pid_t tid = (pid_t)syscall(SYS_gettid);
	uint64_t before = memory_returns(mem);

	(void)unused;
	memory_thread_bind(self);
	memory_thread_enter(self);
	memory_check_access(mem, tid, GFN(0), before);
	memory_thread_left(self, -4);
	/* Its report was read before it left, or may have been. */
	memory_check_access(mem, tid, GFN(0), before);
	assert_int_equal(direct_accesses(mem), 0);
	/* Read since. */
	memory_check_access(mem, tid, GFN(0), memory_returns(mem));
	assert_int_equal(direct_accesses(mem), 1);
	memory_thread_free(self);
	memory_free(mem);
}

static void test_another_process_is_not_blamed(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, true, NULL);
	struct iovec far = { mem->region[0].host + 9 * PAGE_BYTES, 8 };
	uint64_t word = 0;
	struct iovec near = { &word, sizeof(word) };
	pid_t parent = getpid(), child;
	int status;

	(void)unused;
	child = fork();
	assert_true(child >= 0);
	if (!child)
		_exit(process_vm_readv(parent, &near, 1, &far, 1, 0) == sizeof(word) ? 0 : 1);
	for (int left = 100000; !faults(mem) && left; left--) {
		if (waitpid(child, &status, WNOHANG) == child) {
			/* Not allowed here, or the kernel does not wait for others. */
			memory_free(mem);
			skip();
		}
		wait_a_little();
	}
	assert_int_equal(faults(mem), 1);
	wait_until(state_load(&mem->state[0][9]) & STATE_WAITED);
	fill_one(mem, 9);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(direct_accesses(mem), 0);
	memory_free(mem);
}

/* A process of its own: it says what it said, and how it ended. */
static int in_a_child(enum memory_direct_access what, char *said, size_t size)
{
	const struct rlimit none = { 0, 0 };
	int status, pipes[2];
	ssize_t got;
	pid_t child;

	assert_int_equal(pipe(pipes), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct memory *mem;

		dup2(pipes[1], STDERR_FILENO);
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		mem = memory_for_test(2, 0, true, NULL);
		memory_set_direct_access(mem, what);
		/* So that it ends when nothing else ends it. */
		alarm(10);
		(void)*(volatile uint8_t *)(mem->region[0].host + 2 * PAGE_BYTES);
		_exit(0);
	}
	close(pipes[1]);
	got = read(pipes[0], said, size - 1);
	said[got > 0 ? got : 0] = 0;
	if (what != MEMORY_DIRECT_ACCESS_ABORT)
		kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(pipes[0]);
	return status;
}

static void test_builds_for_tests_abort(void **unused)
{
	char said[1024];
	int status;

	(void)unused;
	/* Where userfaultfd is not allowed this one skips. */
	memory_free(memory_for_test(2, 0, true, NULL));
	status = in_a_child(MEMORY_DIRECT_ACCESS_ABORT, said, sizeof(said));
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_non_null(strstr(said, "direct access: "));
	assert_non_null(strstr(said, " 0x2000;"));
	/* Others go on: this one by its kill. */
	status = in_a_child(MEMORY_DIRECT_ACCESS_LOG, said, sizeof(said));
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_non_null(strstr(said, "direct access: "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_direct_access_is_counted_and_named_once_a_thread),
		cmocka_unit_test(test_a_vcpu_thread_may_wait_inside_kvm_run_alone),
		cmocka_unit_test(test_a_vcpu_thread_that_has_just_left_is_not_blamed),
		cmocka_unit_test(test_another_process_is_not_blamed),
		cmocka_unit_test(test_builds_for_tests_abort),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
