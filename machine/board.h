/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The devices of the machine's board, each at its place on a bus. board.c has
 * what all boards have; one file for each architecture (board_<name>.c), picked
 * by the build, says where things are and what else there is.
 */
#ifndef POSTERN_MACHINE_BOARD_H
#define POSTERN_MACHINE_BOARD_H

#include "base/err.h"
#include "base/loop.h"
#include "device/bus.h"
#include "device/chardev.h"
#include "device/device.h"
#include "device/event.h"
#include "device/virtio/blk.h"
#include "device/virtio/type.h"
#include "kvm/vm.h"

struct board;
struct identity;

struct board_config {
	struct vm *vm;
	struct loop *loop;
	const char *name;		/* the machine's, may be NULL */
	struct bus *pio, *mmio;
	const struct chardev_config *serial;
	const struct virtio_options *virtio;
	struct device_event_sink events;	/* of all its devices */
	bool disks_elsewhere;		/* another machine still has them */
};

/* Main thread, all of them. */
int board_new(struct board **out, const struct board_config *config, struct err *err);
/* After the vCPUs have ended. */
void board_free(struct board *board);
/* Those with state, in the order in which it is saved; valid as long as the board. */
const struct device *board_devices(const struct board *board, unsigned int *n);
void board_press_power_button(struct board *board);
/* NULL: there is none. */
struct vdev *board_balloon(const struct board *board);
/* Which machine the guest sees that it is. */
struct identity *board_identity(const struct board *board);
/* The machine runs, from now on or no longer: stopped, no device takes anything from the guest. */
void board_start(struct board *board);
void board_stop(struct board *board);
/* No page is missing any more. */
void board_memory_complete(struct board *board);
/*
 * Finishes what devices have taken, so that their state is whole. Waits, at
 * most until the deadline (CLOCK_MONOTONIC): for disks, as vm_pause waits for
 * vCPUs. -ETIMEDOUT says for whom; nothing is lost, and it can be tried again.
 * Stopped.
 */
int board_drain(struct board *board, int64_t deadline_ns, struct err *err);
/*
 * Have devices requests in flight? When they no longer have, a
 * DEVICE_EVENT_IDLE says so. Stopped.
 */
bool board_is_busy(struct board *board);
/*
 * Takes what is shared with other machines, disks, before this one runs; may
 * come again. -EBUSY: another machine has it.
 */
int board_claim(struct board *board, struct err *err);
/* Another machine runs from now on. Drained. */
void board_release(struct board *board);
/*
 * Its guest goes on as another machine than the one whose state was loaded: a
 * new identity (-errno: no random numbers), and what of the devices tells
 * machines apart. Before board_start.
 */
int board_renew(struct board *board, struct err *err);
/* The i-th disk; false: there are no more. */
bool board_disk(struct board *board, unsigned int i, struct disk_info *info);

#endif
