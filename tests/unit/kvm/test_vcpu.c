// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A vCPU's thread over a KVM_RUN of the test's: an emulated instruction whose
 * operand is missing, and what becomes of it when the vCPU's state is set, or
 * taken, before it is done; and who may ask about a vCPU when. Needs no
 * /dev/kvm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cond.h"
#include "kvm/internal.h"
#include "memory/gup.h"

#define OPERAND (UINT64_C(0x1000))

/* KVM's side. Fields are the vCPU's thread's while it runs. */
static struct {
	_Atomic unsigned int start;	/* instructions to begin */
	bool write;
	unsigned int parts;		/* of the operand, 4 bytes each, that are still to be moved */
	bool under_way;
	unsigned int finished;		/* instructions */
	uint8_t read[4];		/* what the last part got */
	_Atomic unsigned int entered;	/* the guest itself */
	void *_Atomic poison;		/* the guest touches this, whose memory has failed */
	_Atomic unsigned int spins;	/* tries in vain since */
	_Atomic bool gives_up;		/* ... on what is under way */
	_Atomic unsigned int errors;	/* told since */
} kvm;

static struct vm vm;
static struct memory *mem;
static _Atomic uint64_t poisoned;

int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_ioctl(int fd, unsigned long request, void *arg);

static int mmio_exit(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = OPERAND + 4 * (kvm.parts - 1);
	run->mmio.is_write = kvm.write;
	run->mmio.len = 4;
	memset(run->mmio.data, kvm.write ? 'W' : 'G', sizeof(run->mmio.data));
	kvm.under_way = true;
	return 0;
}

/*
 * As the kernel sends it to a thread for which KVM meets a poisoned page; it
 * tries again afterwards.
 */
static void poison_signal(void *address)
{
	siginfo_t info = { 0 };

	info.si_signo = SIGBUS;
	info.si_code = BUS_MCEERR_AR;
	info.si_addr = address;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info);
}

/* As KVM does it: what is under way first, and only then a look at immediate_exit. */
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct kvm_run *run = vm.vcpu[0].run;

	if (request != KVM_RUN)
		return __real_ioctl(fd, request, arg);
	if (kvm.under_way && atomic_load(&kvm.gives_up)) {
		errno = EIO;
		return -1;
	}
	if (kvm.under_way) {
		kvm.under_way = false;
		memcpy(kvm.read, run->mmio.data, sizeof(kvm.read));
		if (--kvm.parts)
			return mmio_exit(run);
		kvm.finished++;
	}
	while (!__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)) {
		if (atomic_load(&kvm.poison)) {
			poison_signal(atomic_load(&kvm.poison));
			atomic_fetch_add(&kvm.spins, 1);
		}
		if (atomic_load(&kvm.start)) {
			atomic_fetch_sub(&kvm.start, 1);
			return mmio_exit(run);
		}
		atomic_fetch_add(&kvm.entered, 1);
		usleep(100);
	}
	errno = EINTR;
	return -1;
}

static void on_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	(void)arg, (void)port, (void)write, (void)data, (void)size;
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)arg, (void)gpa, (void)write, (void)data, (void)len;
}

static void on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	(void)arg, (void)vcpu;
	if (event->type == VM_EVENT_POISONED) {
		atomic_store(&kvm.poison, NULL);
		atomic_store(&poisoned, event->gfn.v);
		return;
	}
	if (event->type == VM_EVENT_ERROR && atomic_load(&kvm.gives_up)) {
		atomic_fetch_add(&kvm.errors, 1);
		return;
	}
	print_message("event: %s\n", event->text);
	abort();
}

static const struct vm_exit_ops ops = { on_pio, on_mmio, on_event };

static int setup(void **state)
{
	const struct memory_range range = { GPA(0), 2 << 20 };
	struct vcpu *vcpu = &vm.vcpu[0];
	struct err err;
	int r;

	(void)state;
	memset(&kvm, 0, sizeof(kvm));
	memset(&vm, 0, sizeof(vm));
	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	r = memory_watch(mem, NULL, &err);
	if (r < 0) {
		memory_free(mem);
		print_message("%s\n", err.text);
		mem = NULL;
		return 0;
	}
	pthread_mutex_init(&vm.lock, NULL);
	cond_init(&vm.parked);
	vm.mem = mem;
	vm.ops = &ops;
	vm.vcpus = 1;
	*vcpu = (struct vcpu){ .vm = &vm, .held.vcpu = vcpu, .want_pause = true, .parked = true, .run_bytes = PAGE_BYTES };
	cond_init(&vcpu->resumed);
	vcpu->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	vcpu->run =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(vcpu->run != MAP_FAILED);
	vcpu->waits = memory_thread_new(mem, "vcpu0", 0);
	assert_non_null(vcpu->waits);
	assert_int_equal(vcpu_start(vcpu, &err), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (!mem)
		return 0;
	assert_int_equal(vm_end_vcpus(&vm), 0);
	memory_shut(mem);
	vcpu_fini(&vm.vcpu[0]);
	memory_free(mem);
	pthread_cond_destroy(&vm.parked);
	pthread_mutex_destroy(&vm.lock);
	return 0;
}

static int complete_io(bool write, struct err *err)
{
	struct vcpu_parked *parked = vcpu_hold(&vm.vcpu[0], err);
	int r = -EBUSY;

	if (!parked)
		return r;
	r = write ? parked_complete_io_to_write(parked, err) :
		    parked_complete_io(parked, false, err);
	vcpu_release(parked);
	return r;
}

static void need_watch(void)
{
	if (mem)
		return;
	print_message("skipped: no userfaultfd\n");
	skip();
}

/* The guest begins an instruction whose operand is missing, and is paused. */
static void park_in_the_middle(bool write, unsigned int parts)
{
	unsigned int i;
	struct err err;

	kvm.write = write;
	kvm.parts = parts;
	atomic_store(&kvm.start, 1);
	vm_resume(&vm);
	for (i = 0; atomic_load(&kvm.start); i++) {
		assert_true(i < 100000);
		usleep(100);
	}
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	assert_true(vm.vcpu[0].ram_pending);
}

static void operand_comes(void)
{
	uint8_t page[PAGE_BYTES];

	memset(page, 'M', sizeof(page));
	assert_int_equal(memory_fill(mem, GFN(OPERAND / PAGE_BYTES), 1, page), 1);
}

static void assert_operand(const char *text)
{
	char now[8];

	assert_int_equal(gup_read(mem, GPA(OPERAND), now, sizeof(now), 0, NULL), 0);
	assert_memory_equal(now, text, sizeof(now));
}

/* Nothing of it is left to be done once the guest goes on, and nothing has been done. */
static void assert_completed(void)
{
	unsigned int entered = atomic_load(&kvm.entered), i;
	struct err err;

	assert_true(vcpu_is_parked(&vm.vcpu[0]));
	assert_int_equal(kvm.finished, 1);
	assert_false(kvm.under_way);
	assert_int_equal(complete_io(false, &err), 0);
	vm_resume(&vm);
	for (i = 0; atomic_load(&kvm.entered) == entered; i++) {
		assert_true(i < 100000);
		usleep(100);
	}
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	assert_int_equal(kvm.finished, 1);
}

static void a_write_is_dropped(void **state)
{
	struct err err;

	(void)state;
	need_watch();
	park_in_the_middle(true, 2);
	operand_comes();
	assert_int_equal(vm_complete_io(&vm, true, &err), 0);
	assert_completed();
	assert_operand("MMMMMMMM");
}

/* Also when the page never comes. */
static void a_read_is_dropped(void **state)
{
	struct err err;

	(void)state;
	need_watch();
	park_in_the_middle(false, 1);
	assert_int_equal(vm_complete_io(&vm, true, &err), 0);
	assert_memory_equal(kvm.read, "\0\0\0\0", 4);
	assert_completed();
}

static void a_write_is_finished_once_its_page_is_there(void **state)
{
	struct err err;

	(void)state;
	need_watch();
	park_in_the_middle(true, 2);
	assert_int_equal(complete_io(false, &err), -EBUSY);
	assert_non_null(strstr(err.text, "page at 0x1000"));
	assert_int_equal(kvm.finished, 0);
	assert_true(vcpu_is_parked(&vm.vcpu[0]));
	operand_comes();
	assert_int_equal(complete_io(false, &err), 1);
	assert_completed();
	assert_operand("WWWWWWWW");
}

static void a_read_is_finished_once_its_page_is_there(void **state)
{
	struct err err;

	(void)state;
	need_watch();
	park_in_the_middle(false, 1);
	assert_int_equal(vm_complete_io(&vm, false, &err), -EBUSY);
	operand_comes();
	assert_int_equal(vm_complete_io(&vm, false, &err), 0);
	assert_memory_equal(kvm.read, "MMMM", 4);
	assert_completed();
}

static void registers_are_to_be_read_again_after_an_instruction(void **state)
{
	struct err err;

	(void)state;
	need_watch();
	park_in_the_middle(true, 1);
	assert_int_equal(complete_io(true, &err), -EBUSY);
	operand_comes();
	assert_int_equal(complete_io(true, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "read the registers again"));
	assert_int_equal(complete_io(true, &err), 0);
	assert_completed();
}

static void wait_for_entry(unsigned int entered)
{
	unsigned int i;

	for (i = 0; atomic_load(&kvm.entered) == entered; i++) {
		assert_true(i < 100000);
		usleep(100);
	}
}

/*
 * A resume is the end of being parked, and not the moment at which the thread
 * wakes up: who asked KVM in between would wait for the guest.
 */
static void a_vcpu_that_was_resumed_cannot_be_held(void **state)
{
	unsigned int i, entered;
	struct err err;

	(void)state;
	need_watch();
	for (i = 0; i < 1000; i++) {
		entered = atomic_load(&kvm.entered);
		vcpu_resume(&vm.vcpu[0]);
		assert_false(vcpu_is_parked(&vm.vcpu[0]));
		assert_null(vcpu_hold(&vm.vcpu[0], &err));
		assert_int_equal(err.code, -EBUSY);
		assert_non_null(strstr(err.text, "vCPU 0 runs"));
		if (i % 2)
			wait_for_entry(entered);
		assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	}
}

static void a_vcpu_that_is_held_does_not_run(void **state)
{
	struct vcpu_parked *first, *second;
	unsigned int entered;
	struct err err;

	(void)state;
	need_watch();
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	first = vcpu_hold(&vm.vcpu[0], &err);
	second = vcpu_hold(&vm.vcpu[0], &err);
	assert_non_null(first);
	assert_non_null(second);
	entered = atomic_load(&kvm.entered);
	vm_resume(&vm);
	vcpu_release(first);
	assert_true(vcpu_is_parked(&vm.vcpu[0]));
	usleep(10000);
	assert_int_equal(atomic_load(&kvm.entered), entered);
	vcpu_release(second);
	assert_false(vcpu_is_parked(&vm.vcpu[0]));
	wait_for_entry(entered);
	/* A handle that was kept too long: KVM is not asked. */
	assert_int_equal(parked_ioctl(first, KVM_GET_REGS, NULL, "get registers", &err), -EBUSY);
	assert_non_null(strstr(err.text, "vCPU 0: get registers: it runs"));
	assert_int_equal(parked_complete_io(first, false, &err), -EBUSY);
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	/* A pause that comes before the release takes the resume back. */
	first = vcpu_hold(&vm.vcpu[0], &err);
	vm_resume(&vm);
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
	vcpu_release(first);
	assert_true(vcpu_is_parked(&vm.vcpu[0]));
}

/*
 * The signal is not blocked, so that KVM does not try for ever; the machine
 * hears which page it is, and the vCPU parks.
 */
static void a_poisoned_page_is_told_and_ends_the_try(void **state)
{
	unsigned int i, n;
	uint64_t word;
	struct err err;

	(void)state;
	need_watch();
	operand_comes();
	/* cmocka has taken it since the set-up. */
	assert_int_equal(poison_listen(&err), 0);
	atomic_store(&poisoned, 0);
	vm_resume(&vm);
	atomic_store(&kvm.poison, memory_regions(mem, &n)[0].host + OPERAND + 8);
	for (i = 0; !atomic_load(&poisoned); i++) {
		assert_true(i < 20000 && atomic_load(&kvm.spins) < 1000);
		usleep(100);
	}
	assert_int_equal(atomic_load(&poisoned), OPERAND / PAGE_BYTES);
	assert_int_equal(atomic_load(&kvm.spins), 1);
	/* It parks by itself, and nobody gets at the page. */
	for (i = 0; !vcpu_is_parked(&vm.vcpu[0]); i++) {
		assert_true(i < 20000);
		usleep(100);
	}
	assert_int_equal(gup_read(mem, GPA(OPERAND), &word, 8, 0, NULL), -EIO);
	/* It is ready for the next. */
	assert_int_equal(vm_pause(&vm, 10000, &err), 0);
}

/*
 * KVM does not even finish an instruction, as once it has found a fault of its
 * own: that is told, and the vCPU parks all the same.
 */
static void a_vcpu_that_kvm_gives_up_parks(void **state)
{
	unsigned int i;
	struct err err;
	int r;

	(void)state;
	need_watch();
	operand_comes();
	kvm.write = true;
	kvm.parts = 1;
	atomic_store(&kvm.gives_up, true);
	atomic_store(&kvm.start, 1);
	vm_resume(&vm);
	for (i = 0; !atomic_load(&kvm.errors); i++) {
		assert_true(i < 100000);
		usleep(100);
	}
	r = vm_pause(&vm, 1000, &err);
	assert_in_range(atomic_load(&kvm.errors), 1, r < 0 ? UINT32_MAX : 2);
	/* For the end, if it has not. */
	atomic_store(&kvm.gives_up, false);
	assert_int_equal(r, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_write_is_dropped),
		TEST(a_read_is_dropped),
		TEST(a_write_is_finished_once_its_page_is_there),
		TEST(a_read_is_finished_once_its_page_is_there),
		TEST(registers_are_to_be_read_again_after_an_instruction),
		TEST(a_vcpu_that_was_resumed_cannot_be_held),
		TEST(a_vcpu_that_is_held_does_not_run),
		TEST(a_poisoned_page_is_told_and_ends_the_try),
		TEST(a_vcpu_that_kvm_gives_up_parks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
