/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of machine/ share.
 */
#ifndef POSTERN_MACHINE_INTERNAL_H
#define POSTERN_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "arch/arch.h"
#include "device/bus.h"
#include "machine/board.h"
#include "machine/boot_files.h"
#include "machine/machine.h"

/*
 * How long a pause waits for a vCPU that does not come: longer than any way out
 * takes, shorter than a person's patience.
 */
#define MACHINE_PAUSE_MS 2000
/*
 * How long disks get to finish what they were asked for, before a machine's
 * state is taken or it is reset.
 */
#define MACHINE_DRAIN_MS 2000

/* What the guest has asked for and the main thread has not done yet. */
enum {
	ASKED_RESET = 1 << 0,
	ASKED_SHUTDOWN = 1 << 1,
	ASKED_BY_HOST = 1 << 2,		/* the reset; with a guest that has arrived */
};

/*
 * The address to which other threads post. It outlives the machine as long as a
 * post is under way; `machine` is only read and written on the main thread.
 */
struct machine_mail {
	atomic_uint refs;
	struct machine *machine;	/* NULL: gone */
};

/* Of a reset that has been asked for and is not done: reset.c. */
enum reset_phase {
	RESET_NONE,		/* there is none */
	RESET_WAITS,		/* for all memory, for idle disks, for a migration to end */
	RESET_FINDS,		/* ... for the kernel that boot_find looks for */
};

struct reset {
	enum reset_phase phase;
	bool by_guest;
	bool resumes;		/* the guest is to run once it is done */
};

struct machine {
	struct machine_config config;
	struct loop *loop;
	struct memory *mem;
	struct vm *vm;
	struct bus pio, mmio;
	struct board *board;
	struct boot_files boot_files;	/* what a reset takes */
	struct arch_boot boot;
	struct machine_mail *mail;
	struct lost_gather lost;
	/* Main thread's. */
	uv_timer_t *lost_rest;		/* active: the next event of lost pages is not due yet */
	struct machine_observer *observers;
	enum run_state state;
	bool clock_stopped;		/* the guest's clock stands at clock */
	uint64_t clock;
	int64_t parked_ns; /* CLOCK_REALTIME when it last was parked; 0: it has not run */
	int64_t behind_ns; /* until then: for so long was the guest away, unseen */
	bool autostart;			/* see machine_autostart */
	enum run_state saved_from;	/* in SAVE_VM: what it goes back to */
	bool saving;			/* a snapshot reads memory, whether the guest runs or not */
	bool shut;			/* machine_shutdown has been called */
	bool watch_failed;			/* nobody asks for pages that vCPUs wait for */
	struct reset reset;
	/* way_out.c */
	struct {
		uv_timer_t *later; /* begins it; NULL: there is nothing to find */
		pthread_t thread;
		bool runs; /* it is to be joined */
	} way;
	/* Set by vCPU threads, taken by the main thread. */
	atomic_uint asked;
};

extern const struct vm_exit_ops machine_exit_ops;

/* Each observer that has `callback`; one may remove itself. */
#define MACHINE_NOTIFY(m, callback, ...)                                                       \
	do {                                                                                   \
		struct machine_observer *l_, *next_;                                           \
		for (l_ = (m)->observers; l_; l_ = next_) {                                    \
			next_ = l_->next;                                                      \
			if (l_->callback)                                                      \
				l_->callback(l_->arg, ##__VA_ARGS__);                          \
		}                                                                              \
	} while (0)

/*
 * Each of these files calls those above it and no other: reset.c needs park.c
 * and boot.c; run_control.c needs reset.c; event.c, and last machine.c and
 * state.c, need any.
 */

/* park.c */
void machine_set_state(struct machine *machine, enum run_state state);
/*
 * Parks all vCPUs, and with them the devices and the clock of a running
 * machine. 0 or vm_pause's error.
 */
int machine_park(struct machine *machine, struct err *err);
/* The opposite; the run state is the caller's. */
void machine_let_run(struct machine *machine);
/* Goes to RUNNING, whatever the machine's state, and lets the guest run. */
void machine_run(struct machine *machine);
/*
 * Finishes what vCPUs and devices have taken from the guest; see vm_complete_io and
 * board_drain. All vCPUs are parked.
 */
int machine_drain(struct machine *machine, struct err *err);
/* Sets the guest's clock to where it stopped, if it did. */
void machine_clock_back(struct machine *machine);

/* boot.c */
/* boot_files of what the options say. -EINVAL: nothing, of a machine that starts here. */
int machine_boot_configure(struct machine *machine, const struct machine_config *config,
			   struct err *err);
/*
 * Is what a reset takes there, as far as can be told without looking for it? 0,
 * or why not: -EINVAL: there is nothing to load.
 */
int machine_boot_check(const struct machine *machine, struct err *err);
/* Loads the kernel into memory, and points all vCPUs at it. */
int machine_boot_load(struct machine *machine, const struct boot_opened *opened, struct err *err);
/* The same at the start; found: on a disk, or NULL. */
int machine_boot_first(struct machine *machine, const struct boot_files *found, struct err *err);

/* reset.c */
/* What the reset that has been asked for waits for, in words; NULL: there is none. */
const char *machine_reset_waits_for(const struct machine *machine);
/* What a reset has waited for may be over: if so, it is done now. */
void machine_reset_retry(struct machine *machine);
/* Carries out what the guest has asked for, unless a migration has the guest. */
void machine_do_asked(struct machine *machine);

/* run_control.c */
/*
 * May vCPUs run, some of them or all? 0, or -EBUSY with the reason, as
 * machine_cont, but for the disk.
 */
int machine_may_run(const struct machine *machine, struct err *err);
/*
 * machine_stop for a reason of the machine's own, where that state may follow;
 * there is nobody to report to.
 */
void machine_stop_for(struct machine *machine, enum run_state why);
/* A vCPU has stopped for the debugger. */
void machine_debug_event(struct machine *machine, struct vcpu *vcpu);

/* way_out.c */
/*
 * Finds the way out of a wait for a page, if the machine's memory is late and
 * nobody has said which: begins a moment later, on a thread of its own.
 * machine_way_out_end: waits for its end, if it has begun, which takes some
 * milliseconds (some 200 on kernels that need the eject).
 */
int machine_way_out_find(struct machine *machine, struct err *err);
void machine_way_out_end(struct machine *machine);

/* event.c */
struct machine_mail *machine_mail_new(struct machine *machine);
/* The machine goes: what is still posted is dropped. Main thread. */
void machine_mail_close(struct machine_mail *mail);
/*
 * Entries for other threads: all that devices report, each type on the threads
 * that device/event.h says,
 */
void machine_on_device(void *machine, const struct device_event *event);
/* and what memory does (struct memory_events). */
void machine_on_lost(void *machine, gfn_t gfn);
void machine_on_complete(void *machine);
void machine_on_watch_failed(void *machine, int error);

#endif
