// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_guest.c - `floors serve KERNEL MIB SERIAL-FD`: the bare guest on one
 * vCPU, its serial port on a connected socket, its work area over raw
 * userfaultfd. Whoever speaks to it there measures a floor with the same
 * commands as a migration.
 *
 * Lines on standard input, each answered by one line:
 *
 * 	late local|tcp BASE PAGES	the pages from guest address BASE on are taken away	ok
 * 	count				ok <pages asked for> <messages that asked>
 * 	whole				all pages are there, on huge pages			ok
 * 	place VCPU HANDLER SERVER	a CPU for each of the three, -1: any			ok
 *
 * Ends at the end of its input.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/ram.h"
#include "floors.h"
#include "memory/eject.h"

#define COM1 0x3f8
#define COM1_IIR (COM1 + 2)
#define COM1_LSR (COM1 + 5)
#define IIR_FIFO_NOTHING_PENDING 0xc1
#define LSR_DATA 0x01
#define LSR_IDLE 0x60
#define PAUSE_MS 5000

/* As much of a serial port as the bare guest uses; on the vCPU's thread alone. */
struct port {
	int fd;
	uint8_t in[256];
	size_t in_at, in_len;
	uint8_t out[4096];
	size_t out_len;
};

struct floor_guest {
	struct memory *mem;
	struct vm *vm;
	struct port port;
	struct floor_fetch *fetch;
};

static bool port_has(struct port *port)
{
	ssize_t n;

	if (port->in_at < port->in_len)
		return true;
	n = recv(port->fd, port->in, sizeof(port->in), MSG_DONTWAIT);
	port->in_at = 0;
	port->in_len = n > 0 ? (size_t)n : 0;
	return n > 0;
}

static uint8_t port_read(struct port *port, uint16_t number)
{
	switch (number) {
	case COM1:
		return port_has(port) ? port->in[port->in_at++] : 0;
	case COM1_IIR:
		return IIR_FIFO_NOTHING_PENDING;
	case COM1_LSR:
		return LSR_IDLE | (port_has(port) ? LSR_DATA : 0);
	}
	return 0xff;
}

/* By lines: what the guest says between two touches must not cost it a system call a character. */
static void port_write(struct port *port, uint16_t number, uint8_t value)
{
	if (number != COM1)
		return;
	port->out[port->out_len++] = value;
	if (value != '\n' && port->out_len < sizeof(port->out))
		return;
	if (!floor_send(port->fd, port->out, port->out_len))
		_exit(0);
	port->out_len = 0;
}

static void on_pio(void *arg, uint16_t number, bool write, void *data, unsigned int size)
{
	struct floor_guest *guest = arg;
	uint8_t *byte = data;

	if (!write)
		memset(data, 0xff, size);
	if (write)
		port_write(&guest->port, number, *byte);
	else
		*byte = port_read(&guest->port, number);
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)arg, (void)gpa;
	if (!write)
		memset(data, 0xff, len);
}

static void on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	(void)arg, (void)vcpu;
	fprintf(stderr, "floors: the guest has stopped: %s\n", event->text);
	_exit(1);
}

static const struct vm_exit_ops ops = { on_pio, on_mmio, on_event };

static void guest_start(struct floor_guest *guest, const char *kernel, uint64_t bytes)
{
	struct arch_boot_config config = { .cpus = 1 };
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	struct ram_file file;
	struct arch_boot boot;
	struct err err;
	unsigned int n;

	if (arch_memory_layout(bytes, ranges, &n, &err) < 0 ||
	    memory_new(&guest->mem, ranges, n, &err) < 0 ||
	    vm_new(&guest->vm, NULL, guest->mem, 1, &ops, guest, &err) < 0 ||
	    ram_file_open(&file, kernel, &err) < 0)
		floor_die_err(&err);
	config.kernel = &file;
	if (arch_boot_load(&boot, &config, guest->mem, &err) < 0 ||
	    vm_boot(guest->vm, &boot, &err) < 0)
		floor_die_err(&err);
	ram_file_close(&file);
	/* Missing pages come from our own handler, whatever the kernel's way out. */
	memory_set_way_out(guest->mem, WAY_OUT_KERNEL);
	vm_resume(guest->vm);
}

/* Where guest address base lies in this process; ends it when there are no such pages. */
static uint8_t *guest_host(struct floor_guest *guest, uint64_t base, uint64_t pages)
{
	const struct memory_region *regions;
	unsigned int n;

	regions = memory_regions(guest->mem, &n);
	if (base % PAGE_BYTES || !memory_is_ram(guest->mem, GPA(base), pages * PAGE_BYTES) ||
	    base / PAGE_BYTES >= regions[0].pages) {
		errno = EINVAL;
		floor_die("late: not the guest's memory");
	}
	return regions[0].host + base;
}

static void guest_pause(struct floor_guest *guest)
{
	struct err err;

	if (vm_pause(guest->vm, PAUSE_MS, &err) < 0)
		floor_die_err(&err);
}

static bool command(struct floor_guest *guest, const char *line)
{
	unsigned long long base, pages;
	int vcpu_cpu, handler_cpu, server_cpu;
	uint64_t came, messages;
	char from[8];

	if (sscanf(line, "late %7s %llu %llu", from, &base, &pages) == 3) {
		guest_pause(guest);
		floor_fetch_late(guest->fetch, guest_host(guest, base, pages), pages,
				 !strcmp(from, "tcp"));
		vm_resume(guest->vm);
		puts("ok");
	} else if (!strcmp(line, "count\n")) {
		floor_fetch_count(guest->fetch, &came, &messages);
		printf("ok %llu %llu\n", (unsigned long long)came, (unsigned long long)messages);
	} else if (!strcmp(line, "whole\n")) {
		guest_pause(guest);
		floor_fetch_whole(guest->fetch);
		vm_resume(guest->vm);
		puts("ok");
	} else if (sscanf(line, "place %d %d %d", &vcpu_cpu, &handler_cpu, &server_cpu) == 3) {
		floor_place(vcpu_tid(vm_vcpu(guest->vm, 0)), vcpu_cpu);
		floor_fetch_place(guest->fetch, handler_cpu, server_cpu);
		puts("ok");
	} else {
		return false;
	}
	return true;
}

int floor_serve(int argc, char **argv)
{
	static struct floor_guest guest;
	uint64_t bytes = strtoull(argv[2], NULL, 10) << 20;
	char line[128];

	(void)argc;
	guest.port.fd = atoi(argv[3]);
	/* The server process is forked before there are threads. */
	guest.fetch = floor_fetch_new(bytes);
	guest_start(&guest, argv[1], bytes);
	while (fgets(line, sizeof(line), stdin))
		if (!command(&guest, line)) {
			fprintf(stderr, "floors: what is %s", line);
			return 2;
		}
	/* No orderly end: nothing outlives the process. */
	_exit(0);
}
