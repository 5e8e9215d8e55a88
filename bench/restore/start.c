// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * start.c - how long a machine takes from the start of its process to its
 * guest's first instruction, when nothing of its RAM is there yet; what it
 * takes then, and how long its end takes. Beside it the floor, in turns: a
 * program that makes a VM and memory slots of the same size, and nothing else,
 * since no VMM can be without these.
 *
 * 	start [--rounds N] [--cpus N] [--way auto|kernel|eject] SIZE...	such as 1G 8G 64G 1T
 * 	start --marks SIZE		one start, with where its time goes
 *
 * The machine is the product's, made as for a guest that comes: all its threads
 * and devices, one source of pages that computes them. The guest's first
 * instruction reads a page that is missing; the source notes when it is asked
 * for it, so the figure includes the way there. Every start is a process of its
 * own; its time begins before it is made.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/mark.h"
#include "base/size.h"
#include "machine/machine.h"
#include "source/worker.h"

#define ROUNDS_MAX 1000
#define CODE_PAGES 16u			/* of the guest's first instructions, as arch_probe_load wants them */
#define TOUCH GPA(0x100000)
#define NEVER 60			/* s until a guest that does not start is given up */

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "start: %s\n", what);
	exit(1);
}

/* What a child tells. */
struct told {
	int64_t first_ns, end_ns;	/* since the start of its process; end: since it was told to */
	int64_t kib;			/* resident, page tables included */
};

/* ---- the child: one start ---- */

static int64_t kib_of(const char *name)
{
	char line[128];
	long long kib = 0;
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			kib = strtoll(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static void tell(int64_t first_ns, int64_t end_ns, int64_t kib)
{
	printf("%" PRId64 " %" PRId64 " %" PRId64 "\n", first_ns, end_ns, kib);
	fflush(stdout);
}

static int floor_main(uint64_t bytes, int64_t begun)
{
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	unsigned long type;
	unsigned int i, n;
	struct err err;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;
	int64_t first, end;

	if (kvm < 0 || arch_memory_layout(bytes, ranges, &n, &err) < 0 ||
	    arch_vm_type(kvm, NULL, GPA(ranges[n - 1].base.v + ranges[n - 1].len_bytes), &type,
			 &err) < 0)
		die(kvm < 0 ? "no /dev/kvm" : err.text);
	vm = ioctl(kvm, KVM_CREATE_VM, type);
	for (i = 0; i < n; i++) {
		void *host = mmap(NULL, ranges[i].len_bytes, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		struct kvm_userspace_memory_region slot = {
			.slot = i, .guest_phys_addr = ranges[i].base.v,
			.memory_size = ranges[i].len_bytes, .userspace_addr = (uintptr_t)host,
		};

		if (host == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			die("a memory slot of the floor");
	}
	first = clock_now_ns() - begun;
	end = clock_now_ns();
	close(vm);
	tell(first, clock_now_ns() - end, kib_of("VmRSS:") + kib_of("VmPTE:"));
	return 0;
}

struct first {
	sem_t asked;
	int64_t at_ns;
};

static int64_t toy_read(void *arg, gfn_t gfn, uint64_t n, void *data, bool *zero)
{
	struct first *first = arg;

	(void)n, (void)data;
	*zero = true;
	if (gfn.v == gpa_to_gfn(TOUCH).v && !first->at_ns) {
		first->at_ns = clock_now_ns();
		sem_post(&first->asked);
	}
	return 1;
}

static struct worker *source_new(struct machine *machine, struct first *first)
{
	const struct worker_config config = {
		.read = toy_read, .arg = first, .urgent_threads = 1, .urgent_pages = 1,
	};
	struct worker *worker;
	struct err err;

	if (worker_new(&worker, &config, machine_memory(machine), &err) < 0 ||
	    worker_start(worker, &err) < 0)
		die(err.text);
	memory_attach(machine_memory(machine), worker_source(worker));
	return worker;
}

static int machine_main(const struct machine_config *config, int64_t begun)
{
	struct first first = { 0 };
	struct arch_boot boot;
	struct machine *machine;
	struct worker *worker;
	struct timespec until;
	struct loop *loop;
	int64_t end, kib;
	struct err err;

	sem_init(&first.asked, 0, 0);
	if (loop_new(&loop, &err) < 0 || machine_new(&machine, loop, config, &err) < 0)
		die(err.text);
	worker = source_new(machine, &first);
	mark_time("source");
	memory_fill(machine_memory(machine), GFN(0), CODE_PAGES, NULL);
	if (arch_probe_load(&boot, machine_memory(machine), TOUCH, &err) < 0 ||
	    vm_boot(machine_vm(machine), &boot, &err) < 0)
		die(err.text);
	mark_time("state");
	if (machine_leave_migrate(machine, true, &err) < 0)
		die(err.text);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += NEVER;
	while (sem_timedwait(&first.asked, &until) < 0)
		if (errno != EINTR)
			die("the guest does not start");
	mark_time("the guest's first page");
	kib = kib_of("VmRSS:") + kib_of("VmPTE:");
	end = clock_now_ns();
	memory_detach(machine_memory(machine));
	if (machine_free(machine) < 0)
		die("a vCPU does not come out");
	worker_free(worker);
	tell(first.at_ns - begun, clock_now_ns() - end, kib);
	_exit(0);
}

/* ---- the parent ---- */

struct plan {
	const char *self;
	unsigned int rounds;
	const char *cpus, *way;
	bool marks;
};

static struct told start_one(const struct plan *plan, const char *who, const char *size)
{
	char begun[32], *argv[] = { (char *)plan->self,
				    (char *)who,
				    (char *)size,
				    (char *)plan->cpus,
				    (char *)plan->way,
				    begun,
				    plan->marks ? (char *)"marks" : NULL,
				    NULL };
	posix_spawn_file_actions_t actions;
	struct told told;
	int pipes[2], status;
	pid_t pid;
	FILE *f;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		die("pipe");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
	snprintf(begun, sizeof(begun), "%" PRId64, clock_now_ns());
	if (posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ))
		die("posix_spawn");
	close(pipes[1]);
	posix_spawn_file_actions_destroy(&actions);
	f = fdopen(pipes[0], "r");
	if (!f || fscanf(f, "%" SCNd64 "%" SCNd64 "%" SCNd64, &told.first_ns, &told.end_ns,
			 &told.kib) != 3)
		die("a start that did not tell");
	fclose(f);
	if (waitpid(pid, &status, 0) != pid || status)
		die("a start that failed");
	return told;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void show(const char *size, const char *what, int64_t *values, unsigned int n, double unit)
{
	unsigned int half = n / 2, most = n * 9 / 10;

	qsort(values, n, sizeof(*values), compare);
	printf("%-6s %-34s %9.2f %9.2f %9.2f %9.2f\n", size, what, (double)values[0] / unit,
	       (double)values[half] / unit, (double)values[most] / unit,
	       (double)values[n - 1] / unit);
}

/* Each round's machine beside the floor just before it. */
static void compare_size(const struct plan *plan, const char *size)
{
	static int64_t floor_ns[ROUNDS_MAX], first_ns[ROUNDS_MAX], more_ns[ROUNDS_MAX],
		end_ns[ROUNDS_MAX], kib[ROUNDS_MAX];
	struct told told;
	unsigned int i;

	for (i = 0; i < plan->rounds; i++) {
		floor_ns[i] = start_one(plan, "--floor", size).first_ns;
		told = start_one(plan, "--machine", size);
		first_ns[i] = told.first_ns;
		more_ns[i] = first_ns[i] - floor_ns[i];
		end_ns[i] = told.end_ns;
		kib[i] = told.kib;
	}
	show(size, "floor: a VM and its slots, ms", floor_ns, plan->rounds, NS_PER_MS);
	show(size, "first instruction, ms", first_ns, plan->rounds, NS_PER_MS);
	show(size, "  above the floor, ms", more_ns, plan->rounds, NS_PER_MS);
	show(size, "end, ms", end_ns, plan->rounds, NS_PER_MS);
	show(size, "resident, MiB", kib, plan->rounds, 1024);
	fflush(stdout);
}

static enum way_out way_of(const char *text)
{
	return !strcmp(text, "kernel") ? WAY_OUT_KERNEL :
	       !strcmp(text, "eject")  ? WAY_OUT_EJECT :
					 WAY_OUT_AUTO;
}

static int child(int argc, char **argv)
{
	struct machine_config config = {
		.starts_inmigrate = true, .ram_is_late = true, .disks_elsewhere = true, .loads_no_kernel = true,
	};
	int64_t begun;

	if (argc > 6) {
		log_set_level(LOG_DEBUG);
		mark_time("process");
	} else {
		log_set_level(LOG_WARN);
	}
	if (size_parse(&config.memory_bytes, argv[2]) < 0)
		die("a size such as 64G is expected");
	config.cpus = (unsigned int)strtoul(argv[3], NULL, 10);
	config.way_out = way_of(argv[4]);
	begun = strtoll(argv[5], NULL, 10);
	return !strcmp(argv[1], "--floor") ? floor_main(config.memory_bytes, begun) :
					     machine_main(&config, begun);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' }, { "cpus", required_argument, NULL, 'c' },
		{ "way", required_argument, NULL, 'w' }, { "marks", no_argument, NULL, 'm' }, { NULL, 0, NULL, 0 },
	};
	struct plan plan = { .self = argv[0], .rounds = 15, .cpus = "1", .way = "auto" };
	int option;

	if (argc >= 6 && (!strcmp(argv[1], "--floor") || !strcmp(argv[1], "--machine")))
		return child(argc, argv);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'r')
			plan.rounds = (unsigned int)strtoul(optarg, NULL, 10);
		else if (option == 'c')
			plan.cpus = optarg;
		else if (option == 'w')
			plan.way = optarg;
		else if (option == 'm')
			plan.marks = true;
		else
			return 2;
	}
	if (optind == argc || !plan.rounds || plan.rounds > ROUNDS_MAX)
		die("which sizes? 1 to 1000 rounds");
	if (plan.marks) {
		start_one(&plan, "--machine", argv[optind]);
		return 0;
	}
	printf("%u rounds, %s vCPUs, way out: %s\n%-6s %-34s %9s %9s %9s %9s\n", plan.rounds,
	       plan.cpus, plan.way, "RAM", "", "least", "median", "90 %", "most");
	for (; optind < argc; optind++)
		compare_size(&plan, argv[optind]);
	return 0;
}
