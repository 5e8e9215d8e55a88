// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_kick.c - `floors kick kernel|eject N CPUS`: how long it takes to bring
 * vCPUs out of their wait for a page that never comes, with postern's own
 * memory/ and kvm/ and nothing around them: vm_pause, from the call to its
 * return. One line of N numbers, in us.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "floors.h"
#include "memory/eject.h"

#define RAM_BYTES (8 * HUGE_BYTES)
#define WAIT_MS 10000
#define WAITING_NS NS_PER_MS	/* a vCPU that waits for so long sleeps for sure */

static void on_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	(void)arg, (void)port;
	if (!write)
		memset(data, 0xff, size);
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)arg, (void)gpa;
	if (!write)
		memset(data, 0xff, len);
}

static void on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	(void)arg, (void)vcpu;
	fprintf(stderr, "floors: the guest has stopped: %s\n", event->text);
	_exit(1);
}

static const struct vm_exit_ops ops = { on_pio, on_mmio, on_event };

/* All but the last page is there; every vCPU touches that one. */
static struct vm *start(enum way_out way, unsigned int cpus)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	const uint64_t last = RAM_BYTES / PAGE_BYTES - 1;
	struct arch_boot boot;
	struct memory *mem;
	struct vm *vm;
	struct err err;

	if (memory_new(&mem, &range, 1, &err) < 0 || memory_watch(mem, NULL, &err) < 0 ||
	    vm_new(&vm, NULL, mem, cpus, &ops, NULL, &err) < 0)
		floor_die_err(&err);
	if (memory_fill(mem, GFN(0), last, NULL) < 0)
		floor_die("memory_fill");
	if (arch_probe_load(&boot, mem, gfn_to_gpa(GFN(last)), &err) < 0)
		floor_die_err(&err);
	memory_set_way_out(mem, way);
	if (vm_boot(vm, &boot, &err) < 0)
		floor_die_err(&err);
	return vm;
}

static bool all_wait(struct vm *vm)
{
	struct memory_waiter waiters[VM_VCPUS_MAX];
	unsigned int n = memory_waiters(vm_memory(vm), waiters, VM_VCPUS_MAX), i, waiting = 0;
	int64_t now = clock_now_ns();

	for (i = 0; i < n; i++)
		waiting += waiters[i].cpu >= 0 && now - waiters[i].since_ns > WAITING_NS;
	return waiting == vm_vcpus(vm);
}

int floor_kick(int argc, char **argv)
{
	enum way_out way = !strcmp(argv[1], "eject") ? WAY_OUT_EJECT : WAY_OUT_KERNEL;
	unsigned int rounds = (unsigned int)strtoul(argv[2], NULL, 10);
	unsigned int cpus = (unsigned int)strtoul(argv[3], NULL, 10);
	struct vm *vm = start(way, cpus);
	int64_t from, deadline;
	struct err err;

	(void)argc;
	while (rounds--) {
		vm_resume(vm);
		deadline = clock_now_ns() + WAIT_MS * NS_PER_MS;
		while (!all_wait(vm)) {
			if (clock_now_ns() > deadline) {
				fprintf(stderr,
					"floors: not every vCPU gets to the page that never comes\n");
				return 1;
			}
			usleep(100);
		}
		from = clock_now_ns();
		if (vm_pause(vm, WAIT_MS, &err) < 0)
			floor_die_err(&err);
		printf("%.1f ", (double)(clock_now_ns() - from) / 1e3);
	}
	printf("\n");
	fflush(stdout);
	_exit(0);
}
