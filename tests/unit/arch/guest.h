/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A guest of real vCPUs whose code counts, and tells each number to on_pio or
 * on_mmio of the test: it is run for a while, its state is saved and loaded. What
 * the tests of every architecture's state share.
 */
#ifndef POSTERN_TESTS_UNIT_ARCH_GUEST_H
#define POSTERN_TESTS_UNIT_ARCH_GUEST_H

#include <pthread.h>
#include <stdio.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "base/cond.h"
#include "common.h"
#include "memory/eject.h"

#define CPUS 2
#define PAUSE_MS 10000
#define RUN_NS (60 * NS_PER_SEC)

struct guest {
	struct memory *mem;
	uint8_t *ram;
	struct vm *vm;
	struct vcpu_parked *held[CPUS];	/* until it runs */
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;
	uint32_t count[CPUS];		/* last number that came */
	uint32_t jumps;			/* numbers that did not follow the last one */
	char strange[200];		/* an event that nobody expects */
};

/* What a machine's state is made of. */
struct saved {
	struct buf vm, vcpu[CPUS];
};

/* The next number of a CPU has come. */
static inline void guest_counted(struct guest *guest, unsigned int cpu, uint32_t value)
{
	pthread_mutex_lock(&guest->lock);
	if (guest->count[cpu] && value != guest->count[cpu] + 1)
		guest->jumps++;
	guest->count[cpu] = value;
	pthread_cond_broadcast(&guest->changed);
	pthread_mutex_unlock(&guest->lock);
}

static inline void guest_on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct guest *guest = arg;

	(void)vcpu;
	pthread_mutex_lock(&guest->lock);
	snprintf(guest->strange, sizeof(guest->strange), "event %d: %s", (int)event->type,
		 event->text);
	pthread_cond_broadcast(&guest->changed);
	pthread_mutex_unlock(&guest->lock);
}

static inline struct guest *guest_new(const struct vm_exit_ops *ops, uint64_t ram_bytes)
{
	const struct memory_range range = { .base = GPA(0), .len_bytes = ram_bytes };
	struct guest *guest = calloc(1, sizeof(*guest));
	struct err err = { 0 };
	unsigned int n;

	assert_non_null(guest);
	pthread_mutex_init(&guest->lock, NULL);
	cond_init(&guest->changed);
	assert_int_equal(memory_new(&guest->mem, &range, 1, &err), 0);
	memory_set_way_out(guest->mem, WAY_OUT_KERNEL);
	guest->ram = memory_regions(guest->mem, &n)[0].host;
	if (vm_new(&guest->vm, NULL, guest->mem, CPUS, ops, guest, &err))
		fail_msg("%s", err.text);
	return guest;
}

/* A vCPU of the guest, which is parked. */
static inline struct vcpu_parked *held(struct guest *guest, unsigned int cpu)
{
	struct err err = { 0 };

	if (!guest->held[cpu])
		guest->held[cpu] = vcpu_hold(vm_vcpu(guest->vm, cpu), &err);
	if (!guest->held[cpu])
		fail_msg("%s", err.text);
	return guest->held[cpu];
}

static inline void let_go(struct guest *guest)
{
	unsigned int i;

	for (i = 0; i < CPUS; i++) {
		if (guest->held[i])
			vcpu_release(guest->held[i]);
		guest->held[i] = NULL;
	}
}

static inline void guest_free(struct guest *guest)
{
	let_go(guest);
	vm_end_vcpus(guest->vm);
	memory_shut(guest->mem);
	vm_free(guest->vm);
	memory_free(guest->mem);
	pthread_cond_destroy(&guest->changed);
	pthread_mutex_destroy(&guest->lock);
	free(guest);
}

/* Runs until each CPU has counted as far (0: whatever it does), then parks. */
static inline void guest_run_to(struct guest *guest, const uint32_t want[CPUS])
{
	int64_t until_ns = clock_now_ns() + RUN_NS;
	struct err err = { 0 };
	int r = 0;

	let_go(guest);
	vm_resume(guest->vm);
	pthread_mutex_lock(&guest->lock);
	while (!r && !guest->strange[0] && (guest->count[0] < want[0] || guest->count[1] < want[1]))
		r = cond_wait(&guest->changed, &guest->lock, until_ns);
	pthread_mutex_unlock(&guest->lock);
	if (vm_pause(guest->vm, PAUSE_MS, &err))
		fail_msg("%s", err.text);
	assert_string_equal(guest->strange, "");
	assert_int_equal(r, 0);
	assert_int_equal(guest->jumps, 0);
}

static inline void save(struct guest *guest, struct saved *saved)
{
	struct err err = { 0 };
	unsigned int i;

	memset(saved, 0, sizeof(*saved));
	if (arch_vm_save(guest->vm, &saved->vm, &err))
		fail_msg("%s", err.text);
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_save(held(guest, i), &saved->vcpu[i], &err))
			fail_msg("%s", err.text);
}

static inline void load(struct guest *guest, const struct saved *saved)
{
	struct err err = { 0 };
	unsigned int i;

	if (arch_vm_load(guest->vm, saved->vm.data, saved->vm.len, &err))
		fail_msg("%s", err.text);
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_load(held(guest, i), saved->vcpu[i].data, saved->vcpu[i].len, &err))
			fail_msg("%s", err.text);
}

static inline void saved_fini(struct saved *saved)
{
	unsigned int i;

	buf_fini(&saved->vm);
	for (i = 0; i < CPUS; i++)
		buf_fini(&saved->vcpu[i]);
}

#endif
