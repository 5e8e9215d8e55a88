// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "kvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "base/cond.h"
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
	return vm->kvm_fd;
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

static int vm_open_kvm(struct vm *vm, struct err *err)
{
	int version;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0 && errno == ENOENT)
		return err_set(err, -ENOENT,
			       "no /dev/kvm: load kvm_intel or kvm_amd (on arm64: start the kernel at EL2), or enable virtualisation in the firmware (or nesting in the hypervisor)");
	if (vm->kvm_fd < 0)
		return err_errno(err, -errno, "/dev/kvm (is this user in the group kvm?)");
	version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(err, -ENOTSUP, "KVM API version %d, %d is needed", version, KVM_API_VERSION);
	if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return err_set(err, -ENOTSUP, "KVM lacks immediate_exit: Linux 4.13 or later is needed");
	return 0;
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
			return err_errno(err, -errno, "memory slot %u", i);
	}
	return 0;
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
	cond_init(&vm->resumed);
}

int vm_new(struct vm **out, struct memory *mem, unsigned int cpus, const struct vm_exit_ops *ops,
	   void *arg, struct err *err)
{
	struct vm *vm;
	int r;

	if (cpus < 1 || cpus > VM_VCPUS_MAX)
		return err_set(err, -EINVAL, "%u vCPUs, 1 to %d are possible", cpus, VM_VCPUS_MAX);
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(err, -ENOMEM, "no memory for the VM");
	vm->kvm_fd = -1;
	vm->fd = -1;
	vm->mem = mem;
	vm->ops = ops;
	vm->arg = arg;
	vm_init_locks(vm);
	r = vm_open_kvm(vm, err);
	if (r < 0)
		goto err_vm;
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, arch_vm_type(vm->kvm_fd));
	if (vm->fd < 0) {
		r = err_errno(err, -errno, "KVM_CREATE_VM");
		goto err_vm;
	}
	r = vm_add_slots(vm, err);
	if (r < 0)
		goto err_vm;
	r = arch_vm_create(vm, err);
	if (r < 0)
		goto err_vm;
	r = vm_add_vcpus(vm, cpus, err);
	if (r < 0)
		goto err_vm;
	*out = vm;
	return 0;

err_vm:
	vm_end_vcpus(vm);
	vm_free(vm);
	return r;
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
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	pthread_cond_destroy(&vm->resumed);
	pthread_cond_destroy(&vm->parked);
	pthread_mutex_destroy(&vm->msi_lock);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}
