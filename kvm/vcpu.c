// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The run loop of a vCPU's thread; see vcpu.h for its states. A kick sets
// immediate_exit, so that a vCPU about to enter the guest comes right back, and
// then either ejects it from its wait for a page or sends SIGUSR1, whose
// handler sets immediate_exit too (a signal between the handler's return and
// KVM_RUN is thus never lost).
#include "kvm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/count.h"
#include "base/probe.h"
#include "base/thread.h"
#include "kvm/internal.h"
#include "memory/gup.h"

/* A signal handler gets no context: this thread's kvm_run, for it alone. */
static _Thread_local struct kvm_run *vcpu_this_run;

static void vcpu_on_signal(int sig)
{
	(void)sig;
	if (vcpu_this_run)
		__atomic_store_n(&vcpu_this_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

unsigned int vcpu_index(const struct vcpu *vcpu)
{
	return vcpu->index;
}

struct vm *vcpu_vm(const struct vcpu *vcpu)
{
	return vcpu->vm;
}

pid_t vcpu_tid(const struct vcpu *vcpu)
{
	return atomic_load(&vcpu->tid);
}

bool vcpu_is_parked(const struct vcpu *vcpu)
{
	bool parked;

	pthread_mutex_lock(&vcpu->vm->lock);
	parked = vcpu->parked;
	pthread_mutex_unlock(&vcpu->vm->lock);
	return parked;
}

void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *stats)
{
	*stats = (struct vcpu_stats){
		.exits = count_get(&vcpu->exits),
		.interrupted = count_get(&vcpu->interrupted),
		.ejected = count_get(&vcpu->ejected),
	};
}

/* ---- exits ---- */

static void vcpu_event(struct vcpu *vcpu, const struct vm_event *event)
{
	pthread_mutex_lock(&vcpu->vm->lock);
	atomic_store(&vcpu->want_pause, true);
	pthread_mutex_unlock(&vcpu->vm->lock);
	vcpu->vm->ops->event(vcpu->vm->arg, vcpu, event);
}

static void vcpu_pio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t i;

	/* A string instruction brings several items of one port. */
	for (i = 0; i < run->io.count && !vcpu->dropping; i++, data += run->io.size)
		vcpu->vm->ops->pio(vcpu->vm->arg, run->io.port,
				   run->io.direction == KVM_EXIT_IO_OUT, data, run->io.size);
	vcpu->io_pending = true;
}

int vcpu_ram(struct vcpu *vcpu, unsigned int flags, const struct gup_opts *opts)
{
	struct kvm_run *run = vcpu->run;
	gpa_t gpa = GPA(run->mmio.phys_addr);

	if (run->mmio.is_write)
		return gup_write(vcpu->vm->mem, gpa, run->mmio.data, run->mmio.len, flags, opts);
	return gup_read(vcpu->vm->mem, gpa, run->mmio.data, run->mmio.len, flags, opts);
}

/*
 * An emulated instruction's access to RAM: KVM's kernel copy failed because an
 * eject had taken the page's protection, and KVM took it for a device's. Served
 * here, as soon as the page is there; a kick puts it off, and the vCPU parks
 * meanwhile.
 */
static void vcpu_mmio_ram(struct vcpu *vcpu)
{
	struct vm_event event = { .type = VM_EVENT_ERROR };
	struct gup_opts opts = { .self = vcpu->waits };
	int r = vcpu_ram(vcpu, GUP_INTERRUPTIBLE, &opts);

	vcpu->ram_pending = r < 0;
	vcpu->io_pending = !r;
	if (!r || r == -EINTR)
		return;
	snprintf(event.text, sizeof(event.text),
		 "an emulated access to RAM at 0x%" PRIx64 ": error %d",
		 (uint64_t)vcpu->run->mmio.phys_addr, r);
	vcpu_event(vcpu, &event);
}

static void vcpu_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (vcpu->dropping) {
		vcpu->io_pending = true;
		return;
	}
	if (memory_is_ram(vcpu->vm->mem, GPA(run->mmio.phys_addr), run->mmio.len)) {
		vcpu_mmio_ram(vcpu);
		return;
	}
	vcpu->vm->ops->mmio(vcpu->vm->arg, GPA(run->mmio.phys_addr), run->mmio.is_write,
			    run->mmio.data, run->mmio.len);
	vcpu->io_pending = true;
}

static void vcpu_system_event(struct vcpu *vcpu)
{
	struct vm_event event = { .type = VM_EVENT_ERROR };

	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		event.type = VM_EVENT_SHUTDOWN;
		break;
	case KVM_SYSTEM_EVENT_RESET:
		event.type = VM_EVENT_RESET;
		break;
	case KVM_SYSTEM_EVENT_CRASH:
		event.type = VM_EVENT_CRASH;
		break;
	default:
		snprintf(event.text, sizeof(event.text), "unknown system event %u",
			 vcpu->run->system_event.type);
	}
	vcpu_event(vcpu, &event);
}

static void vcpu_exit_error(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct vm_event event = { .type = VM_EVENT_ERROR };

	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		snprintf(event.text, sizeof(event.text),
			 "the hardware refuses to enter the guest, reason 0x%llx",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(event.text, sizeof(event.text), "KVM internal error %u%s",
			 run->internal.suberror,
			 run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ?
				 " (an instruction that KVM cannot emulate)" : "");
	else
		snprintf(event.text, sizeof(event.text), "unknown KVM exit %u", run->exit_reason);
	vcpu_event(vcpu, &event);
}

static void vcpu_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		vcpu_pio(vcpu);
		break;
	case KVM_EXIT_MMIO:
		vcpu_mmio(vcpu);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT:
		break;
	case KVM_EXIT_SHUTDOWN:
		vcpu_event(vcpu, &(struct vm_event){ .type = VM_EVENT_RESET });
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		vcpu_system_event(vcpu);
		break;
	case KVM_EXIT_DEBUG:
		vcpu_event(vcpu, &(struct vm_event){ .type = VM_EVENT_DEBUG });
		break;
	default:
		vcpu_exit_error(vcpu);
	}
}

/*
 * A kick has done its work: the next turn looks at want_pause. Whoever kicks
 * sets want_pause before immediate_exit and the kick, so one that is wiped out
 * here is seen there; and one that comes late, after a resume, does not make
 * the vCPU spin.
 */
static void vcpu_forget_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	memory_thread_clear(vcpu->waits);
}

/* KVM_RUN has failed with errno -r. False: another try would do no better. */
static bool vcpu_run_failed(struct vcpu *vcpu, int r, bool ejected)
{
	struct vm_event event = { .type = VM_EVENT_ERROR };
	char reason[64];

	/* An interruption is no failure: looked at before any error. */
	if (r == -EINTR || r == -EAGAIN) {
		count_add(&vcpu->interrupted, 1);
		vcpu_forget_kick(vcpu);
		return true;
	}
	if (ejected) {
		count_add(&vcpu->ejected, 1);
		memory_thread_wait_page(vcpu->waits);
		vcpu_forget_kick(vcpu);
		return true;
	}
	snprintf(event.text, sizeof(event.text), "KVM_RUN: %s",
		 strerror_r(-r, reason, sizeof(reason)));
	vcpu_event(vcpu, &event);
	return false;
}

/*
 * The guest has touched a page whose memory on the host has failed. It is LOST:
 * nobody else may touch it, and a guest that tried again would only come back
 * here.
 */
static void vcpu_poisoned(struct vcpu *vcpu, const void *host)
{
	struct vm_event event = { .type = VM_EVENT_POISONED };

	if (memory_poison(vcpu->vm->mem, host, &event.gfn) < 0) {
		event.type = VM_EVENT_ERROR;
		snprintf(
			event.text, sizeof(event.text),
			"the host's memory at %p has failed (poisoned by its kernel), none of the guest's RAM",
			host);
	}
	vcpu_event(vcpu, &event);
}

/* ---- the loop ---- */

/* False: KVM will not do what it was asked to. */
static bool vcpu_turn(struct vcpu *vcpu)
{
	bool ejected, goes_on = true;
	void *poisoned;
	int r;

	if (vcpu->ram_pending) {
		vcpu_mmio_ram(vcpu);
		vcpu_forget_kick(vcpu);
		return true;
	}
	memory_thread_enter(vcpu->waits);
	poison_enter(&vcpu->poison);
	r = ioctl(vcpu->fd, KVM_RUN, 0);
	if (r < 0)
		r = -errno;
	poisoned = poison_leave(&vcpu->poison);
	ejected = memory_thread_left(vcpu->waits, r);
	/* Entered: KVM has finished what was pending before anything else. */
	if (r >= 0 || r == -EINTR)
		vcpu->io_pending = false;
	if (r < 0) {
		goes_on = vcpu_run_failed(vcpu, r, ejected);
	} else {
		count_add(&vcpu->exits, 1);
		vcpu_exit(vcpu);
	}
	if (poisoned)
		vcpu_poisoned(vcpu, poisoned);
	return goes_on;
}

/* A snapshot may have to write down what this one has changed first. */
static void vcpu_go(struct vcpu *vcpu)
{
	memory_thread_throttle(vcpu->waits);
	vcpu_turn(vcpu);
}

/* Lets KVM finish the instruction whose I/O was handled, without running the guest further. */
static void vcpu_finish_io(struct vcpu *vcpu)
{
	bool goes_on = true;

	while (vcpu->io_pending && goes_on) {
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		goes_on = vcpu_turn(vcpu);
	}
}

/*
 * With vm->lock held, until whoever may has cleared parked: nothing that is
 * asked for meanwhile counts.
 */
static void vcpu_stay_parked(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	PROBE_PARK((int)vcpu->index);
	pthread_cond_broadcast(&vm->parked);
	while (vcpu->parked)
		pthread_cond_wait(&vcpu->resumed, &vm->lock);
	/*
	 * Under the lock: a pause asked for from now on sets want_pause first
	 * and kicks after, so neither its immediate_exit nor its kick is wiped
	 * out here.
	 */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	memory_thread_clear(vcpu->waits);
	PROBE_RESUME((int)vcpu->index);
}

static void vcpu_park(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	vcpu_finish_io(vcpu);
	pthread_mutex_lock(&vm->lock);
	/* It may have been resumed, or ended, since it looked. */
	vcpu->parked = atomic_load(&vcpu->want_pause) && !atomic_load(&vcpu->want_end);
	if (vcpu->parked)
		vcpu_stay_parked(vcpu);
	pthread_mutex_unlock(&vm->lock);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	char name[16];
	sigset_t set;

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	vcpu_this_run = vcpu->run;
	poison_bind(&vcpu->poison, vcpu->run);
	atomic_store(&vcpu->tid, (pid_t)syscall(SYS_gettid));
	memory_thread_bind(vcpu->waits);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);

	pthread_mutex_lock(&vcpu->vm->lock);
	vcpu_stay_parked(vcpu);
	pthread_mutex_unlock(&vcpu->vm->lock);
	while (!atomic_load(&vcpu->want_end)) {
		if (atomic_load(&vcpu->want_pause))
			vcpu_park(vcpu);
		else
			vcpu_go(vcpu);
	}
	memory_thread_unbind(vcpu->waits);
	return NULL;
}

/* Under the lock: a thread that may be joined gets no signal. */
static void vcpu_signal(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->vm->lock);
	if (vcpu->started)
		pthread_kill(vcpu->thread, SIGUSR1);
	pthread_mutex_unlock(&vcpu->vm->lock);
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (memory_thread_kick(vcpu->waits) == KICK_SIGNAL)
		vcpu_signal(vcpu);
}

void vcpu_unpark(struct vcpu *vcpu)
{
	vcpu->parked = false;
	pthread_cond_signal(&vcpu->resumed);
}

void vcpu_let_run(struct vcpu *vcpu)
{
	atomic_store(&vcpu->want_pause, false);
	if (!vcpu->holds)
		vcpu_unpark(vcpu);
}

void vcpu_resume(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->vm->lock);
	vcpu_let_run(vcpu);
	pthread_mutex_unlock(&vcpu->vm->lock);
}

/* ---- set-up and end ---- */

static void vcpu_send_signal(void *arg)
{
	vcpu_signal(arg);
}

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned int index, struct err *err)
{
	char name[16];
	int bytes;

	/* Parked: there is no thread yet that could run it. */
	*vcpu = (struct vcpu){ .vm = vm, .index = index, .fd = -1, .parked = true };
	cond_init(&vcpu->resumed);
	vcpu->held.vcpu = vcpu;
	atomic_store(&vcpu->want_pause, true);
	snprintf(name, sizeof(name), "vcpu%u", index);
	vcpu->waits = memory_thread_new(vm->mem, name, (int)index);
	if (!vcpu->waits)
		return err_set(err, -ENOMEM, "vCPU %u: no memory", index);
	memory_thread_set_signal(vcpu->waits, vcpu_send_signal, vcpu);
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0)
		return err_errno(err, -errno, "vCPU %u: KVM_CREATE_VCPU", index);
	bytes = ioctl(vm_kvm_fd(vm), KVM_GET_VCPU_MMAP_SIZE, 0);
	if (bytes < (int)sizeof(struct kvm_run))
		return err_errno(err, -errno, "KVM_GET_VCPU_MMAP_SIZE");
	vcpu->run_bytes = (size_t)bytes;
	vcpu->run = mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return err_errno(err, -errno, "vCPU %u: mapping kvm_run", index);
	}
	return 0;
}

int vcpu_start(struct vcpu *vcpu, struct err *err)
{
	struct sigaction action = { .sa_handler = vcpu_on_signal };
	int r = poison_listen(err);

	if (r < 0)
		return r;
	/* No SA_RESTART: KVM_RUN is to come back. */
	if (sigaction(SIGUSR1, &action, NULL) < 0)
		return err_errno(err, -errno, "SIGUSR1's handler");
	pthread_mutex_lock(&vcpu->vm->lock);
	r = thread_start(&vcpu->thread, vcpu_main, vcpu);
	vcpu->started = !r;
	pthread_mutex_unlock(&vcpu->vm->lock);
	return r < 0 ? err_errno(err, r, "vCPU %u: thread", vcpu->index) : 0;
}

void vcpu_fini(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	memory_thread_free(vcpu->waits);
	pthread_cond_destroy(&vcpu->resumed);
	vcpu->run = NULL;
	vcpu->fd = -1;
	vcpu->waits = NULL;
}
