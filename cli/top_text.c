// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/top_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/ctl_text.h"

#define CELLS_MAX 4096u /* as a server has them; beyond it they are not read */

const char top_legend[] = "memory: # there  + partly there  ? asked for  . missing  ! lost";

struct cell {
	uint64_t looked, present, requested, lost;
};

static uint64_t item(const json_t *map, const char *key, size_t i)
{
	json_int_t value = json_integer_value(json_array_get(json_object_get(map, key), i));

	return value > 0 && value <= UINT32_MAX ? (uint64_t)value : 0;
}

static char letter(const struct cell *cell)
{
	if (cell->lost)
		return '!';
	if (cell->present >= cell->looked)
		return '#';
	if (cell->requested)
		return '?';
	return cell->present ? '+' : '.';
}

char *top_text_map(const json_t *map, unsigned int width)
{
	size_t n = json_array_size(json_object_get(map, "looked")), i, to;
	size_t letters = n < width ? n : width;
	struct cell *cells;
	char *text;

	if (!n || n > CELLS_MAX || !width)
		return NULL;
	cells = calloc(letters, sizeof(*cells));
	text = calloc(letters + 1, 1);
	for (i = 0; cells && text && i < n; i++) {
		to = i * letters / n;
		cells[to].looked += item(map, "looked", i);
		cells[to].present += item(map, "present", i);
		cells[to].requested += item(map, "requested", i);
		cells[to].lost += item(map, "lost", i);
	}
	for (i = 0; cells && text && i < letters; i++)
		text[i] = letter(&cells[i]);
	free(cells);
	return text;
}

uint64_t top_fault_rate(const json_t *before, const json_t *now, int64_t ns)
{
	uint64_t was = ctl_uint(json_object_get(before, "counters"), "faults");
	uint64_t is = ctl_uint(json_object_get(now, "counters"), "faults");

	if (!json_is_object(before) || is < was || ns <= 0)
		return 0;
	return (uint64_t)((double)(is - was) * (double)NS_PER_SEC / (double)ns);
}

/* Each vCPU that waits, and since when. */
static void top_text_put_waiters(FILE *out, const json_t *vcpus)
{
	char text[CTL_BYTES_MAX];
	const json_t *w;
	size_t i;

	json_array_foreach(vcpus, i, w) {
		fputs("  waits    ", out);
		ctl_put(out, ctl_string(w, "name", "?"));
		fprintf(out, " for page 0x%" PRIx64 ", %s, ", ctl_uint(w, "gpa"),
			ctl_us(text, ctl_uint(w, "since-us")));
		ctl_put(out, ctl_string(w, "page", "?"));
		putc('\n', out);
	}
}

/* The histogram's shape: a character a bucket, the denser the more. */
static void put_shape(FILE *out, const json_t *buckets)
{
	static const char shades[] = " .:-=+*#%@";
	uint64_t most = 0, n;
	const json_t *b;
	size_t i;

	json_array_foreach(buckets, i, b)
		if (ctl_uint(b, "count") > most)
			most = ctl_uint(b, "count");
	if (!most)
		return;
	fputs("  [", out);
	json_array_foreach(buckets, i, b) {
		n = ctl_uint(b, "count");
		if (i < 64)
			putc(shades[n ? 1 + (size_t)((double)n / (double)most * 8) : 0], out);
	}
	putc(']', out);
}

static void put_latency(FILE *out, const json_t *latency)
{
	char p50[CTL_BYTES_MAX], p99[CTL_BYTES_MAX], most[CTL_BYTES_MAX];

	if (!ctl_uint(latency, "count"))
		return;
	fprintf(out, "  latency  p50 %s, p99 %s, longest %s",
		ctl_us(p50, ctl_uint(latency, "p50-us")), ctl_us(p99, ctl_uint(latency, "p99-us")),
		ctl_us(most, ctl_uint(latency, "max-us")));
	put_shape(out, json_object_get(latency, "histogram"));
	putc('\n', out);
}

static void put_link(FILE *out, const json_t *migrate)
{
	const char *status = ctl_string(migrate, "status", "none");

	if (!strcmp(status, "none"))
		return;
	fputs("  link     ", out);
	fputs(!strcmp(status, "postcopy-paused")  ? "LOST; " :
	      !strcmp(status, "postcopy-recover") ? "recovering; " :
						    "",
	      out);
	ctl_text_migration(out, migrate);
	putc('\n', out);
}

static void put_source(FILE *out, const json_t *faults)
{
	if (strcmp(ctl_string(json_object_get(faults, "source"), "kind", ""), "image"))
		return;
	fputs("  source   ", out);
	ctl_text_source(out, faults);
	putc('\n', out);
	if (!json_object_get(json_object_get(faults, "source"), "working-set"))
		return;
	fputs("  set      ", out);
	ctl_text_working_set(out, json_object_get(faults, "source"));
	putc('\n', out);
}

void top_text_machine(FILE *out, const json_t *machine, unsigned int width)
{
	const char *error = ctl_string(machine, "error", NULL);
	const json_t *faults = json_object_get(machine, "faults");
	char *map;

	ctl_put(out, ctl_string(machine, "name", "?"));
	fprintf(out, "  pid %" PRIu64 "  ", ctl_uint(machine, "pid"));
	if (error) {
		fputs("no answer: ", out);
		ctl_put(out, error);
		putc('\n', out);
		return;
	}
	ctl_put(out, ctl_string(json_object_get(machine, "status"), "status", "unknown"));
	putc('\n', out);
	map = top_text_map(json_object_get(machine, "map"), width > 14 ? width - 13 : 1);
	if (map)
		fprintf(out, "  memory   [%s]\n", map);
	free(map);
	put_link(out, json_object_get(machine, "migration"));
	put_source(out, faults);
	fprintf(out, "  faults   %" PRIu64 "/s, %" PRIu64 " in all\n",
		ctl_uint(machine, "faults-per-second"),
		ctl_uint(json_object_get(faults, "counters"), "faults"));
	top_text_put_waiters(out, json_object_get(faults, "vcpus"));
	put_latency(out, json_object_get(faults, "latency"));
}
