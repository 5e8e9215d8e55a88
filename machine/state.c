// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * state.c - a paused machine's state as a MachineState message, and back.
 *
 * It is loaded in the order in which its parts depend on each other: the VM (interrupt controllers,
 * clocks), the vCPUs, and last the devices, since a device sets its interrupt line again.
 *
 * A device that boards did not have yet when version N - 1 was written is as
 * after a reset in a state of that version: its driver has not seen it.
 */
#include "machine/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/proto.h"
#include "base/state_version.h"
#include "device/identity.h"
#include "machine.pb-c.h"

#define MACHINE_STATE_VERSION 3
/* What boards have had since that version: what tells a guest which machine it is. */
static const char *const devices_new[] = { "identity" };
#define DEVICES_MAX 32

typedef Postern__Device__MachineState MachineState;
typedef Postern__Device__MachineRange MachineRange;
typedef Postern__Device__DeviceState DeviceState;

/* ---- save ---- */

/* A message under construction and all that it points to. */
struct saved {
	MachineState msg;
	MachineRange range[MEMORY_REGIONS_MAX], *range_at[MEMORY_REGIONS_MAX];
	DeviceState device[DEVICES_MAX], *device_at[DEVICES_MAX];
	ProtobufCBinaryData vcpu[VM_VCPUS_MAX];
	struct buf vm_buf, vcpu_buf[VM_VCPUS_MAX], device_buf[DEVICES_MAX];
};

static void saved_free(struct saved *s)
{
	unsigned int i;

	buf_fini(&s->vm_buf);
	for (i = 0; i < VM_VCPUS_MAX; i++)
		buf_fini(&s->vcpu_buf[i]);
	for (i = 0; i < DEVICES_MAX; i++)
		buf_fini(&s->device_buf[i]);
	free(s);
}

static ProtobufCBinaryData bytes_of(const struct buf *buf)
{
	return (ProtobufCBinaryData){ .len = buf->len, .data = buf->data };
}

static void save_shape(struct machine *m, struct saved *s)
{
	const struct memory_region *region;
	unsigned int i, n;

	s->msg.version = MACHINE_STATE_VERSION;
	s->msg.cpus = m->config.cpus;
	region = memory_regions(m->mem, &n);
	for (i = 0; i < n; i++) {
		postern__device__machine_range__init(&s->range[i]);
		s->range[i].gpa = gfn_to_gpa(region[i].first).v;
		s->range[i].len = region[i].pages * PAGE_BYTES;
		s->range_at[i] = &s->range[i];
	}
	s->msg.n_ranges = n;
	s->msg.ranges = s->range_at;
}

static int save_cpu(struct vcpu_parked *vcpu, void *arg, struct err *err)
{
	unsigned int i = parked_index(vcpu);
	struct saved *s = arg;
	int r;

	r = arch_vcpu_save(vcpu, &s->vcpu_buf[i], err);
	if (r < 0)
		return err_prefix(err, r, "state of vCPU %u", i);
	s->vcpu[i] = bytes_of(&s->vcpu_buf[i]);
	return 0;
}

static int save_cpus(struct machine *m, struct saved *s, struct err *err)
{
	int r;

	r = arch_vm_save(m->vm, &s->vm_buf, err);
	if (r < 0)
		return err_prefix(err, r, "state of the VM");
	s->msg.vm = bytes_of(&s->vm_buf);
	r = vm_each(m->vm, save_cpu, s, err);
	if (r < 0)
		return r;
	s->msg.n_vcpus = m->config.cpus;
	s->msg.vcpus = s->vcpu;
	return 0;
}

static int save_devices(struct machine *m, struct saved *s, struct err *err)
{
	const struct device *device;
	unsigned int i, n;
	int r;

	device = board_devices(m->board, &n);
	if (n > DEVICES_MAX)
		return err_set(err, -E2BIG, "%u devices, at most %u have room", n, DEVICES_MAX);
	for (i = 0; i < n; i++) {
		r = device[i].ops->save(device[i].dev, &s->device_buf[i], err);
		if (r < 0)
			return err_prefix(err, r, "state of device %s", device[i].ops->name);
		postern__device__device_state__init(&s->device[i]);
		s->device[i].name = (char *)device[i].ops->name;
		s->device[i].version = device[i].ops->version;
		s->device[i].data = bytes_of(&s->device_buf[i]);
		s->device_at[i] = &s->device[i];
	}
	s->msg.n_devices = n;
	s->msg.devices = s->device_at;
	return 0;
}

int machine_save(struct machine *m, struct buf *out, struct err *err)
{
	struct saved *s;
	unsigned int asked;
	uint8_t *to;
	int r;

	if (m->state == RUN_STATE_RUNNING)
		return err_set(err, -EBUSY,
			       "a running machine's state cannot be saved: pause it first");
	r = machine_drain(m, err);
	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, -ENOMEM, "no memory for the machine's state");
	/* It has gone on meanwhile, for KVM; not for the guest. */
	machine_clock_back(m);
	postern__device__machine_state__init(&s->msg);
	save_shape(m, s);
	r = save_cpus(m, s, err);
	if (!r)
		r = save_devices(m, s, err);
	asked = atomic_load(&m->asked);
	s->msg.reset_asked = asked & ASKED_RESET || machine_reset_waits_for(m);
	s->msg.reset_by_host = s->msg.reset_asked &&
			       (asked & ASKED_RESET ? asked & ASKED_BY_HOST : !m->reset.by_guest);
	s->msg.shutdown_asked = asked & ASKED_SHUTDOWN;
	if (!r) {
		to = buf_reserve(out, postern__device__machine_state__get_packed_size(&s->msg));
		if (to)
			out->len += postern__device__machine_state__pack(&s->msg, to);
		else
			r = err_set(err, -ENOMEM, "no memory for the machine's state");
	}
	saved_free(s);
	return r;
}

/* ---- load ---- */

static int state_check_shape(struct machine *m, const MachineState *msg, struct err *err)
{
	const struct memory_region *region;
	unsigned int i, n;

	int r = state_version_check("machine state", msg->version, MACHINE_STATE_VERSION, err);

	if (r < 0)
		return r;
	if (msg->cpus != m->config.cpus || msg->n_vcpus != msg->cpus)
		return err_set(err, -EINVAL,
			       "state of a machine with %u vCPUs (%zu present), this one has %u",
			       msg->cpus, msg->n_vcpus, m->config.cpus);
	region = memory_regions(m->mem, &n);
	if (msg->n_ranges != n)
		return err_set(err, -EINVAL,
			       "state of a machine with %zu ranges of RAM, this one has %u",
			       msg->n_ranges, n);
	for (i = 0; i < n; i++)
		if (msg->ranges[i]->gpa != gfn_to_gpa(region[i].first).v ||
		    msg->ranges[i]->len != region[i].pages * PAGE_BYTES)
			return err_set(err, -EINVAL,
				       "state of a machine with 0x%" PRIx64 " bytes of RAM at 0x%" PRIx64
				       ", this one has 0x%" PRIx64 " at 0x%" PRIx64,
				       msg->ranges[i]->len, msg->ranges[i]->gpa,
				       region[i].pages * PAGE_BYTES, gfn_to_gpa(region[i].first).v);
	return 0;
}

static const DeviceState *state_of(const MachineState *msg, const char *name)
{
	size_t i;

	for (i = 0; i < msg->n_devices; i++)
		if (!strcmp(msg->devices[i]->name, name))
			return msg->devices[i];
	return NULL;
}

/* Is it of a version in which no board had such a device? */
static bool state_is_before(const MachineState *msg, const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(devices_new) / sizeof(devices_new[0]); i++)
		if (!strcmp(devices_new[i], name))
			return msg->version < MACHINE_STATE_VERSION;
	return false;
}

static int check_device(const struct device *device, const MachineState *msg, struct err *err)
{
	const char *name = device->ops->name;
	const DeviceState *state = state_of(msg, name);

	if (state_is_before(msg, name) && !state)
		return 0;
	if (state_is_before(msg, name))
		return err_set(err, -EINVAL,
			       "state of device %s, in a machine state of version %u, which has none", name,
			       msg->version);
	if (!state)
		return err_set(err, -EINVAL, "no state of device %s", name);
	return device_version_check(device, state->version, err);
}

/* Each device exactly once. */
static int check_devices(struct machine *m, const MachineState *msg, struct err *err)
{
	const struct device *device;
	unsigned int i, n;
	int r = 0;
	size_t k;

	device = board_devices(m->board, &n);
	for (k = 0; k < msg->n_devices; k++) {
		const char *name = msg->devices[k]->name;

		for (i = 0; i < n && strcmp(device[i].ops->name, name); i++)
			;
		if (i == n)
			return err_set(err, -EINVAL,
				       "state of a device that this machine lacks: \"%.64s\"",
				       name);
		if (state_of(msg, name) != msg->devices[k])
			return err_set(err, -EINVAL, "state of device %s comes twice", name);
	}
	for (i = 0; i < n && !r; i++)
		r = check_device(&device[i], msg, err);
	return r;
}

static int apply_cpu(struct vcpu_parked *vcpu, void *arg, struct err *err)
{
	unsigned int i = parked_index(vcpu);
	const MachineState *msg = arg;
	int r;

	r = arch_vcpu_load(vcpu, msg->vcpus[i].data, msg->vcpus[i].len, err);
	return r < 0 ? err_prefix(err, r, "state of vCPU %u", i) : 0;
}

static int apply_device(const struct device *device, const DeviceState *state, struct err *err)
{
	if (state)
		return device_load(device, state->version, state->data.data, state->data.len, err);
	device->ops->reset(device->dev);
	return 0;
}

static int advance_cpu(struct vcpu_parked *vcpu, void *arg, struct err *err)
{
	const uint64_t *ns = arg;

	return arch_vcpu_clock_advance(vcpu, *ns, err);
}

/* away_ns: its clocks are to show that it was away for so long. */
static int apply_cpus(struct machine *m, const MachineState *msg, uint64_t away_ns, struct err *err)
{
	int r = arch_vm_load(m->vm, msg->vm.data, msg->vm.len, err);

	if (!r && away_ns)
		r = arch_clock_advance(m->vm, away_ns, err);
	if (r < 0)
		return err_prefix(err, r, "state of the VM");
	r = vm_each(m->vm, apply_cpu, (void *)msg, err);
	return r || !away_ns ? r : vm_each(m->vm, advance_cpu, &away_ns, err);
}

static int apply(struct machine *m, const MachineState *msg, uint64_t away_ns, struct err *err)
{
	const struct device *device;
	unsigned int i, n;
	int r;

	r = apply_cpus(m, msg, away_ns, err);
	if (r < 0)
		return r;
	device = board_devices(m->board, &n);
	for (i = 0; i < n && !r; i++)
		r = apply_device(&device[i], state_of(msg, device[i].ops->name), err);
	return r;
}

static int machine_state_load(struct machine *m, const uint8_t *data, size_t len, uint64_t away_ns,
			      struct err *err)
{
	MachineState *msg;
	int r;

	if (m->state == RUN_STATE_RUNNING)
		return err_set(err, -EBUSY,
			       "a running machine's state cannot be loaded: pause it first");
	msg = proto_unpack(&postern__device__machine_state__descriptor, data, len, PROTO_FIELDS_MAX,
			   err);
	if (!msg)
		return -EINVAL;
	r = state_check_shape(m, msg, err);
	if (!r)
		r = check_devices(m, msg, err);
	m->clock_stopped = false;
	if (!r)
		r = apply(m, msg, away_ns, err);
	if (!r)
		atomic_store(&m->asked,
			     (msg->reset_asked ? ASKED_RESET : 0) |
				     (msg->reset_asked && msg->reset_by_host ? ASKED_BY_HOST : 0) |
				     (msg->shutdown_asked ? ASKED_SHUTDOWN : 0));
	postern__device__machine_state__free_unpacked(msg, NULL);
	return r;
}

int machine_load(struct machine *m, const uint8_t *data, size_t len, struct err *err)
{
	return machine_state_load(m, data, len, 0, err);
}

int machine_load_away(struct machine *m, const uint8_t *data, size_t len,
		      const struct machine_away *away, struct err *err)
{
	int64_t ns = away->parked_ns ? clock_wall_ns() - away->parked_ns : 0;
	int r;

	if (away->shown && !away->parked_ns)
		return err_set(err, -ENODATA,
			       "when its guest was saved is not known, and so not for how long its "
			       "clocks stood still");
	if (away->shown && ns < 0)
		log_warn("by this host's clock the guest was saved %" PRIi64
			 " s from now: its clocks go on where they stood",
			 -ns / NS_PER_SEC);
	r = machine_state_load(m, data, len, away->shown && ns > 0 ? (uint64_t)ns : 0, err);
	m->behind_ns = away->shown ? 0 : ns;
	return r;
}

int machine_renew_identity(struct machine *m, struct err *err)
{
	return board_renew(m->board, err);
}

void machine_generation_id(struct machine *m, uint8_t id[MACHINE_ID_BYTES])
{
	_Static_assert(MACHINE_ID_BYTES == IDENTITY_ID_BYTES, "one ID");
	identity_id(board_identity(m->board), id);
}

/* ---- pages that must come early ---- */

struct pages {
	struct buf buf; /* of gfn_t */
};

static int pages_add(void *arg, gfn_t gfn)
{
	struct pages *pages = arg;

	return buf_append(&pages->buf, &gfn, sizeof(gfn));
}

static int gfn_compare(const void *a, const void *b)
{
	uint64_t x = ((const gfn_t *)a)->v, y = ((const gfn_t *)b)->v;

	return x < y ? -1 : x > y;
}

static int early_pages(struct vcpu_parked *vcpu, void *pages, struct err *err)
{
	return arch_vcpu_early_pages(vcpu, pages_add, pages, err);
}

int machine_early_pages(struct machine *m, int (*fn)(void *arg, gfn_t gfn), void *arg,
			struct err *err)
{
	struct pages pages = { 0 };
	gfn_t *gfn;
	size_t i, n;
	int r;

	r = vm_each(m->vm, early_pages, &pages, err);
	gfn = (gfn_t *)(void *)pages.buf.data;
	n = pages.buf.len / sizeof(*gfn);
	if (n)
		qsort(gfn, n, sizeof(*gfn), gfn_compare);
	for (i = 0; i < n && r == 0; i++)
		if (i == 0 || gfn[i].v != gfn[i - 1].v)
			r = fn(arg, gfn[i]);
	buf_fini(&pages.buf);
	return r;
}

/* ---- registers alone ---- */

int machine_state_registers(const uint8_t *data, size_t len,
			    int (*each)(void *arg, const uint8_t *regs, size_t bytes), void *arg,
			    struct err *err)
{
	struct buf regs = { 0 };
	MachineState *msg;
	size_t i;
	int r;

	msg = proto_unpack(&postern__device__machine_state__descriptor, data, len, PROTO_FIELDS_MAX,
			   err);
	if (!msg)
		return err_prefix(err, -EINVAL, "machine state");
	r = state_version_check("machine state", msg->version, MACHINE_STATE_VERSION, err);
	for (i = 0; !r && i < msg->n_vcpus; i++) {
		regs.len = 0;
		r = arch_core_regs(msg->vcpus[i].data, msg->vcpus[i].len, &regs, err);
		if (r < 0)
			err_prefix(err, r, "vCPU %zu", i);
		else
			r = each(arg, regs.data, regs.len);
	}
	buf_fini(&regs);
	postern__device__machine_state__free_unpacked(msg, NULL);
	return r;
}
