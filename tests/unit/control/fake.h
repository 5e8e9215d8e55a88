/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine of one file for the tests of control/: what they call of machine/,
 * kvm/, memory/, arch/ and migrate/, without KVM. Guest memory is FAKE_PAGES
 * pages from FAKE_GPA on, mapped at FAKE_GVA and at FAKE_ALIAS; pages can be
 * made missing.
 */
#ifndef POSTERN_TESTS_CONTROL_FAKE_H
#define POSTERN_TESTS_CONTROL_FAKE_H

#include <pthread.h>

#include "arch/arch.h"
#include "base/hist.h"
#include "machine/machine.h"
#include "memory/eject.h"
#include "migrate/migration.h"
#include "snapshot/dump.h"
#include "snapshot/snapshot.h"

#define FAKE_PAGES 16u
#define FAKE_GPA UINT64_C(0x10000)
#define FAKE_GVA UINT64_C(0x400000)
#define FAKE_ALIAS UINT64_C(0x800000)
#define FAKE_CPUS 2u
#define FAKE_REGS_BYTES 24u	/* r0, r1 and pc */

struct memory_thread {
	struct memory *mem;
	bool kicked;
};

struct memory {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint8_t ram[FAKE_PAGES * PAGE_BYTES];
	enum page_state page[FAKE_PAGES];
	bool table_missing;		/* translation of any address waits */
	struct memory_thread thread;
	struct memory_waiter waiter[4];
	unsigned int nwaiters;
	struct hist latency;
	unsigned int waits;		/* begun in gup */
	unsigned int held;	/* spans that were got and not put */
};

struct vcpu_parked {
	struct vcpu *vcpu;
};

struct vcpu {
	struct vm *vm;
	struct vcpu_parked held;
	unsigned int holds;
	unsigned int index;
	bool parked;
	uint64_t regs[3];
	struct arch_debug debug;
	int hit;			/* index of the watchpoint that was hit, or -1 */
};

struct vm {
	struct vcpu vcpu[FAKE_CPUS];
	bool stuck;			/* no vCPU that runs comes out */
	int64_t regs_ns;		/* how long reading a vCPU's registers takes */
	unsigned int regs_read;		/* how often they were read */
};

struct machine {
	struct loop *loop;
	struct memory mem;
	struct vm vm;
	struct machine_config config;
	struct machine_observer *observers;
	enum run_state state;
	bool autostart, ended;
	bool reset_waits;
	unsigned int resets, powerdowns;
	int64_t powerdown_ns;		/* how long one keeps the caller busy */
	bool balloon;
	uint64_t balloon_bytes;
	struct disk_doubt doubt;	/* disk0's */
};

struct migration {
	struct migration_observer observer;
	struct migration_params params;
	struct migration_info info;
	char last[128];			/* the last call and its uri */
	bool fail;
};

struct snapshot {
	struct snapshot_observer observer;
	struct snapshot_info info;
	bool saved;			/* info is of use */
	bool restored;
	bool fail;
	struct worker_fill fill;
	char last[128];			/* the last call */
};

struct machine *fake_machine_new(void);
void fake_machine_free(struct machine *machine);
void fake_set_state(struct machine *machine, enum run_state state);
/* The vCPU has stopped by itself. */
void fake_debug_event(struct machine *machine, unsigned int cpu);
void fake_migration_status(struct migration *migration, enum migration_status status);

/*
 * Runs the loop until fd has something to read, or `done` (may be NULL) says
 * so; fails the test after 5 s.
 */
void fake_pump(struct machine *machine, int fd, bool (*done)(void *arg), void *arg);
int fake_connect(struct machine *machine, const char *path);
/* Reads, and drops, what comes until the other side closes; closes fd. */
void fake_expect_closed(struct machine *machine, int fd);

/* So much is asked for at once by who floods the loop. */
#define FAKE_FLOOD 100u
/*
 * Runs the loop until all of a flood is done, as *done counts it: some of it a
 * turn, so that others have theirs.
 */
void fake_expect_turns(struct machine *machine, const unsigned int *done);

#endif
