// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/ctl_text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_KIB 4u
#define BAR 40u		/* characters of the longest bar of a histogram */

const char *ctl_string(const json_t *object, const char *key, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : otherwise;
}

uint64_t ctl_uint(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

void ctl_put(FILE *out, const char *text)
{
	const unsigned char *c;

	for (c = (const unsigned char *)text; *c; c++) {
		if (*c < 0x20 || *c == 0x7f) {
			putc('?', out);
		} else if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) {	/* C1, as UTF-8 has it */
			putc('?', out);
			c++;
		} else {
			putc(*c, out);
		}
	}
}

const char *ctl_bytes(char *text, uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes / 1024.0;
	size_t i = 0;

	if (bytes < 1024) {
		snprintf(text, CTL_BYTES_MAX, "%" PRIu64 " B", bytes);
		return text;
	}
	while (value >= 1024.0 && i < 5) {
		value /= 1024.0;
		i++;
	}
	snprintf(text, CTL_BYTES_MAX, "%.1f %s", value, units[i]);
	return text;
}

const char *ctl_us(char *text, uint64_t us)
{
	if (us < 1000)
		snprintf(text, CTL_BYTES_MAX, "%" PRIu64 " us", us);
	else if (us < 1000000)
		snprintf(text, CTL_BYTES_MAX, "%.1f ms", (double)us / 1e3);
	else
		snprintf(text, CTL_BYTES_MAX, "%.1f s", (double)us / 1e6);
	return text;
}

/* ---- status ---- */

static void put_cpus(FILE *out, const json_t *cpus)
{
	const json_t *cpu, *waits;
	char text[CTL_BYTES_MAX];
	size_t i;

	fprintf(out, "vcpus      %zu\n", json_array_size(cpus));
	json_array_foreach(cpus, i, cpu) {
		waits = json_object_get(json_object_get(cpu, "x-postern"), "waits-for");
		if (json_is_object(waits))
			fprintf(out, "vcpu%" PRIu64 "      waits for page 0x%" PRIx64 ", for %s\n",
				ctl_uint(cpu, "cpu-index"), ctl_uint(waits, "gpa"),
				ctl_us(text, ctl_uint(waits, "since-us")));
	}
}

static void put_pages(FILE *out, const json_t *pages)
{
	uint64_t total = ctl_uint(pages, "total"), present = ctl_uint(pages, "present"),
		 lost = ctl_uint(pages, "lost");
	char all[CTL_BYTES_MAX], here[CTL_BYTES_MAX];

	fprintf(out, "memory     %s", ctl_bytes(all, total * PAGE_KIB << 10));
	if (present < total)
		fprintf(out, ", %s there", ctl_bytes(here, present * PAGE_KIB << 10));
	if (lost)
		fprintf(out, ", %" PRIu64 " pages lost", lost);
	putc('\n', out);
}

void ctl_text_status(FILE *out, const json_t *name, const json_t *status, const json_t *cpus,
		     const json_t *migrate, const json_t *faults)
{
	const char *text = ctl_string(name, "name", NULL);

	if (text) {
		fputs("name       ", out);
		ctl_put(out, text);
		putc('\n', out);
	}
	fputs("status     ", out);
	ctl_put(out, ctl_string(status, "status", "unknown"));
	putc('\n', out);
	if (json_is_array(cpus))
		put_cpus(out, cpus);
	if (json_is_object(json_object_get(faults, "pages")))
		put_pages(out, json_object_get(faults, "pages"));
	if (!strcmp(ctl_string(json_object_get(faults, "source"), "kind", ""), "image")) {
		fputs("source     ", out);
		ctl_text_source(out, faults);
		putc('\n', out);
	}
	fputs("migration  ", out);
	ctl_text_migration(out, migrate);
	putc('\n', out);
	text = ctl_string(migrate, "error-desc", NULL);
	if (text) {
		fputs("error      ", out);
		ctl_put(out, text);
		putc('\n', out);
	}
}

/* ---- migration ---- */

static void put_progress(FILE *out, const json_t *ram, uint64_t rate, bool flows)
{
	uint64_t left = ctl_uint(ram, "remaining"), total = ctl_uint(ram, "total");
	char text[CTL_BYTES_MAX], all[CTL_BYTES_MAX];

	fprintf(out, ", %s of %s left", ctl_bytes(text, left), ctl_bytes(all, total));
	if (!flows)
		return;
	fprintf(out, ", %s/s", ctl_bytes(text, rate));
	if (left && rate)
		fprintf(out, ", %" PRIu64 " s to go", left / rate + (left % rate != 0));
}

void ctl_text_migration(FILE *out, const json_t *migrate)
{
	const json_t *ram = json_object_get(migrate, "ram"),
		     *own = json_object_get(migrate, "postern");
	const char *status = ctl_string(migrate, "status", "none");
	bool flows = !strcmp(status, "postcopy-active") || !strcmp(status, "active");
	uint64_t rate = ctl_uint(own, "bytes-per-second"), recoveries = ctl_uint(own, "recoveries");

	ctl_put(out, status);
	if (!strcmp(status, "none"))
		return;
	if (own)
		fputs(json_is_true(json_object_get(own, "incoming")) ? ", to here" : ", from here",
		      out);
	if (json_is_object(ram) && strcmp(status, "completed") != 0)
		put_progress(out, ram, rate, flows);
	if (!strcmp(status, "completed"))
		fprintf(out, ", %.1f s", (double)ctl_uint(migrate, "total-time") / 1e3);
	if (recoveries == 1)
		fputs(", recovered once", out);
	else if (recoveries)
		fprintf(out, ", recovered %" PRIu64 " times", recoveries);
}

void ctl_text_nothing_to_cancel(FILE *out, const json_t *migrate)
{
	static const char *const over[] = { "completed", "failed", "cancelled" };
	const char *status = ctl_string(migrate, "status", "none");
	size_t i;

	if (!strcmp(status, "none"))
		fputs("nothing to cancel: there is no migration\n", out);
	for (i = 0; i < sizeof(over) / sizeof(over[0]); i++)
		if (!strcmp(status, over[i]))
			fprintf(out, "nothing to cancel: the migration is over (%s)\n", status);
}

/* ---- faults ---- */

static void ctl_text_put_waiters(FILE *out, const json_t *waiters)
{
	char text[CTL_BYTES_MAX];
	const json_t *w;
	size_t i;

	json_array_foreach(waiters, i, w) {
		ctl_put(out, ctl_string(w, "name", "?"));
		fprintf(out, " waits for page 0x%" PRIx64 ", for %s: ", ctl_uint(w, "gpa"),
			ctl_us(text, ctl_uint(w, "since-us")));
		ctl_put(out, ctl_string(w, "page", "?"));
		putc('\n', out);
	}
}

static void put_histogram(FILE *out, const json_t *buckets)
{
	uint64_t most = 0, n;
	char text[CTL_BYTES_MAX];
	const json_t *b;
	size_t i;

	json_array_foreach(buckets, i, b)
		if (ctl_uint(b, "count") > most)
			most = ctl_uint(b, "count");
	json_array_foreach(buckets, i, b) {
		double us = json_number_value(json_object_get(b, "le-us"));

		n = ctl_uint(b, "count");
		fprintf(out, "  up to %9s  %10" PRIu64 "  %.*s\n",
			ctl_us(text, us > 0 && us < 1e15 ? (uint64_t)us : 0), n,
			n ? 1 + (int)((double)n / (double)most * (BAR - 1)) : 0,
			"########################################");
	}
}

static void put_fill(FILE *out, const json_t *source)
{
	char text[CTL_BYTES_MAX];
	uint64_t rate = ctl_uint(source, "rate");

	fputs(", fill ", out);
	ctl_put(out, ctl_string(source, "fill", "?"));
	if (rate)
		fprintf(out, ", %s/s", ctl_bytes(text, rate));
}

/* At the rate at which the fill brings pages lately. */
static void put_fill_left(FILE *out, const json_t *source, uint64_t left)
{
	uint64_t rate = ctl_uint(source, "fill-rate");
	char text[CTL_BYTES_MAX];

	if (!rate || !strcmp(ctl_string(source, "fill", ""), "off"))
		return;
	fprintf(out, ", %s", ctl_us(text, (uint64_t)((double)left * 1e6 / (double)rate)));
	fprintf(out, " at %s/s", ctl_bytes(text, rate));
}

void ctl_text_working_set(FILE *out, const json_t *source)
{
	const json_t *set = json_object_get(source, "working-set");
	uint64_t spans = ctl_uint(set, "spans"), present = ctl_uint(set, "present"),
		 missed = ctl_uint(set, "missed"), hits = present + missed;

	fputs("replay ", out);
	ctl_put(out, ctl_string(set, "replay", "?"));
	if (spans)
		fprintf(out,
			", %" PRIu64 " of %" PRIu64 " spans here, %" PRIu64 " waited for, %" PRIu64
			" touches not among them (%.0f %% of what is known are)",
			present, spans, ctl_uint(set, "asked"), missed,
			hits ? 100.0 * (double)present / (double)hits : 100.0);
	fputs("; record ", out);
	ctl_put(out, ctl_string(set, "record", "?"));
	fprintf(out, ", %" PRIu64 " touches", ctl_uint(set, "touches"));
}

bool ctl_text_source(FILE *out, const json_t *faults)
{
	const json_t *source = json_object_get(faults, "source"),
		     *pages = json_object_get(faults, "pages");
	const char *error = ctl_string(source, "error-desc", NULL);
	char text[CTL_BYTES_MAX];
	uint64_t left;

	if (strcmp(ctl_string(source, "kind", ""), "image"))
		return false;
	left = ctl_uint(pages, "missing") + ctl_uint(pages, "requested") + ctl_uint(pages, "lost");
	fputs("image ", out);
	ctl_put(out, ctl_string(source, "image", "?"));
	fputs(" in ", out);
	ctl_put(out, ctl_string(source, "store", "?"));
	if (!left) {
		fputs(", all is there", out);
		return true;
	}
	fprintf(out, ", %s left", ctl_bytes(text, left * PAGE_KIB << 10));
	put_fill(out, source);
	put_fill_left(out, source, left * PAGE_KIB << 10);
	if (error) {
		fprintf(out,
			"; CANNOT BE READ for %s: ", ctl_us(text, ctl_uint(source, "failing-us")));
		ctl_put(out, error);
	}
	return true;
}

void ctl_text_faults(FILE *out, const json_t *faults)
{
	static const char *const states[] = { "total", "present", "missing", "requested", "lost" };
	const json_t *pages = json_object_get(faults, "pages"),
		     *latency = json_object_get(faults, "latency");
	const json_t *counters = json_object_get(faults, "counters"), *count;
	char p50[CTL_BYTES_MAX], p99[CTL_BYTES_MAX], most[CTL_BYTES_MAX];
	const char *key;
	size_t i;

	ctl_text_put_waiters(out, json_object_get(faults, "vcpus"));
	ctl_text_put_waiters(out, json_object_get(faults, "others"));
	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		fprintf(out, "pages %-12s %" PRIu64 "\n", states[i], ctl_uint(pages, states[i]));
	for (void *at = json_object_iter((json_t *)counters); at;
	     at = json_object_iter_next((json_t *)counters, at)) {
		key = json_object_iter_key(at);
		count = json_object_iter_value(at);
		ctl_put(out, key);
		fprintf(out, "%*s %" JSON_INTEGER_FORMAT "\n",
			strlen(key) < 18 ? 18 - (int)strlen(key) : 0, "",
			json_integer_value(count));
	}
	if (json_object_get(faults, "source")) {
		fputs("source             ", out);
		if (!ctl_text_source(out, faults))
			ctl_put(out, ctl_string(json_object_get(faults, "source"), "kind", "?"));
		putc('\n', out);
	}
	if (json_object_get(json_object_get(faults, "source"), "working-set")) {
		fputs("working set        ", out);
		ctl_text_working_set(out, json_object_get(faults, "source"));
		putc('\n', out);
	}
	fputs("way-out            ", out);
	ctl_put(out, ctl_string(faults, "way-out", "?"));
	fprintf(out, "\nlatency            %" PRIu64 " pages, p50 %s, p99 %s, longest %s\n",
		ctl_uint(latency, "count"), ctl_us(p50, ctl_uint(latency, "p50-us")),
		ctl_us(p99, ctl_uint(latency, "p99-us")),
		ctl_us(most, ctl_uint(latency, "max-us")));
	put_histogram(out, json_object_get(latency, "histogram"));
}

/* ---- events ---- */

static void put_value(FILE *out, const json_t *value)
{
	char *text;

	if (json_is_string(value)) {
		ctl_put(out, json_string_value(value));
		return;
	}
	text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	ctl_put(out, text ? text : "?");
	free(text);
}

void ctl_text_event(FILE *out, const json_t *event)
{
	json_t *stamp = json_object_get(event, "timestamp"), *data = json_object_get(event, "data");
	time_t seconds = (time_t)ctl_uint(stamp, "seconds");
	char when[64] = "?";
	struct tm tm;
	void *at;

	if (gmtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	fprintf(out, "%s.%06" PRIu64 "Z ", when, ctl_uint(stamp, "microseconds") % 1000000);
	ctl_put(out, ctl_string(event, "event", "?"));
	for (at = json_object_iter(data); at; at = json_object_iter_next(data, at)) {
		putc(' ', out);
		ctl_put(out, json_object_iter_key(at));
		putc('=', out);
		put_value(out, json_object_iter_value(at));
	}
	putc('\n', out);
}
