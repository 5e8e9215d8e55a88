/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine: memory, VM and board devices put together, and its run state.
 * Everything here is called on the main thread (the loop's) unless said
 * otherwise, and nothing here waits for a page.
 */
#ifndef POSTERN_MACHINE_MACHINE_H
#define POSTERN_MACHINE_MACHINE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"
#include "device/chardev.h"
#include "device/event.h"
#include "device/virtio/blk.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "machine/board.h"
#include "machine/boot_files.h"
#include "machine/lost_pages.h"
#include "memory/memory.h"
#include "memory/eject.h"

struct machine;

/* Names as in QEMU's RunState, so that QMP clients know them. */
enum run_state {
	RUN_STATE_PRELAUNCH,		/* built, never started */
	RUN_STATE_INMIGRATE,		/* waits for an incoming migration */
	RUN_STATE_RUNNING,
	RUN_STATE_PAUSED,		/* somebody has stopped it */
	RUN_STATE_DEBUG,		/* a debugger has */
	RUN_STATE_FINISH_MIGRATE,	/* source: paused to be switched over */
	RUN_STATE_SAVE_VM,		/* paused for a snapshot */
	RUN_STATE_POSTMIGRATE,		/* source: the guest runs elsewhere, or may; never to be resumed by cont */
	RUN_STATE_IO_ERROR,		/* a page is LOST */
	RUN_STATE_INTERNAL_ERROR,
	RUN_STATE_GUEST_PANICKED,
	RUN_STATE_SHUTDOWN,
};
const char *run_state_name(enum run_state state);

struct machine_config {
	unsigned int cpus;		/* 1 to VM_VCPUS_MAX */
	uint64_t memory_bytes;		/* multiple of 2 MiB, ARCH_RAM_MIN to ARCH_RAM_MAX */
	/*
	 * What boot_files.h says of them; copied, kept by machine_boot alone.
	 * kernel: NULL with boot_find, and may be with loads_no_kernel.
	 */
	const char *kernel, *initrd, *cmdline, *append;
	/*
	 * Where the kernel lies on a disk of the guest's, it is looked for anew
	 * before each reset: this begins that, and machine_boot_found ends it.
	 * NULL: a reset takes the kernel above. 0, or an error: the reset
	 * fails.
	 */
	int (*boot_find)(void *arg, struct machine *machine, struct err *err);
	void *boot_arg;
	/* what lies there now, for the start; borrowed while machine_new runs */
	const struct boot_files *found;
	const char *name;		/* may be NULL */
	bool dump_guest_core;		/* core dumps of this process have guest RAM */
	enum way_out way_out;
	struct vm_host *host; /* outlives the machine; NULL: it opens KVM itself */
	/*
	 * A machine for a guest that comes by migration has all of the next four; one that is
	 * restored out of an image, all but disks_elsewhere.
	 */
	bool starts_inmigrate;		/* waits for a guest's state: INMIGRATE */
	bool ram_is_late;		/* userfaultfd first, all pages MISSING: a page source brings them */
	int ram_memfd;			/* with ram_is_late: clones share it (memory_set_backing); borrowed. 0: none */
	bool disks_elsewhere;		/* another machine still has them: not claimed yet */
	bool loads_no_kernel;		/* nothing is loaded for the start; it may have no kernel at all */
	/*
	 * With ram_is_late, and where clones do not share it: guest RAM is there, and may be filled
	 * from any thread. NULL, at most once and before machine_new fails: it is about to go.
	 */
	void (*ram_made)(void *arg, struct memory *mem);
	void *ram_arg;
	bool no_reboot;			/* a guest's reset ends the process instead */
	struct chardev_config serial;
	struct virtio_options virtio;	/* texts are copied */
};

/*
 * All callbacks on the main thread; NULL ones are skipped. An observer outlives
 * the machine or is removed first.
 */
struct machine_observer {
	void (*state)(void *arg, enum run_state old, enum run_state now);	/* STOP, RESUME come of it */
	void (*reset)(void *arg, bool by_guest);
	void (*shutdown)(void *arg, bool by_guest, const char *reason);	/* QEMU's ShutdownCause */
	void (*powerdown)(void *arg);
	void (*debug)(void *arg, struct vcpu *vcpu);		/* machine is in RUN_STATE_DEBUG, all parked */
	/*
	 * Of pages that the source does not have: at once of the first, and
	 * every 100 ms of those that have come since.
	 */
	void (*pages_lost)(void *arg, const struct lost_pages *pages);
	void (*memory_complete)(void *arg);			/* every page is PRESENT */
	/*
	 * What devices report, but for what the guest asks of the machine
	 * itself: reset, power-off.
	 */
	void (*device)(void *arg, const struct device_event *event);
	void *arg;
	struct machine_observer *next;
};

/*
 * Builds the machine in PRELAUNCH (or INMIGRATE): memory, its userfaultfd where
 * RAM is late, the way out, VM, devices, the loaded kernel. Errors say what to do.
 */
int machine_new(struct machine **out, struct loop *loop, const struct machine_config *config,
		struct err *err);
/*
 * Orderly end: vCPUs out and joined, userfaultfd closed, VM closed. Never waits
 * for a page. 0, or -ETIMEDOUT when a vCPU does not come out (vm_end_vcpus):
 * nothing is freed then, and only _exit is left; the terminal is restored.
 */
int machine_free(struct machine *machine);

void machine_observe(struct machine *machine, struct machine_observer *observer);
void machine_unobserve(struct machine *machine, struct machine_observer *observer);

const struct machine_config *machine_config(const struct machine *machine);
struct memory *machine_memory(const struct machine *machine);
struct vm *machine_vm(const struct machine *machine);
struct loop *machine_loop(const struct machine *machine);
enum run_state machine_state(const struct machine *machine);
static inline bool machine_is_running(const struct machine *machine)
{
	return machine_state(machine) == RUN_STATE_RUNNING;
}
/* It runs, or will once a reset that waits is done. */
bool machine_is_to_run(const struct machine *machine);
/*
 * It is in INMIGRATE, and to run once the guest has arrived: so it is made, and
 * machine_stop and machine_cont change it.
 */
bool machine_autostart(const struct machine *machine);

/* ---- stop and go: run_control.c ---- */

/*
 * stop. as: PAUSED, DEBUG, or another state that says why. Parks all vCPUs and
 * goes there, also from one stopped state to another, with two exceptions:
 * PAUSED changes none of them but DEBUG and FINISH_MIGRATE, and DEBUG none at
 * all (the vCPUs that a debugger lets run are parked). In INMIGRATE the guest
 * is not to run once it has arrived. 0; -EBUSY: `as` cannot follow the present
 * state (run_state.c has the table); -ETIMEDOUT with the vCPU that did not come
 * out named: a machine that ran runs on.
 */
int machine_stop(struct machine *machine, enum run_state as, struct err *err);
/*
 * cont. 0 when it runs already; in INMIGRATE the guest is to run once it has
 * arrived. -EBUSY with the reason where it may not run: FINISH_MIGRATE,
 * POSTMIGRATE, SHUTDOWN, INTERNAL_ERROR, while a page is lost (in whatever
 * state), a reset that waits for pages or disks, a disk that another machine
 * has.
 */
int machine_cont(struct machine *machine, struct err *err);
/*
 * A debugger's step, or its continue of some vCPUs only: lets those run whose
 * bit in vcpus is set, and no other, in DEBUG. From DEBUG, PAUSED and
 * PRELAUNCH; otherwise -EBUSY, and where machine_cont says so (but for the
 * disk).
 */
int machine_cont_vcpus(struct machine *machine, const struct vcpu_set *vcpus, struct err *err);

/* ---- only for migration; also run_control.c ---- */

/*
 * Source: switchover begins. Parks all, finishes what devices have taken, goes
 * to FINISH_MIGRATE. Errors as machine_stop's.
 */
int machine_enter_migrate(struct machine *machine, struct err *err);
/*
 * Source: from now on another host runs the guest. FINISH_MIGRATE to
 * POSTMIGRATE; -EBUSY: not in FINISH_MIGRATE.
 */
int machine_commit_migrate(struct machine *machine, struct err *err);
/*
 * The guest is here, whether it has stayed, come, or was taken back: leaves
 * FINISH_MIGRATE / INMIGRATE / POSTMIGRATE by force. run: it ran before. It
 * then goes to RUNNING, but for one that has arrived and was stopped meanwhile
 * (machine_autostart); else to PAUSED. Errors, after which it has left as well:
 * a disk that another machine has (PAUSED); a page is lost (IO_ERROR) or cannot
 * be asked for (INTERNAL_ERROR).
 */
int machine_leave_migrate(struct machine *machine, bool run, struct err *err);

/*
 * The guest whose state was loaded goes on as another machine than the one that
 * was saved, as a clone or from a snapshot: it is told so, by a new VM generation
 * ID (device/identity.h), once it runs, and its network devices have the MAC
 * addresses that were asked for here. A migration does not do this: the guest
 * is the same one elsewhere. In INMIGRATE, before machine_leave_migrate. 0, or a
 * negative errno: there are no random numbers.
 */
int machine_renew_identity(struct machine *machine, struct err *err);
/* The VM generation ID as the guest sees it. */
#define MACHINE_ID_BYTES 16
void machine_generation_id(struct machine *machine, uint8_t id[MACHINE_ID_BYTES]);

/* ---- only for snapshots; also run_control.c ---- */

/*
 * Parks all, finishes what devices have taken, goes to SAVE_VM: memory and state stand still until
 * machine_leave_save. Meanwhile machine_stop and machine_cont say whether the guest is to run then.
 * Errors as machine_stop's; -EBUSY from another's machine_enter_save to its machine_finish_save.
 */
int machine_enter_save(struct machine *machine, struct err *err);
/*
 * The guest is what it was before: it runs, unless it was stopped before or since or cannot run any
 * more (logged). In other states than SAVE_VM nothing happens. Its memory may be read still, as it
 * was: until machine_finish_save a reset waits, and no switchover begins.
 */
void machine_leave_save(struct machine *machine);
/* Memory has been read, or will not be. After machine_leave_save. */
void machine_finish_save(struct machine *machine);
/* From machine_enter_save to machine_finish_save. */
bool machine_is_saving(const struct machine *machine);

/* ---- reset, power, end ---- */

/*
 * system_reset: loads the kernel anew. While pages are missing, or disks still
 * have requests under way, the machine is paused, and the reset put off until
 * all have come and all are done (logged), and while a snapshot reads memory;
 * the same, for a moment, while boot_find looks for the kernel. -EBUSY: in the middle of a migration. A
 * kernel that was never given (-EINVAL), or whose file cannot be opened now:
 * the machine goes on, unless it is by_guest. After other errors it is in
 * INTERNAL_ERROR, and may be reset again.
 */
int machine_reset(struct machine *machine, bool by_guest, struct err *err);
/* The i-th disk, as --disk gave them; false: there are no more. */
bool machine_disk(struct machine *machine, unsigned int i, struct disk_info *info);
/*
 * The end of what boot_find began, and the reset goes on. found: BOOT_FILES,
 * borrowed. err: not NULL where it failed, and why.
 */
void machine_boot_found(struct machine *machine, const struct boot_files *found,
			const struct err *err);
/*
 * The server of the disk that is called so has dropped what lost connections
 * had asked: as disk_fenced. -ENODEV: there is none.
 */
int machine_disk_fenced(struct machine *machine, const char *device);
/* What a reset loads. Lasts until the machine changes it, on this thread. */
const struct boot_files *machine_boot(const struct machine *machine);
/*
 * Only for migration: what the guest's source sent along is what resets load
 * from now on, unless this machine's own --kernel does; of the command line,
 * what this machine's options say goes over it. Leaves `from` empty, or as it
 * is. 0 or -ENOMEM.
 */
int machine_boot_take(struct machine *machine, struct boot_files *from, struct err *err);
/*
 * system_powerdown: presses the ACPI power button. -EBUSY: the guest is not
 * here (any more, or yet).
 */
int machine_powerdown(struct machine *machine, struct err *err);
/*
 * Asks every vCPU to park, without waiting for them, tells the shutdown
 * observers and ends the loop. reason: "host-signal", "host-qmp-quit",
 * "guest-shutdown"... Only the first call counts.
 */
void machine_shutdown(struct machine *machine, bool by_guest, const char *reason);

/*
 * The guest is asked to do with so much memory, at most all of it. It comes as
 * near as it can, or wants; machine_balloon says how near. -ENODEV: it has no
 * balloon; -EINVAL: nothing; -EBUSY: the guest is not here (any more, or yet).
 */
int machine_set_balloon(struct machine *machine, uint64_t memory_bytes, struct err *err);
/* -ENODEV. */
int machine_balloon(struct machine *machine, uint64_t *memory_bytes, struct err *err);

/*
 * State of the paused machine without RAM: vCPUs, interrupt controllers,
 * clocks, devices. A MachineState message (machine/machine.proto), to be read
 * only by machine_load of a machine of the same shape.
 */
int machine_save(struct machine *machine, struct buf *out, struct err *err);
/*
 * Hostile input: all of the message is checked before anything is applied; what
 * the parts hold is checked by their owners. On an error the machine's state is
 * undefined but it may be loaded again. What the guest asked for (reset,
 * power-off) before it was saved is done when the machine leaves INMIGRATE.
 */
int machine_load(struct machine *machine, const uint8_t *data, size_t len, struct err *err);
/*
 * When the guest's clocks stood still, by CLOCK_REALTIME, in ns: for
 * machine_load_away. Paused.
 */
int64_t machine_parked_ns(const struct machine *machine);
struct machine_away {
	int64_t parked_ns; /* 0: it is not known */
	/*
	 * The guest's clocks show the time since then; otherwise they go on where
	 * they stood, and its wall clock is behind.
	 */
	bool shown;
};
/* As machine_load. -ENODATA: the time away is to be shown, and not known. */
int machine_load_away(struct machine *machine, const uint8_t *data, size_t len,
		      const struct machine_away *away, struct err *err);
/*
 * Of such a message: each vCPU's general registers, in order, as arch_core_regs has them. Hostile
 * input, and no machine is needed. -EINVAL, -EPROTO; what each returns ends it, without a text.
 */
int machine_state_registers(const uint8_t *data, size_t len,
			    int (*each)(void *arg, const uint8_t *regs, size_t bytes), void *arg,
			    struct err *err);
/*
 * Calls fn for every page that must have come before the machine runs on a
 * destination, in ascending order and once each; see arch_vcpu_early_pages.
 */
int machine_early_pages(struct machine *machine, int (*fn)(void *arg, gfn_t gfn), void *arg,
			struct err *err);

#endif
