// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// memory/ and arch/ of the machine in fake.h.
#include "fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/cond.h"

/* ---- memory/ ---- */

struct memory_thread *memory_thread_new(struct memory *mem, const char *name, int cpu)
{
	(void)name;
	(void)cpu;
	mem->thread.mem = mem;
	return &mem->thread;
}

void memory_thread_free(struct memory_thread *thread)
{
	(void)thread;
}

void memory_thread_bind(struct memory_thread *thread)
{
	(void)thread;
}

void memory_thread_unbind(struct memory_thread *thread)
{
	(void)thread;
}

enum kick_result memory_thread_kick(struct memory_thread *thread)
{
	pthread_mutex_lock(&thread->mem->lock);
	thread->kicked = true;
	pthread_cond_broadcast(&thread->mem->changed);
	pthread_mutex_unlock(&thread->mem->lock);
	return KICK_DONE;
}

void memory_thread_clear(struct memory_thread *thread)
{
	pthread_mutex_lock(&thread->mem->lock);
	thread->kicked = false;
	pthread_mutex_unlock(&thread->mem->lock);
}

enum way_out memory_way_out(const struct memory *mem)
{
	(void)mem;
	return WAY_OUT_KERNEL;
}

bool memory_is_ram(const struct memory *mem, gpa_t gpa, uint64_t len)
{
	(void)mem;
	return gpa.v >= FAKE_GPA && gpa.v + len <= FAKE_GPA + FAKE_PAGES * PAGE_BYTES;
}

enum page_state memory_page_state(const struct memory *mem, gfn_t gfn)
{
	return mem->page[gfn.v - FAKE_GPA / PAGE_BYTES];
}

const struct memory_region *memory_regions(const struct memory *mem, unsigned int *n)
{
	static const struct memory_region region = { .first = { FAKE_GPA / PAGE_BYTES }, .pages = FAKE_PAGES };

	(void)mem;
	*n = 1;
	return &region;
}

uint64_t memory_pages(const struct memory *mem)
{
	(void)mem;
	return FAKE_PAGES;
}

void memory_stats(const struct memory *mem, struct memory_stats *stats)
{
	unsigned int i;

	*stats = (struct memory_stats){ .pages = FAKE_PAGES, .faults = 7, .direct_accesses = 2 };
	for (i = 0; i < FAKE_PAGES; i++) {
		stats->missing += mem->page[i] != PAGE_PRESENT;
		stats->requested += mem->page[i] == PAGE_REQUESTED;
		stats->lost += mem->page[i] == PAGE_LOST;
	}
}

struct hist *memory_latency(struct memory *mem)
{
	return &mem->latency;
}

unsigned int memory_waiters(struct memory *mem, struct memory_waiter *waiters, unsigned int max)
{
	unsigned int n = mem->nwaiters < max ? mem->nwaiters : max;

	memcpy(waiters, mem->waiter, n * sizeof(*waiters));
	return n;
}

/* Waits as gup does; `missing` may become false by another thread. */
static int fake_wait(struct memory *mem, const bool *table, const enum page_state *page,
		     unsigned int flags, const struct gup_opts *opts)
{
	int r = 0;

	pthread_mutex_lock(&mem->lock);
	while (table ? *table : *page != PAGE_PRESENT) {
		if (flags & GUP_INTERRUPTIBLE && opts->self->kicked)
			r = -EINTR;
		else if (page && *page == PAGE_LOST)
			r = -EIO;
		else if (flags & GUP_NOWAIT)
			r = -EAGAIN;
		else if (opts && opts->deadline_ns && clock_now_ns() >= opts->deadline_ns)
			r = -ETIMEDOUT;
		if (r)
			break;
		mem->waits++;
		cond_wait(&mem->changed, &mem->lock,
			  opts && opts->deadline_ns ? opts->deadline_ns : INT64_MAX);
	}
	pthread_mutex_unlock(&mem->lock);
	return r;
}

static int fake_page(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags,
		     const struct gup_opts *opts, uint8_t **at)
{
	if (!memory_is_ram(mem, gpa, len))
		return -EFAULT;
	*at = mem->ram + (gpa.v - FAKE_GPA);
	return fake_wait(mem, NULL, &mem->page[(gpa.v - FAKE_GPA) / PAGE_BYTES], flags, opts);
}

int gup_read(struct memory *mem, gpa_t gpa, void *to, size_t len, unsigned int flags,
	     const struct gup_opts *opts)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r == 0)
		memcpy(to, at, len);
	return r;
}

int gup_write(struct memory *mem, gpa_t gpa, const void *from, size_t len, unsigned int flags,
	      const struct gup_opts *opts)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r == 0)
		memcpy(at, from, len);
	return r;
}

int gup(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags, const struct gup_opts *opts,
	struct gup_span *span)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r < 0)
		return r;
	*span = (struct gup_span){ .hva = at, .len = len, .first = gpa_to_gfn(gpa), .pages = 1 };
	mem->held++;
	return 0;
}

void gup_put(struct memory *mem, struct gup_span *span)
{
	assert_non_null(span->hva);
	assert_true(mem->held);
	mem->held--;
	*span = (struct gup_span){ 0 };
}

void memory_map_lock(struct memory *mem)
{
	(void)mem;
}

void memory_map_unlock(struct memory *mem)
{
	(void)mem;
}

/* ---- arch/ ---- */

static void assert_held(const struct vcpu_parked *vcpu)
{
	assert_true(vcpu->vcpu->parked);
	assert_true(vcpu->vcpu->holds);
}

int arch_mmu_get(struct vcpu_parked *vcpu, struct arch_mmu *mmu, struct err *err)
{
	(void)err;
	assert_held(vcpu);
	*mmu = (struct arch_mmu){ 0 };
	return 0;
}

int arch_translate(struct memory *mem, const struct arch_mmu *mmu, gva_t gva, unsigned int flags,
		   const struct gup_opts *opts, gpa_t *gpa, uint64_t *left)
{
	int r;

	(void)mmu;
	r = fake_wait(mem, &mem->table_missing, NULL, flags, opts);
	if (r < 0)
		return r;
	if (gva.v >= FAKE_ALIAS)
		gva.v -= FAKE_ALIAS - FAKE_GVA;
	/* One page more is mapped than there is memory. */
	if (gva.v < FAKE_GVA || gva.v >= FAKE_GVA + (FAKE_PAGES + 1) * PAGE_BYTES)
		return -EFAULT;
	*gpa = GPA(gva.v - FAKE_GVA + FAKE_GPA);
	*left = PAGE_BYTES - gva.v % PAGE_BYTES;
	return 0;
}

const char *arch_gdb_xml(void)
{
	return "<target>fake</target>";
}

size_t arch_gdb_regs_bytes(void)
{
	return FAKE_REGS_BYTES;
}

int arch_gdb_read_regs(struct vcpu_parked *vcpu, uint8_t *regs, struct err *err)
{
	struct vm *vm = vcpu->vcpu->vm;
	int64_t until = clock_now_ns() + vm->regs_ns;

	(void)err;
	assert_held(vcpu);
	while (vm->regs_ns && clock_now_ns() < until)
		;
	vm->regs_read++;
	memcpy(regs, vcpu->vcpu->regs, FAKE_REGS_BYTES);
	return 0;
}

int arch_gdb_write_regs(struct vcpu_parked *vcpu, const uint8_t *regs, struct err *err)
{
	(void)err;
	assert_held(vcpu);
	memcpy(vcpu->vcpu->regs, regs, FAKE_REGS_BYTES);
	return 0;
}

bool arch_gdb_reg(unsigned int number, size_t *offset, size_t *bytes)
{
	*offset = 8 * (size_t)number;
	*bytes = 8;
	return number < 3;
}

int arch_gdb_pc(struct vcpu_parked *vcpu, uint64_t *pc, struct err *err)
{
	(void)err;
	*pc = vcpu->vcpu->regs[2];
	return 0;
}

int arch_debug_set(struct vcpu_parked *vcpu, const struct arch_debug *debug, struct err *err)
{
	unsigned int i;

	assert_held(vcpu);
	for (i = 0; i < debug->nwatch; i++)
		if (debug->watch[i].type == ARCH_WATCH_READ)
			return err_set(err, -EINVAL, "no such watchpoint");
	vcpu->vcpu->debug = *debug;
	return 0;
}

bool arch_debug_hit(struct vcpu_parked *vcpu, const struct arch_debug *debug, unsigned int *index)
{
	(void)debug;
	*index = (unsigned int)vcpu->vcpu->hit;
	return vcpu->vcpu->hit >= 0;
}

const uint8_t *arch_breakpoint(size_t *len)
{
	static const uint8_t insn[] = { 0xcc, 0xdd };

	*len = sizeof(insn);
	return insn;
}
