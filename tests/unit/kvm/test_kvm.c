// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// vCPUs that wait for late pages on the real /dev/kvm, brought out by either
// way, again and again. The guest is a ring-3 loop (it runs on every KVM) that
// reads random pages of a work area, checks what it reads, and reports by port
// I/O.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "kvm/irq.h"
#include "kvm/probe.h"
#include "kvm/vcpu.h"

#define CPUS 2
#define RAM_BYTES (16 << 20)
#define WORK_BASE (8 << 20)
#define WORK_PAGES 2048
#define CODE 0x1000
#define PML4 0x2000
#define REPORT_OK 1
#define REPORT_BAD 2
#define STOPS 300

/*
 * rdi: vCPU index, seeds the sequence. Each of the 2048 pages of the work area
 * begins with (index + 1) * golden ratio; after every 256 right reads REPORT_OK
 * goes to port 0x80, after a wrong one REPORT_BAD.
 */
__asm__(".pushsection .rodata\n"
	"walker_start:\n"
	"	leaq 1(%rdi,%rdi,8), %r8\n"
	"	movabsq $0x5851f42d4c957f2d, %r9\n"
	"	movabsq $0x14057b7ef767814f, %r10\n"
	"	movabsq $0x9e3779b97f4a7c15, %r12\n"
	"1:	movl $256, %esi\n"
	"2:	imulq %r9, %r8\n"
	"	addq %r10, %r8\n"
	"	movq %r8, %rax\n"
	"	shrq $20, %rax\n"
	"	andl $2047, %eax\n"
	"	movq %rax, %rbx\n"
	"	shlq $12, %rbx\n"
	"	movq 0x800000(%rbx), %rcx\n"
	"	incq %rax\n"
	"	imulq %r12, %rax\n"
	"	cmpq %rax, %rcx\n"
	"	jne 3f\n"
	"	decl %esi\n"
	"	jnz 2b\n"
	"	movb $1, %al\n"
	"	outb %al, $0x80\n"
	"	jmp 1b\n"
	"3:	movb $2, %al\n"
	"	outb %al, $0x80\n"
	"	jmp 1b\n"
	"walker_end:\n"
	".popsection");
extern const uint8_t walker_start[], walker_end[];

struct guest {
	struct memory *mem;
	struct vm *vm;
	_Atomic uint64_t good, bad, events;
	_Atomic uint64_t poisoned;	/* the page that an event named */
	struct page_source source;
	pthread_t filler;
	_Atomic bool end;
	pthread_mutex_t lock;		/* guards queue, queued */
	gfn_t queue[WORK_PAGES];
	unsigned int queued;
	bool never;			/* the filler leaves everything missing */
	unsigned int cpus;
};

static void on_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	struct guest *g = arg;

	(void)port, (void)write, (void)size;
	atomic_fetch_add(*(uint8_t *)data == REPORT_OK ? &g->good : &g->bad, 1);
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	struct guest *g = arg;

	(void)gpa, (void)write, (void)data, (void)len;
	atomic_fetch_add(&g->events, 1);
}

static void on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct guest *g = arg;

	if (event->type == VM_EVENT_POISONED) {
		atomic_store(&g->poisoned, event->gfn.v);
		return;
	}
	print_message("vCPU %u: event %d %s\n", vcpu_index(vcpu), event->type, event->text);
	atomic_fetch_add(&g->events, 1);
}

static const struct vm_exit_ops guest_ops = { on_pio, on_mmio, on_event };

static int guest_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct guest *g = (struct guest *)((char *)source - offsetof(struct guest, source));

	(void)n;
	pthread_mutex_lock(&g->lock);
	if (g->queued < WORK_PAGES)
		g->queue[g->queued++] = first;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static const struct page_source_ops source_ops = { "late", guest_request };

static void fill_page(struct guest *g, gfn_t gfn)
{
	_Alignas(4096) uint64_t page[512] = { (gfn.v - WORK_BASE / PAGE_BYTES + 1) *
					      UINT64_C(0x9e3779b97f4a7c15) };

	assert_true(memory_fill(g->mem, gfn, 1, page) >= 0);
}

static void *filler_main(void *arg)
{
	struct guest *g = arg;
	unsigned int seed = 3;
	gfn_t gfn;

	while (!atomic_load(&g->end)) {
		usleep((unsigned int)rand_r(&seed) % 2000);
		pthread_mutex_lock(&g->lock);
		gfn = g->queued && !g->never ? g->queue[--g->queued] : GFN(0);
		pthread_mutex_unlock(&g->lock);
		if (gfn.v)
			fill_page(g, gfn);
	}
	return NULL;
}

static void guest_load(struct guest *g)
{
	uint64_t pml4 = 0x3007, pdpt = 0x4007, pd[512];
	struct arch_boot boot = {
		.bare = true, .cpus = g->cpus, .entry = CODE, .stack = WORK_BASE, .stack_stride = 0x1000,
		.page_table = PML4,
	};
	struct err err;
	unsigned int i;

	for (i = 0; i < 512; i++)
		pd[i] = ((uint64_t)i << 21) | 0x87;
	assert_int_equal(memory_fill(g->mem, GFN(0), WORK_BASE / PAGE_BYTES, NULL),
			 WORK_BASE / PAGE_BYTES);
	assert_int_equal(gup_write(g->mem, GPA(CODE), walker_start,
				   (size_t)(walker_end - walker_start), 0, NULL),
			 0);
	assert_int_equal(gup_write(g->mem, GPA(PML4), &pml4, 8, 0, NULL), 0);
	assert_int_equal(gup_write(g->mem, GPA(0x3000), &pdpt, 8, 0, NULL), 0);
	assert_int_equal(gup_write(g->mem, GPA(0x4000), pd, sizeof(pd), 0, NULL), 0);
	if (vm_boot(g->vm, &boot, &err) < 0)
		fail_msg("%s", err.text);
}

static void guest_start_with(struct guest *g, enum way_out way, bool never, unsigned int cpus)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct err err;

	*g = (struct guest){ .source.ops = &source_ops, .never = never, .cpus = cpus };
	pthread_mutex_init(&g->lock, NULL);
	assert_int_equal(memory_new(&g->mem, &range, 1, &err), 0);
	if (memory_watch(g->mem, NULL, &err) < 0)
		fail_msg("%s", err.text);
	memory_set_way_out(g->mem, way);
	if (vm_new(&g->vm, NULL, g->mem, cpus, &guest_ops, g, &err) < 0)
		fail_msg("%s", err.text);
	guest_load(g);
	memory_attach(g->mem, &g->source);
	assert_int_equal(pthread_create(&g->filler, NULL, filler_main, g), 0);
	vm_resume(g->vm);
}

static void guest_start(struct guest *g, enum way_out way, bool never)
{
	guest_start_with(g, way, never, CPUS);
}

static void guest_end(struct guest *g)
{
	assert_int_equal(vm_end_vcpus(g->vm), 0);
	atomic_store(&g->end, true);
	pthread_join(g->filler, NULL);
	memory_detach(g->mem);
	memory_shut(g->mem);
	vm_free(g->vm);
	memory_free(g->mem);
	pthread_mutex_destroy(&g->lock);
	assert_int_equal(g->bad, 0);
	assert_int_equal(g->events, 0);
}

/* Skips the test unless a vCPU can wait for a page here, and be brought out by `way`. */
static void need_way(enum way_out way)
{
	enum way_out found;
	struct err err;

	if (probe_way_out(&found, NULL, &err) < 0) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (way == WAY_OUT_KERNEL && found != WAY_OUT_KERNEL) {
		print_message("skipped: guest faults are not interruptible on this kernel\n");
		skip();
	}
}

static void pause_all(struct guest *g)
{
	struct err err;
	unsigned int i;

	if (vm_pause(g->vm, 10000, &err) < 0)
		fail_msg("%s", err.text);
	for (i = 0; i < g->cpus; i++)
		assert_true(vcpu_is_parked(vm_vcpu(g->vm, i)));
}

static void stress(enum way_out way)
{
	unsigned int seed = 11, stop;
	struct memory_stats stats;
	struct guest g;

	need_way(way);
	guest_start(&g, way, false);
	for (stop = 0; stop < STOPS; stop++) {
		usleep((unsigned int)rand_r(&seed) % 2000);
		pause_all(&g);
		vm_resume(g.vm);
	}
	/* All pages at once: the guest goes on, and finds every page right. */
	for (stop = 0; stop < WORK_PAGES; stop++)
		fill_page(&g, GFN(WORK_BASE / PAGE_BYTES + stop));
	stop = (unsigned int)atomic_load(&g.good);
	for (seed = 0; atomic_load(&g.good) < stop + 100; seed++) {
		assert_true(seed < 100000);
		usleep(100);
	}
	memory_stats(g.mem, &stats);
	print_message("%d stops, %lu faults, %lu ejects, %lu right reports\n", STOPS, stats.faults,
		      stats.ejects, atomic_load(&g.good));
	if (way == WAY_OUT_EJECT)
		assert_true(stats.ejects > 0);
	else
		assert_int_equal(stats.ejects, 0);
	guest_end(&g);
}

static void test_stress_by_the_kernel(void **unused)
{
	(void)unused;
	stress(WAY_OUT_KERNEL);
}

static void test_stress_by_the_eject(void **unused)
{
	(void)unused;
	stress(WAY_OUT_EJECT);
}

static void every_vcpu_waits(enum way_out way, unsigned int cpus, int rounds)
{
	struct memory_waiter waiter[VM_VCPUS_MAX + 1];
	struct guest g;
	int round, i;

	need_way(way);
	guest_start_with(&g, way, true, cpus);
	for (round = 0; round < rounds; round++) {
		for (i = 0; memory_waiters(g.mem, waiter, cpus + 1) != cpus; i++) {
			assert_true(i < 100000);
			usleep(100);
		}
		pause_all(&g);
		assert_int_equal(memory_waiters(g.mem, waiter, 1), 0);
		vm_resume(g.vm);
	}
	guest_end(&g);
}

static void test_every_vcpu_waits_and_leaves_by_the_kernel(void **unused)
{
	(void)unused;
	every_vcpu_waits(WAY_OUT_KERNEL, CPUS, 50);
}

static void test_every_vcpu_waits_and_leaves_by_the_eject(void **unused)
{
	(void)unused;
	every_vcpu_waits(WAY_OUT_EJECT, CPUS, 50);
}

/* As many as there can be: a pause asks all, and then waits for all. */
static void test_as_many_as_there_can_be_leave_by_the_kernel(void **unused)
{
	(void)unused;
	every_vcpu_waits(WAY_OUT_KERNEL, VM_VCPUS_MAX, 5);
}

static void test_as_many_as_there_can_be_leave_by_the_eject(void **unused)
{
	(void)unused;
	every_vcpu_waits(WAY_OUT_EJECT, VM_VCPUS_MAX, 5);
}

/* One more is an error that says how many there may be. */
static void test_too_many_vcpus_are_refused(void **unused)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct memory *mem;
	struct err err;
	struct vm *vm;

	(void)unused;
	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	assert_int_equal(vm_new(&vm, NULL, mem, VM_VCPUS_MAX + 1, &guest_ops, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "1 to 128"));
	memory_free(mem);
}

/* The host's kernel takes a page away from the guest, as it does when its memory fails. */
static void test_a_page_whose_memory_fails(void **unused)
{
	const unsigned int page = 77;
	uint64_t word, good;
	struct guest g;
	unsigned int i, n;
	uint8_t *host;
	int r;

	(void)unused;
	need_way(WAY_OUT_EJECT);
	guest_start(&g, WAY_OUT_EJECT, false);
	for (i = 0; i < WORK_PAGES; i++)
		fill_page(&g, GFN(WORK_BASE / PAGE_BYTES + i));
	pause_all(&g);
	host = memory_regions(g.mem, &n)[0].host + WORK_BASE + page * PAGE_BYTES;
	r = madvise(host, PAGE_BYTES, MADV_HWPOISON) < 0 ? errno : 0;
	vm_resume(g.vm);
	if (r) {
		guest_end(&g);
		print_message("skipped: MADV_HWPOISON: %s\n", strerror(r));
		skip();
	}
	for (i = 0; !atomic_load(&g.poisoned); i++) {
		assert_true(i < 100000);
		usleep(100);
	}
	assert_int_equal(atomic_load(&g.poisoned), WORK_BASE / PAGE_BYTES + page);
	pause_all(&g);
	assert_int_equal(gup_read(g.mem, GPA(WORK_BASE + page * PAGE_BYTES), &word, 8, 0, NULL),
			 -EIO);
	/* Whoever lets it run all the same hears of it again, and it can still be stopped. */
	for (n = 0; n < 20; n++) {
		atomic_store(&g.poisoned, 0);
		good = atomic_load(&g.good);
		vm_resume(g.vm);
		for (i = 0; !atomic_load(&g.poisoned) && atomic_load(&g.good) == good; i++) {
			assert_true(i < 100000);
			usleep(100);
		}
		pause_all(&g);
	}
	guest_end(&g);
}

static void test_kernel_mode_is_told(void **unused)
{
	char why[160] = "";
	struct err err;
	bool can = false;
	int r = probe_kernel_mode(&can, why, sizeof(why), &err);

	(void)unused;
	if (r == -ENOENT || r == -EACCES) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_not_equal(why[0], 0);
	print_message("%s: %s\n", can ? "yes" : "no", why);
}

/*
 * Numbers, routes and events are given and taken back, as many as there are;
 * what one refuses leaves the others.
 */
static void test_messages_and_events(void **unused)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	unsigned int msi[VM_MSI_MAX], i, more;
	struct guest g = { 0 };
	struct err err;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), r;

	(void)unused;
	assert_int_equal(memory_new(&g.mem, &range, 1, &err), 0);
	r = vm_new(&g.vm, NULL, g.mem, 1, &guest_ops, &g, &err);
	if (r == -ENOENT || r == -EACCES) {
		memory_free(g.mem);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	for (i = 0; i < VM_MSI_MAX; i++)
		if (vm_msi_open(g.vm, &msi[i], &err) < 0)
			fail_msg("%s", err.text);
	assert_int_equal(vm_msi_open(g.vm, &more, &err), -ENOSPC);
	for (i = 0; i < 8; i++) {
		assert_int_equal(vm_msi_set(g.vm, msi[i], 0xfee00000, 0x40 + i), 0);
		vm_msi_fire(g.vm, msi[i]);
	}
	/* Without a route: nowhere. */
	vm_msi_fire(g.vm, msi[9]);
	vm_msi_close(g.vm, msi[3]);
	assert_int_equal(vm_msi_open(g.vm, &more, &err), 0);
	assert_int_equal(more, msi[3]);
	assert_int_equal(vm_ioeventfd_add(g.vm, GPA(0xc0003000), fd), 0);
	assert_int_equal(vm_ioeventfd_add(g.vm, GPA(0xc0003000), fd), -EEXIST);
	assert_int_equal(vm_ioeventfd_remove(g.vm, GPA(0xc0003000), fd), 0);
	assert_true(vm_ioeventfd_remove(g.vm, GPA(0xc0003000), fd) < 0);
	for (i = 0; i < VM_MSI_MAX; i++)
		vm_msi_close(g.vm, msi[i]);
	assert_int_equal(vm_end_vcpus(g.vm), 0);
	memory_shut(g.mem);
	vm_free(g.vm);
	memory_free(g.mem);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kernel_mode_is_told),
		cmocka_unit_test(test_messages_and_events),
		cmocka_unit_test(test_every_vcpu_waits_and_leaves_by_the_kernel),
		cmocka_unit_test(test_every_vcpu_waits_and_leaves_by_the_eject),
		cmocka_unit_test(test_as_many_as_there_can_be_leave_by_the_kernel),
		cmocka_unit_test(test_as_many_as_there_can_be_leave_by_the_eject),
		cmocka_unit_test(test_too_many_vcpus_are_refused),
		cmocka_unit_test(test_stress_by_the_kernel),
		cmocka_unit_test(test_stress_by_the_eject),
		cmocka_unit_test(test_a_page_whose_memory_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
