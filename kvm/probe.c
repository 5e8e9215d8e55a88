// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The probe is a small machine of the product's own pieces: a guest of a few instructions touches a page that never comes,
// and is paused. What brings it out is what this host can do.
#include "kvm/probe.h"

#include <errno.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "kvm/vcpu.h"

#define PROBE_BYTES (4 * HUGE_BYTES)
#define PROBE_WAIT_MS 5000	/* for the guest to get to the page: long, an emulated host is slow */
#define PROBE_KERNEL_MS 200
#define PROBE_EJECT_MS 2000

static void probe_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	(void)arg, (void)port, (void)write, (void)data, (void)size;
}

static void probe_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)arg, (void)gpa, (void)write, (void)data, (void)len;
}

static void probe_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct vm_event *seen = arg;

	(void)vcpu;
	if (seen)
		*seen = *event;
}

static const struct vm_exit_ops probe_ops = {
	.pio = probe_pio, .mmio = probe_mmio, .event = probe_event,
};

/* Waits until the vCPU waits for a page. Polls: this runs once, before anything else does. */
static int probe_until_waiting(struct memory *mem, struct err *err)
{
	int64_t deadline = clock_now_ns() + PROBE_WAIT_MS * NS_PER_MS;
	struct memory_waiter waiter;

	while (!memory_waiters(mem, &waiter, 1)) {
		if (clock_now_ns() > deadline)
			return err_set(err, -ETIMEDOUT, "the probe's guest does not run on this KVM");
		usleep(50);
	}
	return 0;
}

static int probe_try(struct memory *mem, struct vm *vm, enum way_out *way, int64_t *us, struct err *err)
{
	int64_t start = clock_now_ns();
	int r;

	memory_set_way_out(mem, WAY_OUT_KERNEL);
	*way = WAY_OUT_KERNEL;
	r = vm_pause(vm, PROBE_KERNEL_MS, NULL);
	if (r == -ETIMEDOUT) {
		start = clock_now_ns();
		memory_set_way_out(mem, WAY_OUT_EJECT);
		*way = WAY_OUT_EJECT;
		r = vm_pause(vm, PROBE_EJECT_MS, NULL);
	}
	if (r < 0)
		return err_set(err, r, "neither a signal nor the eject brings a vCPU out of its wait for a page");
	if (us)
		*us = (clock_now_ns() - start) / NS_PER_US;
	return 0;
}

/* Loads the guest into the watched memory: every page but the one that it touches comes. */
static int probe_load(struct memory *mem, struct arch_boot *boot, struct err *err)
{
	const struct memory_region *regions;
	unsigned int n;

	regions = memory_regions(mem, &n);
	if (memory_fill(mem, regions[0].first, regions[0].pages - 1, NULL) < 0)
		return err_set(err, -ENOMEM, "no memory for the probe's guest");
	return arch_probe_load(boot, mem, gfn_to_gpa(GFN(regions[0].pages - 1)), err);
}

int probe_way_out(enum way_out *way, int64_t *us, struct err *err)
{
	const struct memory_range range = { GPA(0), PROBE_BYTES };
	struct arch_boot boot = { 0 };
	struct memory *mem = NULL;
	struct vm *vm = NULL;
	int r;

	r = memory_new(&mem, &range, 1, err);
	if (r < 0)
		return r;
	r = memory_watch(mem, NULL, err);
	if (r < 0)
		goto out;
	r = vm_new(&vm, mem, 1, &probe_ops, NULL, err);
	if (r < 0)
		goto out;
	r = probe_load(mem, &boot, err);
	if (r < 0)
		goto out;
	r = arch_vcpu_boot(vm_vcpu(vm, 0), &boot, err);
	if (r < 0)
		goto out;
	vm_resume(vm);
	r = probe_until_waiting(mem, err);
	if (!r)
		r = probe_try(mem, vm, way, us, err);
out:
	/* A vCPU that cannot be brought out must not see its memory go. */
	if (vm && vm_end_vcpus(vm) < 0)
		return r;
	memory_shut(mem);
	vm_free(vm);
	memory_free(mem);
	return r;
}
