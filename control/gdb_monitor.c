// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// gdb's "monitor" commands (qRcmd): which pages are missing, and who waits for
// them. All answer at once: a page table is walked with GUP_NOWAIT.
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "control/gdb_internal.h"

#define COMMAND_MAX 128
#define TEXT_MAX ((size_t)4096)
#define WAITERS_MAX (VM_VCPUS_MAX + 32u)

/* Text that grows up to TEXT_MAX. */
struct text {
	char bytes[TEXT_MAX];
	size_t len;
};

static void monitor_add(struct text *text, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void monitor_add(struct text *text, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text->bytes + text->len, TEXT_MAX - text->len, fmt, args);
	va_end(args);
	text->len += (size_t)n < TEXT_MAX - text->len ? (size_t)n : TEXT_MAX - text->len - 1;
}

static const char *page_text(struct memory *mem, gpa_t gpa)
{
	switch (memory_page_state(mem, gpa_to_gfn(gpa))) {
	case PAGE_MISSING:
		return "missing, and not asked for";
	case PAGE_REQUESTED:
		return "missing, and asked for";
	case PAGE_PRESENT:
		return "present";
	case PAGE_LOST:
		break;
	}
	return "lost: the source does not have it";
}

static int64_t ms_since(int64_t ns)
{
	return (clock_now_ns() - ns) / NS_PER_MS;
}

void gdb_note_waits(struct gdb *gdb)
{
	struct memory_waiter waiters[WAITERS_MAX];
	unsigned int i, n = memory_waiters(gdb->mem, waiters, WAITERS_MAX);

	memset(gdb->waited, 0, sizeof(gdb->waited));
	for (i = 0; i < n; i++)
		if (waiters[i].cpu >= 0 && waiters[i].cpu < VM_VCPUS_MAX)
			gdb->waited[waiters[i].cpu] = (struct gdb_waited){
				.waited = true,
				.gpa = waiters[i].gpa,
				.ms = ms_since(waiters[i].since_ns),
			};
}

void gdb_thread_text(struct gdb *gdb, unsigned int index, char *text, size_t bytes)
{
	const struct gdb_waited *waited = &gdb->waited[index];

	if (waited->waited && vcpu_is_parked(vm_vcpu(gdb->vm, index))) {
		snprintf(text, bytes,
			 "vCPU %u, waits for page 0x%" PRIx64 ", %" PRId64 " ms when stopped",
			 index, waited->gpa.v, waited->ms);
		return;
	}
	snprintf(text, bytes, "vCPU %u, %s", index,
		 vcpu_is_parked(vm_vcpu(gdb->vm, index)) ? "stopped" : "runs");
}

static void mon_help(struct gdb *gdb, unsigned int cpu, const char *args, struct text *text)
{
	(void)gdb;
	(void)cpu;
	(void)args;
	monitor_add(text, "help             this\n"
		  "status           the machine's state and its pages\n"
		  "faults           who waits for which page, and since when\n"
		  "missing          why the last access to memory failed\n"
		  "missing ADDRESS  is the page at this virtual address there?\n");
}

static void mon_status(struct gdb *gdb, unsigned int cpu, const char *args, struct text *text)
{
	struct memory_stats stats;

	(void)cpu;
	(void)args;
	memory_stats(gdb->mem, &stats);
	monitor_add(text, "machine: %s\n", run_state_name(machine_state(gdb->machine)));
	monitor_add(text,
		    "pages: %" PRIu64 ", not there %" PRIu64 ", asked for %" PRIu64
		    ", lost %" PRIu64 "\n",
		    stats.pages, stats.missing, stats.requested, stats.lost);
}

static void mon_faults(struct gdb *gdb, unsigned int cpu, const char *args, struct text *text)
{
	struct memory_waiter waiters[WAITERS_MAX];
	unsigned int i, n = memory_waiters(gdb->mem, waiters, WAITERS_MAX);

	(void)cpu;
	(void)args;
	for (i = 0; i < vm_vcpus(gdb->vm); i++) {
		if (!gdb->waited[i].waited)
			continue;
		monitor_add(text,
			    "vcpu%u was stopped in its wait for page 0x%" PRIx64 ", after %" PRId64
			    " ms (%s)\n",
			    i, gdb->waited[i].gpa.v, gdb->waited[i].ms,
			    page_text(gdb->mem, gdb->waited[i].gpa));
	}
	for (i = 0; i < n; i++)
		monitor_add(text, "%s waits for page 0x%" PRIx64 " since %" PRId64 " ms (%s)\n",
			    waiters[i].name, waiters[i].gpa.v, ms_since(waiters[i].since_ns),
			    page_text(gdb->mem, waiters[i].gpa));
	if (!text->len)
		monitor_add(text, "nobody waits for a page\n");
}

/* Translates by the current vCPU's page tables, and tells of the page. */
static void report_page(struct gdb *gdb, unsigned int cpu, gva_t gva, struct text *text)
{
	struct vcpu_parked *vcpu = vcpu_hold(vm_vcpu(gdb->vm, cpu), NULL);
	struct gup_opts opts = { 0 };
	struct arch_mmu mmu;
	uint64_t left;
	gpa_t gpa;
	int r;

	if (!vcpu) {
		monitor_add(text, "vCPU %u runs\n", cpu);
		return;
	}
	r = arch_mmu_get(vcpu, &mmu, NULL);
	vcpu_release(vcpu);
	if (r == 0)
		r = arch_translate(gdb->mem, &mmu, gva, GUP_NOWAIT, &opts, &gpa, &left);
	if (r == -EAGAIN)
		monitor_add(text,
			    "0x%" PRIx64
			    ": a page of the page tables is missing; it is asked for\n",
			    gva.v);
	else if (r == -EIO)
		monitor_add(text, "0x%" PRIx64 ": a page of the page tables is lost\n", gva.v);
	else if (r < 0)
		monitor_add(text, "0x%" PRIx64 ": not mapped\n", gva.v);
	else if (!memory_is_ram(gdb->mem, gpa, 1))
		monitor_add(text, "0x%" PRIx64 ": physical 0x%" PRIx64 ", not RAM\n", gva.v, gpa.v);
	else
		monitor_add(text, "0x%" PRIx64 ": physical 0x%" PRIx64 ", the page is %s\n", gva.v,
			    gpa.v, page_text(gdb->mem, gpa));
}

static void mon_missing(struct gdb *gdb, unsigned int cpu, const char *args, struct text *text)
{
	unsigned long long value;
	char *end;

	if (!*args) {
		monitor_add(text, "%s\n",
			    gdb->missing[0] ? gdb->missing : "no access to memory has failed");
		return;
	}
	errno = 0;
	value = strtoull(args, &end, 0);
	if (errno || *end || end == args)
		monitor_add(text, "missing: '%s' is not an address\n", args);
	else
		report_page(gdb, cpu, GVA(value), text);
}

static const struct monitor_command {
	const char *name;
	void (*run)(struct gdb *gdb, unsigned int cpu, const char *args, struct text *text);
} commands[] = {
	{ "help", mon_help },
	{ "status", mon_status },
	{ "faults", mon_faults },
	{ "missing", mon_missing },
};

static void run_command(struct gdb_client *client, char *line, struct text *text)
{
	char *args = line + strcspn(line, " \t");
	size_t i, end = strlen(line);

	while (end && strchr(" \t\n", line[end - 1]))
		line[--end] = '\0';
	if (*args) {
		*args++ = '\0';
		args += strspn(args, " \t");
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(line, commands[i].name)) {
			commands[i].run(client->gdb, client->thread, args, text);
			return;
		}
	monitor_add(text, "'%s' is not known; try \"monitor help\"\n", line);
}

void gdb_monitor(struct gdb_client *client, const char *hex)
{
	char line[COMMAND_MAX + 1];
	struct text *text;
	size_t n = strlen(hex) / 2;
	struct buf out = { 0 };

	if (n > COMMAND_MAX || strlen(hex) % 2 || !gdb_hex_decode(hex, (uint8_t *)line, n)) {
		gdb_reply(client, "E%02x", EINVAL);
		return;
	}
	line[n] = '\0';
	text = calloc(1, sizeof(*text));
	if (!text) {
		gdb_reply(client, "E%02x", ENOMEM);
		return;
	}
	run_command(client, line, text);
	if (gdb_hex_append(&out, text->bytes, text->len) == 0)
		gdb_reply_bytes(client, out.data, out.len);
	buf_fini(&out);
	free(text);
}
