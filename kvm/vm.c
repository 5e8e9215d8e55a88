// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "kvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/mark.h"
#include "kvm/internal.h"

#define VM_KICK_INTERVAL_NS NS_PER_MS
#define VM_END_TIMEOUT_MS 5000

void vm_set_arch(struct vm *vm, void *data, void (*free)(void *data))
{
	vm->arch = data;
	vm->arch_free = free;
}

void *vm_arch(const struct vm *vm)
{
	return vm->arch;
}

int vm_fd(const struct vm *vm)
{
	return vm->fd;
}

int vm_kvm_fd(const struct vm *vm)
{
	return vm_host_fd(vm->host);
}

const void *vm_asked(const struct vm *vm)
{
	return vm_host_asked(vm->host);
}

struct memory *vm_memory(const struct vm *vm)
{
	return vm->mem;
}

unsigned int vm_vcpus(const struct vm *vm)
{
	return vm->vcpus;
}

struct vcpu *vm_vcpu(const struct vm *vm, unsigned int index)
{
	return index < vm->vcpus ? (struct vcpu *)&vm->vcpu[index] : NULL;
}

int vm_irq_line(struct vm *vm, unsigned int gsi, bool level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	return ioctl(vm->fd, KVM_IRQ_LINE, &irq) < 0 ? -errno : 0;
}

/* ---- pause and resume ---- */

/* Kicks those that are not parked. */
static void vm_kick(struct vm *vm)
{
	unsigned int i;
	bool kick;

	for (i = 0; i < vm->vcpus; i++) {
		pthread_mutex_lock(&vm->lock);
		kick = vm->vcpu[i].started && !vm->vcpu[i].parked;
		pthread_mutex_unlock(&vm->lock);
		if (kick)
			vcpu_kick(&vm->vcpu[i]);
	}
}

void vm_ask_pause(struct vm *vm)
{
	unsigned int i;

	pthread_mutex_lock(&vm->lock);
	for (i = 0; i < vm->vcpus; i++)
		atomic_store(&vm->vcpu[i].want_pause, true);
	pthread_mutex_unlock(&vm->lock);
	vm_kick(vm);
}

/* The first vCPU whose thread is not parked, or NULL; vm->lock held. */
static struct vcpu *vm_unparked(struct vm *vm)
{
	unsigned int i;

	for (i = 0; i < vm->vcpus; i++)
		if (vm->vcpu[i].started && !vm->vcpu[i].parked)
			return &vm->vcpu[i];
	return NULL;
}

int vm_pause(struct vm *vm, int timeout_ms, struct err *err)
{
	int64_t deadline = clock_now_ns() + timeout_ms * NS_PER_MS;
	struct vcpu *vcpu;
	int64_t now;

	vm_ask_pause(vm);
	pthread_mutex_lock(&vm->lock);
	while ((vcpu = vm_unparked(vm))) {
		now = clock_now_ns();
		if (now >= deadline)
			break;
		if (cond_wait(&vm->parked, &vm->lock, now + VM_KICK_INTERVAL_NS) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&vm->lock);
		vm_kick(vm);
		pthread_mutex_lock(&vm->lock);
	}
	pthread_mutex_unlock(&vm->lock);
	if (!vcpu)
		return 0;
	return err_set(err, -ETIMEDOUT,
		       "vCPU %u did not come out of the guest within %d ms; it parks as soon as it does%s",
		       vcpu->index, timeout_ms,
		       memory_way_out(vm->mem) == WAY_OUT_KERNEL && memory_is_late(vm->mem) ?
			       " (does this kernel have interruptible guest faults? --way-out=eject needs none)" : "");
}

int vm_each(struct vm *vm, int (*fn)(struct vcpu_parked *parked, void *arg, struct err *err),
	    void *arg, struct err *err)
{
	struct vcpu_parked *parked;
	unsigned int i;
	int r = 0;

	for (i = 0; i < vm->vcpus && !r; i++) {
		parked = vcpu_hold(&vm->vcpu[i], err);
		if (!parked)
			return -EBUSY;
		r = fn(parked, arg, err);
		vcpu_release(parked);
	}
	return r;
}

static int boot_one(struct vcpu_parked *parked, void *boot, struct err *err)
{
	return arch_vcpu_boot(parked, boot, err);
}

int vm_boot(struct vm *vm, const struct arch_boot *boot, struct err *err)
{
	return vm_each(vm, boot_one, (void *)boot, err);
}

static int complete_io(struct vcpu_parked *parked, void *drop, struct err *err)
{
	int r = parked_complete_io(parked, *(bool *)drop, err);

	return r < 0 ? r : 0;
}

int vm_complete_io(struct vm *vm, bool drop, struct err *err)
{
	return vm_each(vm, complete_io, &drop, err);
}

void vm_resume(struct vm *vm)
{
	unsigned int i;

	pthread_mutex_lock(&vm->lock);
	for (i = 0; i < vm->vcpus; i++)
		vcpu_let_run(&vm->vcpu[i]);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- set-up and end ---- */

/* Where the last region ends. */
static gpa_t ram_end(const struct memory *mem)
{
	const struct memory_region *regions;
	unsigned int n;

	regions = memory_regions(mem, &n);
	return gfn_to_gpa(GFN(regions[n - 1].first.v + regions[n - 1].pages));
}

static int vm_create(struct vm *vm, unsigned int cpus, struct err *err)
{
	int room = ioctl(vm_kvm_fd(vm), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	bool plain = ram_end(vm->mem).v <= arch_plain_ram_end().v;
	unsigned long type;
	int r = 0;

	if (room > 0 && cpus > (unsigned int)room)
		return err_set(
			err, -ENOTSUP,
			"%u vCPUs: this host's KVM has room for %d: use --cpus of at most %d", cpus,
			room, room);
	/* What is asked may still be on its way, and says nothing of RAM that every host has room for. */
	if (!plain)
		r = vm_host_ask(vm->host, err);
	if (!r)
		r = arch_vm_type(vm_kvm_fd(vm), plain ? NULL : vm_asked(vm), ram_end(vm->mem),
				 &type, err);
	if (r < 0)
		return r;
	vm->fd = vm_host_take_vm(vm->host, type);
	if (vm->fd < 0)
		vm->fd = ioctl(vm_kvm_fd(vm), KVM_CREATE_VM, type);
	return vm->fd < 0 ? err_errno(err, -errno, "KVM_CREATE_VM") : 0;
}

static int vm_add_slots(struct vm *vm, struct err *err)
{
	const struct memory_region *regions;
	unsigned int i, n;

	regions = memory_regions(vm->mem, &n);
	for (i = 0; i < n; i++) {
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = gfn_to_gpa(regions[i].first).v,
			.memory_size = regions[i].pages * PAGE_BYTES,
			.userspace_addr = (uintptr_t)regions[i].host,
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return err_errno(
				err, -errno, "memory slot %u, of %" PRIu64 " MiB%s", i,
				(uint64_t)slot.memory_size >> 20,
				errno == ENOMEM ?
					" (KVM keeps some bytes for each page of it: the host has no memory for so much RAM)" :
					"");
	}
	return 0;
}

/* A slot that is added once the interrupt controllers are there takes milliseconds (docs/performance.md). */
static int vm_add_device_pages(struct vm *vm, struct err *err)
{
	bool can = ioctl(vm_kvm_fd(vm), KVM_CHECK_EXTENSION, KVM_CAP_READONLY_MEM) > 0;
	struct kvm_userspace_memory_region slot = { .flags = can ? KVM_MEM_READONLY : 0 };
	unsigned int pages;

	memory_regions(vm->mem, &slot.slot);
	slot.guest_phys_addr = arch_device_pages(&pages).v;
	slot.memory_size = vm->device_pages_bytes = pages * PAGE_BYTES;
	vm->device_pages = mmap(NULL, slot.memory_size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->device_pages == MAP_FAILED) {
		vm->device_pages = NULL;
		return err_set(err, -ENOMEM, "no memory for the VM");
	}
	slot.userspace_addr = (uintptr_t)vm->device_pages;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_errno(err, -errno, "memory slot %u", slot.slot);
	return 0;
}

void *vm_device_pages(const struct vm *vm)
{
	return vm->device_pages;
}

static int create(struct vcpu_parked *parked, void *cpus, struct err *err)
{
	return arch_vcpu_create(parked, *(unsigned int *)cpus, err);
}

static int vm_add_vcpus(struct vm *vm, unsigned int cpus, struct err *err)
{
	unsigned int i;
	int r;

	for (i = 0; i < cpus; i++) {
		vm->vcpus = i + 1;
		r = vcpu_init(&vm->vcpu[i], vm, i, err);
		if (r < 0)
			return r;
	}
	r = vm_each(vm, create, &cpus, err);
	if (r < 0)
		return r;
	for (i = 0; i < cpus; i++) {
		r = vcpu_start(&vm->vcpu[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void vm_init_locks(struct vm *vm)
{
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->msi_lock, NULL);
	cond_init(&vm->parked);
}

/* KVM's part: all but the vCPUs. */
static int vm_make_kvm(struct vm *vm, unsigned int cpus, struct err *err)
{
	int r = vm_create(vm, cpus, err);

	if (r < 0)
		return r;
	mark_time("KVM's VM");
	r = vm_add_slots(vm, err);
	if (!r)
		r = vm_add_device_pages(vm, err);
	if (r < 0)
		return r;
	mark_time("memory slots");
	r = arch_vm_create(vm, err);
	mark_time("interrupt controllers");
	return r < 0 ? r : vm_host_ask(vm->host, err);
}

int vm_new(struct vm **out, struct vm_host *host, struct memory *mem, unsigned int cpus,
	   const struct vm_exit_ops *ops, void *arg, struct err *err)
{
	struct vm *vm;
	int r;

	if (cpus < 1 || cpus > VM_VCPUS_MAX)
		return err_set(err, -EINVAL, "%u vCPUs, 1 to %d are possible", cpus, VM_VCPUS_MAX);
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(err, -ENOMEM, "no memory for the VM");
	vm->fd = -1;
	vm->mem = mem;
	vm->ops = ops;
	vm->arg = arg;
	vm_init_locks(vm);
	r = host ? 0 : vm_host_new(&vm->own_host, err);
	vm->host = host ? host : vm->own_host;
	if (!r)
		r = vm_make_kvm(vm, cpus, err);
	if (!r)
		r = vm_add_vcpus(vm, cpus, err);
	if (r < 0) {
		vm_end_vcpus(vm);
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

int vm_end_vcpus(struct vm *vm)
{
	bool ending[VM_VCPUS_MAX];
	unsigned int i;
	int r;

	r = vm_pause(vm, VM_END_TIMEOUT_MS, NULL);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vm->lock);
	for (i = 0; i < vm->vcpus; i++) {
		ending[i] = vm->vcpu[i].started;
		/* From here on nobody signals it: whoever joins a thread has to know that. */
		vm->vcpu[i].started = false;
		atomic_store(&vm->vcpu[i].want_end, true);
		vcpu_unpark(&vm->vcpu[i]);
	}
	pthread_mutex_unlock(&vm->lock);
	for (i = 0; i < vm->vcpus; i++)
		if (ending[i])
			pthread_join(vm->vcpu[i].thread, NULL);
	return 0;
}

void vm_free(struct vm *vm)
{
	unsigned int i;

	if (!vm)
		return;
	for (i = 0; i < vm->vcpus; i++)
		vcpu_fini(&vm->vcpu[i]);
	if (vm->arch_free)
		vm->arch_free(vm->arch);
	if (vm->fd >= 0)
		close(vm->fd);
	vm_host_free(vm->own_host);
	if (vm->device_pages)
		munmap(vm->device_pages, vm->device_pages_bytes);
	pthread_cond_destroy(&vm->parked);
	pthread_mutex_destroy(&vm->msi_lock);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}
