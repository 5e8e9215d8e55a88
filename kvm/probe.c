// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The probe is a small machine of the product's own pieces: a guest of a few
// instructions touches a page that never comes, and is paused. What brings it
// out is what this host can do.
#include "kvm/probe.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "kvm/vcpu.h"

#define PROBE_BYTES (4 * HUGE_BYTES)
#define PROBE_WAIT_MS 5000	/* for the guest to get to the page: long, an emulated host is slow */
#define PROBE_KERNEL_MS 200
#define PROBE_EJECT_MS 2000
#define PROBE_KERNEL_MIPS 10	/* an interpreter does some 3, emulated hardware many times this */

/* What the probe's guest has done; written by its vCPU's thread. */
struct probe_seen {
	_Atomic bool ok;	/* it wrote ARCH_PROBE_OK */
	int64_t loop_at_ns;	/* when it last wrote ARCH_PROBE_LOOP; 0: never */
	_Atomic int64_t loop_ns;	/* the shortest time between two of these; 0: there were no two */
	_Atomic bool event;
	struct vm_event last;	/* stable once `event` is set */
};

/* The guest has written a byte to its doorbell, or read it. */
static void probe_rung(struct probe_seen *seen, bool write, const void *data)
{
	int64_t now = clock_now_ns(), shortest;

	if (write && *(const uint8_t *)data == ARCH_PROBE_OK)
		atomic_store(&seen->ok, true);
	if (!write || *(const uint8_t *)data != ARCH_PROBE_LOOP)
		return;
	shortest = atomic_load(&seen->loop_ns);
	if (seen->loop_at_ns && (!shortest || now - seen->loop_at_ns < shortest))
		atomic_store(&seen->loop_ns, now - seen->loop_at_ns);
	seen->loop_at_ns = now;
}

static void probe_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	(void)port, (void)size;
	probe_rung(arg, write, data);
}

static void probe_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)gpa, (void)len;
	probe_rung(arg, write, data);
}

static void probe_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct probe_seen *seen = arg;

	(void)vcpu;
	if (atomic_load(&seen->event))
		return;
	seen->last = *event;
	/* Published after the text it stands for. */
	atomic_store(&seen->event, true);
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
			return err_set(err, -ETIMEDOUT,
				       "the probe's guest does not run on this KVM");
		usleep(50);
	}
	return 0;
}

static int probe_try(struct memory *mem, struct vm *vm, enum way_out *way, int64_t *us,
		     struct err *err)
{
	int64_t start = clock_now_ns();
	int r;

	*way = WAY_OUT_KERNEL;
	r = vm_pause(vm, PROBE_KERNEL_MS, NULL);
	if (r == -ETIMEDOUT) {
		start = clock_now_ns();
		memory_set_way_out(mem, WAY_OUT_EJECT);
		*way = WAY_OUT_EJECT;
		r = vm_pause(vm, PROBE_EJECT_MS, NULL);
	}
	if (r < 0)
		return err_set(
			err, r,
			"neither a signal nor the eject brings a vCPU out of its wait for a page");
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

/* A machine of one vCPU for a probe; `late` memory with all but the last page there. */
struct probe {
	struct memory *mem;
	struct vm *vm;
	struct probe_seen seen;
};

static int probe_open(struct probe *probe, bool late, struct err *err)
{
	const struct memory_range range = { GPA(0), PROBE_BYTES };
	int r;

	r = memory_new(&probe->mem, &range, 1, err);
	/*
	 * From the start: the fault thread must not eject a wait that has
	 * become long, or it would look like the kernel's doing.
	 */
	if (!r)
		memory_set_way_out(probe->mem, WAY_OUT_KERNEL);
	if (!r && late)
		r = memory_watch(probe->mem, NULL, err);
	if (!r)
		r = vm_new(&probe->vm, NULL, probe->mem, 1, &probe_ops, &probe->seen, err);
	return r;
}

static void probe_close(struct probe *probe)
{
	/* A vCPU that cannot be brought out must not see its memory go. */
	if (probe->vm && vm_end_vcpus(probe->vm) < 0)
		return;
	if (probe->mem)
		memory_shut(probe->mem);
	vm_free(probe->vm);
	memory_free(probe->mem);
}

int probe_way_out(enum way_out *way, int64_t *us, struct err *err)
{
	struct probe probe = { 0 };
	struct arch_boot boot;
	int r;

	r = probe_open(&probe, true, err);
	if (!r)
		r = probe_load(probe.mem, &boot, err);
	if (!r)
		r = vm_boot(probe.vm, &boot, err);
	if (!r) {
		vm_resume(probe.vm);
		r = probe_until_waiting(probe.mem, err);
	}
	if (!r)
		r = probe_try(probe.mem, probe.vm, way, us, err);
	probe_close(&probe);
	return r;
}

/* What the guest in kernel mode did, for a person; true: a stock kernel can run. */
static bool probe_kernel_verdict(struct probe_seen *seen, char *why, size_t size)
{
	double rate = 0;

	if (atomic_load(&seen->loop_ns))
		rate = ARCH_PROBE_LOOP_INSNS * 1e3 / (double)atomic_load(&seen->loop_ns);
	if (atomic_load(&seen->event))
		snprintf(why, size, "%s", seen->last.type == VM_EVENT_ERROR ? seen->last.text :
						"kernel-mode code triple-faults");
	else if (!atomic_load(&seen->ok))
		snprintf(why, size, "kernel-mode code does not get anywhere");
	else
		snprintf(why, size, "kernel-mode code runs at %.0f million instructions a second",
			 rate);
	return atomic_load(&seen->ok) && rate >= PROBE_KERNEL_MIPS;
}

int probe_kernel_mode(bool *can, char *why, size_t size, struct err *err)
{
	int64_t deadline = clock_now_ns() + PROBE_WAIT_MS * NS_PER_MS;
	struct probe probe = { 0 };
	struct arch_boot boot;
	int r;

	r = probe_open(&probe, false, err);
	if (!r)
		r = arch_probe_load_kernel_mode(&boot, probe.mem, err);
	if (!r)
		r = vm_boot(probe.vm, &boot, err);
	if (!r) {
		vm_resume(probe.vm);
		while (!atomic_load(&probe.seen.ok) && !atomic_load(&probe.seen.event) &&
		       clock_now_ns() < deadline)
			usleep(50);
		*can = probe_kernel_verdict(&probe.seen, why, size);
	}
	probe_close(&probe);
	return r;
}
