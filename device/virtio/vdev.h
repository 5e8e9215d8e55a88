/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What all virtio devices have in common (virtio 1.2, chapters 2 and 3; the PCI
 * transport: section 4.1): status, feature negotiation, queues and their
 * interrupts, reset, state. Only "modern" devices: VIRTIO_F_VERSION_1 is not
 * optional.
 *
 * Threads. The guest's register accesses come on vCPU threads; queues are
 * worked off on the main thread, woken by an eventfd each: by a notification
 * (from KVM itself where it has ioeventfd), by a page that is in, by
 * vdev_start. The PCI function's lock guards everything.
 *
 * A driver that is wrong: NEEDS_RESET, the reason in the log, no queue is
 * touched until it resets the device (2.1.2). A reset waits for what the device
 * has in flight: the status reads as zero only then (2.4.1), and so no buffer
 * is written to later.
 */
#ifndef POSTERN_DEVICE_VIRTIO_VDEV_H
#define POSTERN_DEVICE_VIRTIO_VDEV_H

#include "base/buf.h"
#include "base/loop.h"
#include "device/device.h"
#include "device/event.h"
#include "device/pci/function.h"
#include "device/virtio/queue.h"

#define VDEV_QUEUES_MAX 16
/* Chains that a device takes from a queue before the main loop gets its turn. */
#define VDEV_TURN_CHAINS 256

/*
 * Takes the device's own state, hostile input, after reset; with apply false it
 * only checks. 0 or -EINVAL. Locked.
 */
typedef int (*vdev_load_fn)(void *arg, const uint8_t *data, size_t len, bool apply,
			    struct err *err);

struct vdev_ops {
	const char *name;
	/* of all of its saved state, also of what every virtio device has: docs/state.md */
	uint32_t version;
	uint16_t type;			/* virtio 1.2, chapter 5 */
	uint32_t pci_class;
	/*
	 * Chains may be there: vdev_take until it says no, or VDEV_TURN_CHAINS
	 * were taken (then vqueue_kick). Main thread, locked.
	 */
	void (*queue)(void *arg, struct vqueue *q);
	/* Not locked, main thread: no queue is used any more. */
	void (*free)(void *arg);
	/* Each of these may be NULL. */
	/*
	 * The driver writes this to the configuration structure, inside of it.
	 * vCPU thread, locked.
	 */
	void (*config_write)(void *arg, unsigned int offset, const uint8_t *data,
			     unsigned int size);
	/*
	 * The driver has reset the device, or it is about to be loaded: what it
	 * keeps of the driver's goes. Any thread, locked.
	 */
	void (*reset)(void *arg);
	/*
	 * The machine runs, from now on (queues are kicked) or no longer
	 * (queues are stopped). Main thread, locked.
	 */
	void (*start)(void *arg);
	void (*stop)(void *arg);
	/*
	 * Ends what is in flight, before the state is taken or memory is loaded
	 * anew; waits at most until the deadline (CLOCK_MONOTONIC). -ETIMEDOUT
	 * says for what. Without it: nothing is ever in flight but for a ring
	 * whose page is missing. Main thread, stopped, not locked.
	 */
	int (*drain)(void *arg, int64_t deadline_ns, struct err *err);
	/*
	 * What a device shares with other machines: taken before this one runs,
	 * given up once another does. Main thread, not locked. Claim may come
	 * again, and says why it cannot be: the machine then does not run.
	 */
	int (*claim)(void *arg, struct err *err);
	void (*release)(void *arg);
	/*
	 * The machine goes on as another than the one whose state was loaded:
	 * what tells machines apart is this one's own. Between load and start;
	 * main thread, locked.
	 */
	void (*renew)(void *arg);
	/*
	 * A state of its own, beyond the queues'; without these it must be empty.
	 * load is of `version`, load_previous of the one before. Locked.
	 */
	int (*save)(void *arg, struct buf *out, struct err *err);
	vdev_load_fn load, load_previous;
};

/*
 * What a device stands on. The functions: any thread; a negative errno: not
 * possible, writes come as exits.
 */
struct vdev_env {
	struct memory *mem;
	struct loop *loop;		/* NULL: whoever tests it calls vdev_run */
	unsigned int cpus;		/* vCPUs of the machine */
	const char *machine;		/* its name, or NULL */
	struct msi msi;
	int (*event_add)(void *arg, uint64_t gpa, int fd);
	int (*event_remove)(void *arg, uint64_t gpa, int fd);
	void *arg;
	bool disks_elsewhere;		/* another machine still has them */
	struct device_event_sink events;
};

struct vdev_watch;

struct vdev {
	struct pci_function fn;
	const struct vdev_ops *ops;
	void *arg;
	struct vdev_env env;
	char name[24];
	struct device_ops device_ops;	/* with a name of its own */
	const uint8_t *config;		/* the device's configuration structure, as the driver reads it */
	size_t config_len;
	uint8_t generation;		/* of it (2.5.1) */
	uint64_t events_at, events_wanted;	/* where the BAR's notifications are events, and should be; 0: nowhere */
	uint64_t offered, arriving;	/* arriving: see struct vdev_config */
	unsigned int pci_cfg_at;
	/* The driver's. */
	uint64_t accepted;
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	uint8_t status, isr;
	bool resetting;			/* until the last chain is back */
	bool running;			/* the machine is */
	bool arrived;			/* loaded, and not started yet */
	unsigned int failures;		/* ever */
	unsigned int queues;
	struct vqueue queue[VDEV_QUEUES_MAX];
	struct vdev_watch *watch[VDEV_QUEUES_MAX];
};

struct vdev_config {
	unsigned int number;		/* of its type: makes its name unique */
	unsigned int queues;
	uint16_t queue_size;
	uint64_t features;		/* the device's own; those of rings and transport are added */
	/*
	 * Others that a guest which comes from elsewhere may have: they are
	 * offered from then on.
	 */
	uint64_t arriving;
	const void *config;		/* outlives the device */
	size_t config_len;
};

/* ---- main thread, lock not held ---- */

int vdev_init(struct vdev *dev, const struct vdev_ops *ops, void *arg, const struct vdev_env *env,
	      const struct vdev_config *config, struct err *err);
/* For the device's own `free`. No chain is in flight any more. */
void vdev_fini(struct vdev *dev);
/* The device as a whole, by its ops. */
void vdev_free(struct vdev *dev);
/* Finishes what is in flight, as ops->drain says. */
int vdev_drain(struct vdev *dev, int64_t deadline_ns, struct err *err);
/* The machine runs, from now on or no longer. Stopped, it takes no chain, and no page wakes it. */
void vdev_start(struct vdev *dev);
void vdev_stop(struct vdev *dev);
/* No page is missing any more. */
void vdev_memory_complete(struct vdev *dev);
/* Works queue i off, if it may. */
void vdev_run(struct vdev *dev, unsigned int i);
/* Chains that the device has in flight, or cannot give back yet. */
unsigned int vdev_in_flight(struct vdev *dev);
/* As ops->claim, ops->release and ops->renew. */
int vdev_claim(struct vdev *dev, struct err *err);
void vdev_release(struct vdev *dev);
void vdev_renew(struct vdev *dev);

/* ---- for devices; lock held ---- */

void vdev_lock(struct vdev *dev);
void vdev_unlock(struct vdev *dev);
/* The next chain of a queue: false: not now, whatever the reason; it was dealt with. */
bool vdev_take(struct vdev *dev, struct vqueue *q, struct vchain **out);
void vdev_give(struct vdev *dev, struct vqueue *q, struct vchain *chain, uint32_t written);
/* So many at once, all or none of which the driver sees; `written` is set in each. */
void vdev_give_all(struct vdev *dev, struct vqueue *q, struct vchain *const *chain, unsigned int n);
/* May queue q be worked off now? */
bool vdev_may_run(const struct vdev *dev, const struct vqueue *q);
/* The configuration structure has been changed, by the device: the driver is told. */
void vdev_config_changed(struct vdev *dev);
/* Has the driver accepted feature bit n, and set DRIVER_OK? */
bool vdev_has(const struct vdev *dev, unsigned int n);
/* The driver is wrong. */
void vdev_fail(struct vdev *dev, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- transport.c ---- */

/* Capabilities, BAR, MSI-X: makes dev->fn whole. */
int vdev_transport_init(struct vdev *dev, struct err *err);
/* Notifications become events where that had to wait. */
void vdev_update_ioeventfds(struct vdev *dev);
/* ... and what its registers do, in vdev.c */
void vdev_write_status(struct vdev *dev, uint8_t status);
void vdev_enable_queue(struct vdev *dev, struct vqueue *q);

#endif
