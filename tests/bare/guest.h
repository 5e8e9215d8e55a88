// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * guest.h - what the bare guest's own files share: port I/O, clock, and who does what.
 *
 * There is no lock. cpu 0 writes struct bare_cfg and bumps cfg.seq; each cpu notices, takes
 * the order up and writes its own struct bare_stats. x86 keeps stores in order, so the
 * atomics below only have to hold the compiler.
 */
#ifndef POSTERN_TESTS_BARE_GUEST_H
#define POSTERN_TESTS_BARE_GUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "bare.h"

extern struct bare_cfg cfg;
extern struct bare_stats stats[BARE_MAX_CPUS];

#define READ(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define WRITE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* The reset control register of a PC (Intel 82371AB and later chipsets). */
#define RESET_PORT 0xcf9
#define RESET_SYSTEM 0x02
#define RESET_CPU 0x04

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0,%1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint64_t tsc(void)
{
	uint32_t a, d;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(a), "=d"(d) : : "memory");
	return (uint64_t)d << 32 | a;
}

static inline void relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* serial.c: the 16550 at 0x3f8, polled; cpu 0 only. */
void serial_init(void);
int serial_get(void);		/* the next character, or -1 */
bool serial_idle(void);		/* a short line can be sent without a wait */
void serial_putc(char c);
void serial_puts(const char *s);
void serial_num(uint64_t v);
void serial_hex(uint64_t v);

/* walk.c: the work area. */
void walk_accept(unsigned int cpu);	/* take up what cfg asks for */
void walk_step(unsigned int cpu);	/* one touch, or one page */
uint64_t walk_share(unsigned int cpu);	/* pages that 'a' touches on this cpu */
uint64_t *walk_page(uint64_t page);

/* command.c: cpu 0 only. */
void command_poll(uint64_t now);
void command_info(const char *prefix);

/* main.c; the compiler may ask for the first two */
void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
void gap_skip(void);		/* cpu 0: what happened up to now is no gap */

#endif
