// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// lazy_file FILE [kernel|eject]: a whole little VMM on libpostern. The guest
// sees FILE in its memory and adds up its 64-bit words; each page is read from
// the file when the guest touches it. At first the "store" is down: the guest
// waits for a page, and the VMM stops its vCPU all the same, lets it run again,
// and only then serves pages. In the end both have the same sum.
//
//   vCPU thread   KVM_RUN between memory_thread_enter and _left; parks when it is told to
//   main          sets up, stops and resumes the vCPU
//   reader        takes what was asked for from a pipe, reads it from the file, fills it in
//
// The guest runs in ring 3 of long mode with page tables made here, so that
// every KVM can run it.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <postern.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOW_BYTES POSTERN_HUGE_BYTES	/* code and page tables; the file follows */
#define FILE_MAX (UINT64_C(256) << 20)
#define CODE 0x1000
#define TABLES 0x2000
#define PORT 0x80

/*
 * rsi: first word, rcx: how many, at least one. The sum goes out in two halves,
 * the low one first.
 */
__asm__(".pushsection .rodata\n"
	"guest_start:\n"
	"	xorl %eax, %eax\n"
	"1:	addq (%rsi), %rax\n"
	"	addq $8, %rsi\n"
	"	decq %rcx\n"
	"	jnz 1b\n"
	"	outl %eax, $0x80\n"
	"	shrq $32, %rax\n"
	"	outl %eax, $0x80\n"
	"guest_end:\n"
	".popsection");
extern const uint8_t guest_start[], guest_end[];

struct ask {
	uint64_t first, n;
};

struct vmm {
	struct postern_memory *mem;
	struct postern_page_source source;
	int file, pipe[2];
	uint64_t pages;			/* of the file, as the guest sees it */
	pthread_t reader, thread;
	sem_t store_up, parked, resumed;
	int kvm, vm, vcpu;
	struct kvm_run *run;
	struct postern_memory_thread *waits;
	_Atomic bool want_pause;
	uint32_t half[2];		/* the sum, as the guest wrote it */
};

static _Thread_local struct kvm_run *this_run;	/* for the signal's handler */

static void die(const char *what, const char *why)
{
	fprintf(stderr, "lazy_file: %s: %s\n", what, why);
	exit(1);
}

static int check(int result, const char *what)
{
	if (result < 0)
		die(what, strerror(errno));
	return result;
}

/* ---- the page source ---- */

/*
 * On the fault thread: must not sleep, so it only leaves a note. A full pipe
 * cannot be: one vCPU asks for one page at a time.
 */
static int store_request(struct postern_page_source *source, postern_gfn_t first, uint64_t n)
{
	struct vmm *vmm = (struct vmm *)((char *)source - offsetof(struct vmm, source));
	struct ask ask = { first.v, n };

	return write(vmm->pipe[1], &ask, sizeof(ask)) == sizeof(ask) ? 0 : -ENOTCONN;
}

static const struct postern_page_source_ops store_ops = { .name = "file",
							  .request = store_request };

static void *reader_main(void *arg)
{
	struct vmm *vmm = arg;
	struct ask ask;

	sem_wait(&vmm->store_up);
	while (read(vmm->pipe[0], &ask, sizeof(ask)) == sizeof(ask)) {
		for (; ask.n; ask.n--, ask.first++) {
			uint8_t page[4096] = { 0 };	/* past the file's end: zeros */
			off_t at = (off_t)(ask.first * POSTERN_PAGE_BYTES - LOW_BYTES);

			/* Never fill what could not be read: the guest would see zeros. */
			if (pread(vmm->file, page, sizeof(page), at) < 0)
				postern_memory_lose(vmm->mem, POSTERN_GFN(ask.first));
			else if (postern_memory_fill(vmm->mem, POSTERN_GFN(ask.first), 1, page) < 0)
				die("filling a page", "no memory");
		}
	}
	return NULL;
}

/* A whole VMM would pause the machine and tell its user. */
static void page_lost(void *arg, postern_gfn_t gfn)
{
	(void)arg, (void)gfn;
	die("a page", "the file cannot be read");
}

/* ---- the vCPU ---- */

static void on_signal(int sig)
{
	(void)sig;
	/* A signal between the last look at want_pause and KVM_RUN must not be lost. */
	if (this_run)
		__atomic_store_n(&this_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static void send_signal(void *arg)
{
	pthread_kill(((struct vmm *)arg)->thread, SIGUSR1);
}

/* The kick has been noticed: the caller looks at want_pause next. */
static void forget_kick(struct vmm *vmm)
{
	__atomic_store_n(&vmm->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	postern_memory_thread_clear(vmm->waits);
}

/* Enters the guest once. True: it wrote to the port. */
static bool vcpu_turn(struct vmm *vmm)
{
	bool ejected;
	int r;

	postern_memory_thread_enter(vmm->waits);
	r = ioctl(vmm->vcpu, KVM_RUN, 0) < 0 ? -errno : 0;
	ejected = postern_memory_thread_left(vmm->waits, r);
	if (!r && vmm->run->exit_reason == KVM_EXIT_IO && vmm->run->io.port == PORT)
		return true;
	if (ejected)
		postern_memory_thread_wait_page(vmm->waits);
	else if (r != -EINTR && r != -EAGAIN)
		die("KVM_RUN", r ? strerror(-r) : "an exit that this guest does not cause");
	forget_kick(vmm);
	return false;
}

static void *vcpu_main(void *arg)
{
	struct vmm *vmm = arg;
	int halves = 0;

	this_run = vmm->run;
	postern_memory_thread_bind(vmm->waits);
	while (halves < 2) {
		if (atomic_load(&vmm->want_pause)) {
			sem_post(&vmm->parked);
			while (sem_wait(&vmm->resumed) < 0)	/* a kick too many */
				;
			forget_kick(vmm);
		} else if (vcpu_turn(vmm)) {
			memcpy(&vmm->half[halves++], (uint8_t *)vmm->run + vmm->run->io.data_offset,
			       4);
		}
	}
	postern_memory_thread_unbind(vmm->waits);
	return NULL;
}

/* A kick is a loop: whatever the vCPU is about to do, one of them finds it. */
static void vcpu_pause(struct vmm *vmm)
{
	struct timespec until;

	atomic_store(&vmm->want_pause, true);
	do {
		__atomic_store_n(&vmm->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		if (postern_memory_thread_kick(vmm->waits) == POSTERN_KICK_SIGNAL)
			pthread_kill(vmm->thread, SIGUSR1);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
	} while (sem_timedwait(&vmm->parked, &until) < 0);
}

static void vcpu_resume(struct vmm *vmm)
{
	atomic_store(&vmm->want_pause, false);
	sem_post(&vmm->resumed);
}

/* ---- set-up ---- */

static void memory_open(struct vmm *vmm, const char *way)
{
	const struct postern_memory_range range = {
		POSTERN_GPA(0),
		LOW_BYTES + (vmm->pages * POSTERN_PAGE_BYTES + POSTERN_HUGE_BYTES - 1) /
				    POSTERN_HUGE_BYTES * POSTERN_HUGE_BYTES,
	};
	const struct postern_memory_events events = { .lost = page_lost };
	struct postern_err err;

	if (postern_memory_new(&vmm->mem, &range, 1, &err) < 0 ||
	    postern_memory_watch(vmm->mem, &events, &err) < 0)
		die("guest memory", err.text);
	if (!strcmp(way, "kernel"))
		postern_memory_set_way_out(vmm->mem, POSTERN_WAY_OUT_KERNEL);
	vmm->source.ops = &store_ops;
	postern_memory_attach(vmm->mem, &vmm->source);
}

/*
 * What the VMM itself brings: zeros, code, and page tables that map the first
 * GiB one to one in 2 MiB pages.
 */
static void guest_load(struct vmm *vmm)
{
	uint64_t tables[3 * 512] = { [0] = (TABLES + 0x1000) | 7, [512] = (TABLES + 0x2000) | 7 };
	uint64_t i;

	for (i = 0; i < 512; i++)
		tables[1024 + i] = i << 21 | 0x87;
	if (postern_memory_fill(vmm->mem, POSTERN_GFN(0), LOW_BYTES / POSTERN_PAGE_BYTES, NULL) <
		    0 ||
	    postern_gup_write(vmm->mem, POSTERN_GPA(CODE), guest_start,
			      (size_t)(guest_end - guest_start), 0, NULL) < 0 ||
	    postern_gup_write(vmm->mem, POSTERN_GPA(TABLES), tables, sizeof(tables), 0, NULL) < 0)
		die("loading the guest", "it does not fit");
}

static void vcpu_open(struct vmm *vmm)
{
	struct kvm_segment cs = { .limit = ~0u,
				  .selector = 0x33,
				  .type = 0xb,
				  .present = 1,
				  .dpl = 3,
				  .s = 1,
				  .l = 1,
				  .g = 1 };
	struct kvm_segment ds = { .limit = ~0u,
				  .selector = 0x2b,
				  .type = 0x3,
				  .present = 1,
				  .dpl = 3,
				  .db = 1,
				  .s = 1,
				  .g = 1 };
	struct kvm_regs regs = { .rip = CODE,
				 .rflags = 0x3002,
				 .rsi = LOW_BYTES,
				 .rcx = vmm->pages * 512 };
	const struct postern_memory_region *region;
	struct kvm_sregs sregs;
	unsigned int n, i;
	void *run;

	vmm->kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	vmm->vm = check(ioctl(vmm->kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	region = postern_memory_regions(vmm->mem, &n);
	for (i = 0; i < n; i++) {
		struct kvm_userspace_memory_region slot = {
			.slot = i, .guest_phys_addr = postern_gfn_to_gpa(region[i].first).v,
			.memory_size = region[i].pages * POSTERN_PAGE_BYTES, .userspace_addr = (uintptr_t)region[i].host,
		};
		check(ioctl(vmm->vm, KVM_SET_USER_MEMORY_REGION, &slot),
		      "KVM_SET_USER_MEMORY_REGION");
	}
	vmm->vcpu = check(ioctl(vmm->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	run = mmap(
		NULL,
		(size_t)check(ioctl(vmm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"),
		PROT_READ | PROT_WRITE, MAP_SHARED, vmm->vcpu, 0);
	if (run == MAP_FAILED)
		die("kvm_run", strerror(errno));
	vmm->run = run;
	check(ioctl(vmm->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cr0 = 0x80050033;
	sregs.cr3 = TABLES;
	sregs.cr4 = 0x620;
	sregs.efer = 0x500;
	sregs.cs = cs;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = ds;
	check(ioctl(vmm->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	check(ioctl(vmm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	vmm->waits = postern_memory_thread_new(vmm->mem, "vcpu0", 0);
	if (!vmm->waits)
		die("vCPU", "no memory");
	postern_memory_thread_set_signal(vmm->waits, send_signal, vmm);
}

/* ---- the demonstration ---- */

static void stop_while_it_waits(struct vmm *vmm)
{
	struct postern_memory_waiter waiter;

	while (!postern_memory_waiters(vmm->mem, &waiter, 1))
		usleep(100);
	vcpu_pause(vmm);
	printf("vCPU stopped while it waited for page 0x%" PRIx64 ", which is %s\n", waiter.gpa.v,
	       postern_memory_page_state(vmm->mem, postern_gpa_to_gfn(waiter.gpa)) ==
			       POSTERN_PAGE_PRESENT ?
		       "there" :
		       "not there");
	vcpu_resume(vmm);
	sem_post(&vmm->store_up);
}

/*
 * In this order: the vCPU has ended; nothing is asked any more; no userfaultfd;
 * no VM; no memory.
 */
static void vmm_close(struct vmm *vmm)
{
	postern_memory_detach(vmm->mem);
	close(vmm->pipe[1]);
	pthread_join(vmm->reader, NULL);
	postern_memory_shut(vmm->mem);
	postern_memory_thread_free(vmm->waits);
	close(vmm->vcpu);
	close(vmm->vm);
	close(vmm->kvm);
	postern_memory_free(vmm->mem);
}

static uint64_t file_sum(const struct vmm *vmm)
{
	uint64_t sum = 0, i, words[512];

	for (i = 0; i < vmm->pages; i++) {
		memset(words, 0, sizeof(words));
		check((int)pread(vmm->file, words, sizeof(words), (off_t)(i * sizeof(words))),
		      "reading the file");
		for (size_t w = 0; w < 512; w++)
			sum += words[w];
	}
	return sum;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };	/* no SA_RESTART: KVM_RUN is to come back */
	struct postern_memory_stats stats;
	struct vmm vmm = { 0 };
	struct stat st;
	uint64_t sum;

	if (argc < 2 || argc > 3)
		die("usage", "lazy_file FILE [kernel|eject]");
	vmm.file = check(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
	check(fstat(vmm.file, &st), argv[1]);
	if (st.st_size <= 0 || (uint64_t)st.st_size > FILE_MAX)
		die(argv[1], "a file of 1 byte to 256 MiB is needed");
	vmm.pages = ((uint64_t)st.st_size + POSTERN_PAGE_BYTES - 1) / POSTERN_PAGE_BYTES;
	check(pipe2(vmm.pipe, O_CLOEXEC), "pipe");
	sem_init(&vmm.store_up, 0, 0);
	sem_init(&vmm.parked, 0, 0);
	sem_init(&vmm.resumed, 0, 0);
	check(sigaction(SIGUSR1, &action, NULL), "SIGUSR1");

	memory_open(&vmm, argc == 3 ? argv[2] : "eject");
	vcpu_open(&vmm);
	guest_load(&vmm);
	if (pthread_create(&vmm.reader, NULL, reader_main, &vmm) ||
	    pthread_create(&vmm.thread, NULL, vcpu_main, &vmm))
		die("threads", "they cannot be had");
	stop_while_it_waits(&vmm);
	pthread_join(vmm.thread, NULL);

	postern_memory_stats(vmm.mem, &stats);
	sum = (uint64_t)vmm.half[1] << 32 | vmm.half[0];
	printf("guest's sum %016" PRIx64 ", %" PRIu64 " faults, %" PRIu64 " pages filled, %" PRIu64
	       " ejects: %s\n",
	       sum, stats.faults, stats.filled, stats.ejects,
	       sum == file_sum(&vmm) ? "right" : "WRONG");
	vmm_close(&vmm);
	return sum == file_sum(&vmm) ? 0 : 1;
}
