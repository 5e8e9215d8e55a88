// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * memcheck: a guest program that notices when a page of its memory is not what it wrote.
 *
 * It owns a piece of anonymous memory, cut into one slice a worker. Workers go over their slices in
 * passes. In pass g a worker looks at each page once: every 8-byte word must be what pass g - 1 put
 * there, then the page gets the words of pass g. A word depends on the seed, the pass, the page's
 * address and its place in the page, so that a page that is stale, torn, misplaced or zero is
 * found. Before the first pass a page must hold zeros.
 *
 * The main thread touches none of that memory. Twice a second it prints
 *
 *     memcheck pass=N pages=N errors=N
 *
 * where pass counts the passes that all workers have finished, and pages all pages verified. A
 * wrong page is written anew, and the first of them are shown with the first wrong word:
 *
 *     memcheck ERROR addr=0x... want=0x... got=0x... words=N pass=N gpa=0x...
 *
 * Lines read from the console: "status" is answered with `memcheck status pass=N pages=N errors=N`
 * at once, "quit" with `memcheck quit pass=N pages=N errors=N`, and ends the program: 0 without an
 * error, 1 with.
 *
 * Parameters come from the kernel's command line (or from argv, in the same words):
 *
 *     memcheck.mb=N        size of the memory in MiB (16)
 *     memcheck.workers=N   threads (1)
 *     memcheck.seed=N      (1)
 *     memcheck.rate=N      at most so many MiB a second over all workers (0: no limit)
 *     memcheck.random=1    in each pass the pages come in a scattered order
 *     memcheck.huge=0      no transparent huge pages
 *     memcheck.passes=N    end after so many passes (0: never)
 *     memcheck.spoil=N     pass N writes one wrong word, to see that it is found (0: never)
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE_BYTES = 4096,
	PAGE_WORDS = PAGE_BYTES / 8,
	MAX_WORKERS = 64,
	MAX_MIB = 1 << 20,
	MAX_SHOWN = 20, /* error lines; the count goes on */
	REPORT_MS = 500,
};

struct settings {
	uint64_t mib;
	uint64_t workers;
	uint64_t seed;
	uint64_t rate_mib;
	uint64_t random;
	uint64_t huge;
	uint64_t passes;
	uint64_t spoil;
};

struct worker {
	pthread_t thread;
	const struct settings *settings;
	uint64_t *base;
	uint64_t pages; /* of the slice */
	/* relaxed atomics: counters that the main thread shows, ordered with nothing */
	_Atomic uint64_t passes_done;
	_Atomic uint64_t pages_done;
	_Atomic uint64_t errors;
};

struct totals {
	uint64_t pass, pages, errors;
};

/* The finaliser of splitmix64: every bit of the input changes half of the output. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* Word 0 of a page in a pass; word i is i odd steps further. */
static uint64_t page_first_word(const uint64_t *page, uint64_t pass, uint64_t seed)
{
	return mix(mix((uint64_t)(uintptr_t)page + seed) + pass);
}

static const uint64_t word_step = 0x9e3779b97f4a7c15u;

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Guest physical address behind a pointer, or 0 when the kernel does not tell. */
static uint64_t physical_address(const void *pointer)
{
	uint64_t entry = 0, address = (uint64_t)(uintptr_t)pointer;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (off_t)(address / PAGE_BYTES * 8)) != sizeof(entry))
		entry = 0;
	close(fd);
	return (entry >> 63) ? (entry & ((1ull << 55) - 1)) * PAGE_BYTES + address % PAGE_BYTES : 0;
}

/* Cold: verifies a page again, word by word, and shows the first wrong one. */
static void page_report(struct worker *worker, const uint64_t *page, uint64_t pass)
{
	uint64_t word = page_first_word(page, pass - 1, worker->settings->seed);
	uint64_t want = 0, got = 0, words = 0;
	const uint64_t *bad = page;

	for (int i = 0; i < PAGE_WORDS; i++, word += word_step) {
		uint64_t expected = pass == 1 ? 0 : word;
		uint64_t found = *(const volatile uint64_t *)&page[i];

		if (found == expected)
			continue;
		if (words++ == 0) {
			bad = &page[i];
			want = expected;
			got = found;
		}
	}
	if (atomic_fetch_add_explicit(&worker->errors, 1, memory_order_relaxed) >= MAX_SHOWN)
		return;
	/* words=0: wrong when first read, right when read again */
	printf("memcheck ERROR addr=%p want=0x%" PRIx64 " got=0x%" PRIx64 " words=%" PRIu64
	       " pass=%" PRIu64 " gpa=0x%" PRIx64 "\n",
	       (const void *)bad, want, got, words, pass, physical_address(bad));
}

/* Verifies what the pass before wrote, and writes the words of this pass. */
static void page_turn(struct worker *worker, uint64_t *page, uint64_t pass)
{
	uint64_t seed = worker->settings->seed;
	uint64_t word = page_first_word(page, pass - 1, seed), wrong = 0;

	if (pass == 1) {
		for (int i = 0; i < PAGE_WORDS; i++)
			wrong |= page[i];
	} else {
		for (int i = 0; i < PAGE_WORDS; i++, word += word_step)
			wrong |= page[i] ^ word;
	}
	if (wrong)
		page_report(worker, page, pass);

	word = page_first_word(page, pass, seed);
	for (int i = 0; i < PAGE_WORDS; i++, word += word_step)
		page[i] = word;
	/* or the compiler could keep the words for itself and the check would be of registers */
	__asm__ volatile("" : : : "memory");
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* A stride that visits each of the pages once: 1, or one that has no divisor with their number. */
static uint64_t pass_stride(const struct worker *worker, uint64_t pass)
{
	uint64_t stride;

	if (!worker->settings->random || worker->pages < 2)
		return 1;
	stride = mix(worker->settings->seed + pass) % worker->pages;
	while (stride == 0 || common_divisor(stride, worker->pages) != 1)
		stride = (stride + 1) % worker->pages;
	return stride;
}

/* Sleeps as long as this worker is ahead of its share of the rate. */
static void rate_keep(const struct worker *worker, uint64_t start_us)
{
	const struct settings *settings = worker->settings;
	uint64_t pages = atomic_load_explicit(&worker->pages_done, memory_order_relaxed);
	uint64_t due_us, spent_us;

	if (!settings->rate_mib || pages % 16 != 0)
		return;
	/* 256 pages are a MiB */
	due_us = pages * settings->workers * (1000000u / 256) / settings->rate_mib;
	spent_us = now_us() - start_us;
	if (due_us > spent_us)
		usleep((useconds_t)(due_us - spent_us));
}

static void *worker_run(void *opaque)
{
	struct worker *worker = opaque;
	uint64_t start_us = now_us(), limit = worker->settings->passes;

	for (uint64_t pass = 1; !limit || pass <= limit; pass++) {
		uint64_t stride = pass_stride(worker, pass), at = 0;

		for (uint64_t n = 0; n < worker->pages; n++) {
			page_turn(worker, worker->base + at * PAGE_WORDS, pass);
			at = (at + stride) % worker->pages;
			atomic_fetch_add_explicit(&worker->pages_done, 1, memory_order_relaxed);
			rate_keep(worker, start_us);
		}
		if (pass == worker->settings->spoil)
			worker->base[PAGE_WORDS - 1] ^= 1;
		atomic_store_explicit(&worker->passes_done, pass, memory_order_relaxed);
	}
	return NULL;
}

static struct totals totals_read(struct worker *workers, uint64_t n)
{
	struct totals totals = { .pass = UINT64_MAX };

	for (uint64_t i = 0; i < n; i++) {
		uint64_t pass = atomic_load_explicit(&workers[i].passes_done, memory_order_relaxed);

		if (pass < totals.pass)
			totals.pass = pass;
		totals.pages += atomic_load_explicit(&workers[i].pages_done, memory_order_relaxed);
		totals.errors += atomic_load_explicit(&workers[i].errors, memory_order_relaxed);
	}
	return totals;
}

static void totals_print(const char *what, const struct totals *totals)
{
	printf("memcheck %spass=%" PRIu64 " pages=%" PRIu64 " errors=%" PRIu64 "\n", what,
	       totals->pass, totals->pages, totals->errors);
}

/* One "memcheck.NAME=NUMBER"; words that are not ours are passed over. */
static int setting_parse(struct settings *settings, const char *word)
{
	const struct {
		const char *name;
		uint64_t *value;
		uint64_t min, max;
	} known[] = {
		{ "mb", &settings->mib, 1, MAX_MIB },
		{ "workers", &settings->workers, 1, MAX_WORKERS },
		{ "seed", &settings->seed, 0, UINT64_MAX },
		{ "rate", &settings->rate_mib, 0, MAX_MIB },
		{ "random", &settings->random, 0, 1 },
		{ "huge", &settings->huge, 0, 1 },
		{ "passes", &settings->passes, 0, UINT64_MAX },
		{ "spoil", &settings->spoil, 0, UINT64_MAX },
	};
	const char *name, *equals;

	if (strncmp(word, "memcheck.", 9) != 0)
		return 0;
	name = word + 9;
	equals = strchr(name, '=');
	for (size_t i = 0; equals && i < sizeof(known) / sizeof(known[0]); i++) {
		char *end;
		uint64_t value;

		if (strlen(known[i].name) != (size_t)(equals - name) ||
		    strncmp(known[i].name, name, (size_t)(equals - name)) != 0)
			continue;
		errno = 0;
		value = strtoull(equals + 1, &end, 0);
		if (errno || end == equals + 1 || *end || value < known[i].min ||
		    value > known[i].max)
			break;
		*known[i].value = value;
		return 0;
	}
	printf("memcheck: bad parameter: %s\n", word);
	return -EINVAL;
}

static int settings_read(struct settings *settings, int argc, char **argv)
{
	char line[4096], *save = NULL;
	ssize_t length = 0;
	int fd, r = 0;

	*settings = (struct settings){ .mib = 16, .workers = 1, .seed = 1, .huge = 1 };
	for (int i = 1; i < argc && !r; i++)
		r = setting_parse(settings, argv[i]);
	if (argc > 1)
		return r;

	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	length = read(fd, line, sizeof(line) - 1);
	close(fd);
	line[length > 0 ? length : 0] = '\0';
	for (char *word = strtok_r(line, " \n", &save); word && !r;
	     word = strtok_r(NULL, " \n", &save))
		r = setting_parse(settings, word);
	return r;
}

static int workers_start(struct worker *workers, const struct settings *settings)
{
	uint64_t pages = settings->mib * 256, first = 0;
	void *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	if (!settings->huge)
		madvise(memory, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < settings->workers; i++) {
		uint64_t last = pages * (i + 1) / settings->workers;
		int r;

		workers[i].settings = settings;
		workers[i].base = (uint64_t *)memory + first * PAGE_WORDS;
		workers[i].pages = last - first;
		first = last;
		r = pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]);
		if (r)
			return -r;
	}
	return 0;
}

/* The echo of what is typed would stand between the answers. */
static void console_quieten(void)
{
	struct termios mode;

	if (tcgetattr(STDIN_FILENO, &mode) != 0)
		return;
	mode.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}

/* Reads what is there; returns true when a line said quit. *eof is set at the end of the input. */
static bool console_serve(struct worker *workers, uint64_t n, char *line, size_t *used, size_t size,
			  bool *eof)
{
	ssize_t got = read(STDIN_FILENO, line + *used, size - 1 - *used);
	char *newline;

	if (got <= 0) {
		*eof = got == 0 || (errno != EINTR && errno != EAGAIN);
		return false;
	}
	*used += (size_t)got;
	line[*used] = '\0';
	while ((newline = strpbrk(line, "\r\n"))) {
		struct totals totals = totals_read(workers, n);

		*newline = '\0';
		if (strcmp(line, "quit") == 0)
			return true;
		if (strcmp(line, "status") == 0)
			totals_print("status ", &totals);
		else if (*line)
			printf("memcheck: unknown request: %s\n", line);
		*used -= (size_t)(newline + 1 - line);
		memmove(line, newline + 1, *used + 1);
	}
	if (*used == size - 1)
		*used = 0; /* no line is that long */
	return false;
}

/* Prints and answers until told to quit, or until the last pass. */
static void console_loop(struct worker *workers, const struct settings *settings)
{
	uint64_t due_us = now_us(), n = settings->workers;
	char line[256] = "";
	size_t used = 0;
	bool eof = false, quit = false;

	while (!quit) {
		struct pollfd input = { .fd = eof ? -1 : STDIN_FILENO, .events = POLLIN };
		struct totals totals = totals_read(workers, n);
		uint64_t now = now_us();

		if (settings->passes && totals.pass >= settings->passes)
			return;
		if (now >= due_us) {
			totals_print("", &totals);
			due_us = now + REPORT_MS * 1000u;
		}
		if (poll(&input, 1, (int)((due_us - now) / 1000u) + 1) > 0)
			quit = console_serve(workers, n, line, &used, sizeof(line), &eof);
	}
}

int main(int argc, char **argv)
{
	static struct worker workers[MAX_WORKERS]; /* threads look at them until the end */
	struct settings settings;
	struct totals totals;
	int r;

	setvbuf(stdout, NULL, _IOLBF, 0);
	r = settings_read(&settings, argc, argv);
	if (r)
		return 2;
	console_quieten();
	r = workers_start(workers, &settings);
	if (r) {
		printf("memcheck: cannot start: %s\n", strerror(-r));
		return 2;
	}
	console_loop(workers, &settings);
	totals = totals_read(workers, settings.workers);
	totals_print("quit ", &totals);
	fflush(stdout);
	_exit(totals.errors ? 1 : 0);
}
