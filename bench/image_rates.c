// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * image_rates.c - `image_rates FILE [LEVEL]`: what images cost, one line a
 * figure ("name value"), measured over the pages of FILE (a guest's memory,
 * raw), one thread. What a guest's memory is decides everything here, so there
 * is no made-up default.
 *
 * 	zero_share			of the pages
 * 	zstd_SPAN_gbs, zstd_SPAN_ratio	bare libzstd, spans of so many KiB, zero pages left out: GB/s in, bytes in / out
 * 	frame_SPAN_p50_us, _p99_us	one frame decoded, bare libzstd: what the first page of a span waits for
 * 	page_sum_gbs			xxh3 of each page
 * 	write_gbs, write_ratio		image_writer_span to a store that takes everything and keeps it in memory
 * 	read_gbs			image_read of all of it, in order
 * 	read_p50_us, read_p99_us	image_read of single pages, at random, none of their frames cached
 *
 * Figures of libzstd and of images are of the same run, and all are of the
 * thread's CPU time, so that they can be compared on a busy machine as well.
 * What threads of the writer's own do (packs are written by them) is not in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/clock.h"
#include "base/page.h"
#include "image/image.h"
#include "image/sum.h"
#include "image/writer.h"
#include "toy_store.h"

#define SPAN_MAX 64
#define READS 4000

static uint8_t *memory;
static uint64_t pages;

/* Of this thread: others of a busy machine are not measured. */
static int64_t cpu_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

_Noreturn static void die(const char *what, const char *why)
{
	fprintf(stderr, "image_rates: %s: %s\n", what, why);
	exit(1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double gb_per_second(uint64_t bytes, int64_t start_ns)
{
	return (double)bytes / (double)(cpu_now_ns() - start_ns);
}

static void print_percentiles(const char *name, double *values, size_t n)
{
	qsort(values, n, sizeof(*values), by_value);
	printf("%s_p50_us %.1f\n%s_p99_us %.1f\n", name, values[n / 2], name, values[n * 99 / 100]);
}

static void load(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t at;

	if (fd < 0 || fstat(fd, &st))
		die(path, strerror(errno));
	pages = (uint64_t)st.st_size / HUGE_BYTES * HUGE_PAGES;
	if (!pages)
		die(path, "has less than 2 MiB");
	memory = page_buffer_new(pages * PAGE_BYTES);
	if (!memory)
		die(path, "no memory");
	for (at = 0; at < pages * PAGE_BYTES;) {
		ssize_t n = pread(fd, memory + at, pages * PAGE_BYTES - at, (off_t)at);

		if (n <= 0)
			die(path, "cannot be read");
		at += (uint64_t)n;
	}
	close(fd);
}

/* ---- bare libzstd ---- */

struct frame {
	size_t at, stored, len;
};

/* A span's nonzero pages, next to each other. */
static size_t gather(uint64_t first, unsigned int span, uint8_t *out)
{
	size_t len = 0;
	unsigned int i;

	for (i = 0; i < span; i++)
		if (!page_is_zero(memory + (first + i) * PAGE_BYTES)) {
			memcpy(out + len, memory + (first + i) * PAGE_BYTES, PAGE_BYTES);
			len += PAGE_BYTES;
		}
	return len;
}

static void zstd_decode(unsigned int span, const uint8_t *packed, const struct frame *frames,
			size_t n)
{
	static uint8_t out[SPAN_MAX * PAGE_BYTES];
	double *us = calloc(n + 1, sizeof(*us));
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	char name[32];
	size_t i;

	for (i = 0; i < n; i++) {
		int64_t start = cpu_now_ns();

		if (ZSTD_decompressDCtx(zstd, out, frames[i].len, packed + frames[i].at,
					frames[i].stored) != frames[i].len)
			die("zstd", "did not bring back what it was given");
		us[i] = (double)(cpu_now_ns() - start) / 1000;
	}
	snprintf(name, sizeof(name), "frame_%u", span * 4);
	print_percentiles(name, us, n);
	ZSTD_freeDCtx(zstd);
	free(us);
}

static void zstd_rates(unsigned int span, int level)
{
	static uint8_t gathered[SPAN_MAX * PAGE_BYTES];
	size_t bound = ZSTD_compressBound(sizeof(gathered)), n = 0, at = 0;
	struct frame *frames = calloc(pages / span, sizeof(*frames));
	uint8_t *packed = page_buffer_new(pages * PAGE_BYTES + bound * 2);
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint64_t in = 0, first;
	int64_t start;

	memset(packed, 1, pages * PAGE_BYTES);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, level);
	start = cpu_now_ns();
	for (first = 0; first < pages; first += span) {
		size_t len = gather(first, span, gathered);

		if (!len)
			continue;
		frames[n] =
			(struct frame){ at, ZSTD_compress2(zstd, packed + at, bound, gathered, len),
					len };
		in += len;
		at += frames[n++].stored;
	}
	printf("zstd_%u_gbs %.3f\nzstd_%u_ratio %.3f\n", span * 4, gb_per_second(in, start),
	       span * 4, (double)in / (double)at);
	zstd_decode(span, packed, frames, n);
	ZSTD_freeCCtx(zstd);
	page_buffer_free(packed, pages * PAGE_BYTES + bound * 2);
	free(frames);
}

/* ---- images ---- */

static void sum_rate(void)
{
	int64_t start = cpu_now_ns();
	uint64_t all = 0, i;

	for (i = 0; i < pages; i++)
		all ^= sum_page(memory + i * PAGE_BYTES);
	printf("page_sum_gbs %.3f\n", gb_per_second(pages * PAGE_BYTES, start));
	if (all == 1)
		puts(""); /* so that it is not optimised away */
}

static uint64_t write_rate(struct store *store, int level)
{
	struct image_writer_config config = { .level = level };
	struct image_writer_stats stats;
	struct image_writer *writer;
	struct err err;
	uint64_t first;
	int64_t start;

	strcpy(config.machine.architecture, "x86_64");
	config.machine.cpus = 1;
	config.machine.ranges[0].len_bytes = pages * PAGE_BYTES;
	config.machine.n_ranges = 1;
	if (image_writer_new(&writer, store, NULL, "rates", &config, &err))
		die("writer", err.text);
	start = cpu_now_ns();
	for (first = 0; first < pages; first += IMAGE_SPAN_PAGES)
		if (image_writer_span(writer, GFN(first),
				      (uint32_t)((UINT64_C(1) << IMAGE_SPAN_PAGES) - 1),
				      memory + first * PAGE_BYTES, &err))
			die("writer", err.text);
	if (image_writer_finish(writer, &err))
		die("writer", err.text);
	image_writer_stats(writer, &stats);
	printf("write_gbs %.3f\nwrite_ratio %.3f\n",
	       gb_per_second(stats.data_pages * PAGE_BYTES, start),
	       (double)stats.data_pages * PAGE_BYTES / (double)stats.stored_bytes);
	image_writer_free(writer);
	return stats.data_pages;
}

static struct image *open_image(struct store *store)
{
	struct image *image;
	struct err err;

	if (image_open(&image, store, NULL, "rates", NULL, &err))
		die("reader", err.text);
	return image;
}

static void read_rate(struct store *store, uint64_t data_pages)
{
	struct image *image = open_image(store);
	uint8_t *data = page_buffer_new(HUGE_BYTES);
	int64_t start = cpu_now_ns();
	struct err err;
	uint64_t at = 0;
	bool zero;

	while (at < pages) {
		int64_t n =
			image_read(image, GFN(at), HUGE_PAGES - at % HUGE_PAGES, data, &zero, &err);

		if (n < 0)
			die("reader", err.text);
		at += (uint64_t)n;
	}
	printf("read_gbs %.3f\n", gb_per_second(data_pages * PAGE_BYTES, start));
	page_buffer_free(data, HUGE_BYTES);
	image_free(image);
}

static void read_latency(struct store *store)
{
	struct image *image = open_image(store);
	static uint8_t data[PAGE_BYTES];
	static double us[READS];
	uint64_t x = 88172645463325252u;
	unsigned int n = 0, tries = 0;
	struct err err;
	bool zero;

	/* Leaves are read once; so that frames are what is measured. */
	while (n < READS && tries++ < 100 * READS) {
		struct image_stats before, after;
		int64_t start;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		image_stats(image, &before);
		start = cpu_now_ns();
		if (image_read(image, GFN(x % pages), 1, data, &zero, &err) < 0)
			die("reader", err.text);
		us[n] = (double)(cpu_now_ns() - start) / 1000;
		image_stats(image, &after);
		n += after.frames > before.frames && after.leaves == before.leaves;
	}
	if (n)
		print_percentiles("read", us, n);
	image_free(image);
}

int main(int argc, char **argv)
{
	int level = argc > 2 ? atoi(argv[2]) : 1;
	struct toy_store *toy;
	struct store *store;
	uint64_t zero = 0, i;
	unsigned int span;

	if (argc < 2 || argc > 3 || level < 1 || level > 19)
		die("usage", "image_rates FILE [LEVEL]");
	load(argv[1]);
	for (i = 0; i < pages; i++)
		zero += page_is_zero(memory + i * PAGE_BYTES);
	printf("pages %llu\nzero_share %.3f\nlevel %d\n", (unsigned long long)pages,
	       (double)zero / (double)pages, level);
	for (span = 16; span <= SPAN_MAX; span *= 2)
		zstd_rates(span, level);
	sum_rate();
	toy = toy_store_new();
	store = toy_store(toy);
	i = write_rate(store, level);
	read_rate(store, i);
	read_latency(store);
	toy_store_free(toy);
	return 0;
}
