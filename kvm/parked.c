// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See parked.h. `parked` is set by the vCPU's thread alone, when it has nothing
// more to do, and cleared by whoever lets it run, before the thread is woken:
// so it never says "parked" of a vCPU that may enter KVM_RUN.
#include "kvm/parked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/internal.h"
#include "memory/gup.h"

/* For KVM to finish an instruction whose data is there. */
#define VCPU_FLUSH_MS 2000

struct vcpu_parked *vcpu_hold(struct vcpu *vcpu, struct err *err)
{
	bool parked;

	pthread_mutex_lock(&vcpu->vm->lock);
	parked = vcpu->parked;
	vcpu->holds += parked;
	pthread_mutex_unlock(&vcpu->vm->lock);
	if (parked)
		return &vcpu->held;
	err_set(err, -EBUSY, "vCPU %u runs", vcpu->index);
	return NULL;
}

void vcpu_release(struct vcpu_parked *parked)
{
	struct vcpu *vcpu = parked->vcpu;

	pthread_mutex_lock(&vcpu->vm->lock);
	if (!--vcpu->holds && vcpu->parked && !atomic_load(&vcpu->want_pause))
		vcpu_unpark(vcpu);
	pthread_mutex_unlock(&vcpu->vm->lock);
}

unsigned int parked_index(const struct vcpu_parked *parked)
{
	return parked->vcpu->index;
}

struct vm *parked_vm(const struct vcpu_parked *parked)
{
	return parked->vcpu->vm;
}

struct kvm_run *parked_run(const struct vcpu_parked *parked)
{
	return parked->vcpu->run;
}

int parked_ioctl(struct vcpu_parked *parked, unsigned long request, void *arg, const char *what,
		 struct err *err)
{
	struct vcpu *vcpu = parked->vcpu;
	int r;

	if (!vcpu_is_parked(vcpu))
		return err_set(err, -EBUSY, "vCPU %u: %s: it runs", vcpu->index, what);
	r = ioctl(vcpu->fd, request, arg);
	if (r < 0)
		return err_errno(err, -errno, "vCPU %u: %s", vcpu->index, what);
	return r;
}

/*
 * For the thread to let KVM finish an instruction; it parks again at once,
 * since want_pause stays.
 */
static int parked_flush(struct vcpu *vcpu, bool drop, struct err *err)
{
	int r;

	pthread_mutex_lock(&vcpu->vm->lock);
	vcpu->ram_pending = false;
	vcpu->io_pending = true;
	vcpu->dropping = drop;
	atomic_store(&vcpu->want_pause, true);
	vcpu_unpark(vcpu);
	pthread_mutex_unlock(&vcpu->vm->lock);
	r = vm_pause(vcpu->vm, VCPU_FLUSH_MS, err);
	if (!r)
		vcpu->dropping = false;
	return r;
}

int parked_complete_io(struct vcpu_parked *parked, bool drop, struct err *err)
{
	struct vcpu *vcpu = parked->vcpu;
	bool pending = vcpu->ram_pending;
	int r = 0;

	if (!vcpu_is_parked(vcpu))
		return err_set(err, -EBUSY, "vCPU %u runs", vcpu->index);
	/* Of one that did not come back in time. */
	vcpu->dropping = false;
	/* One instruction may have several. */
	while (vcpu->ram_pending && !r) {
		if (drop)
			memset(vcpu->run->mmio.data, 0, sizeof(vcpu->run->mmio.data));
		else
			r = vcpu_ram(vcpu, GUP_NOWAIT, NULL);
		if (r < 0)
			return err_set(err, -EBUSY,
				       "an instruction of vCPU %u waits for the page at 0x%" PRIx64,
				       vcpu->index,
				       (uint64_t)vcpu->run->mmio.phys_addr & ~(PAGE_BYTES - 1));
		r = parked_flush(vcpu, drop, err);
	}
	return r < 0 ? r : pending;
}

int parked_complete_io_to_write(struct vcpu_parked *parked, struct err *err)
{
	int r = parked_complete_io(parked, false, err);

	return r > 0 ? err_set(err, -EAGAIN,
			       "an instruction has been finished just now: read the registers again") :
		       r;
}
