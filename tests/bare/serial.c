// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * serial.c - the bare guest's serial port, polled.
 *
 * A port access leaves the guest, which can cost as much as 78 us, so the transmitter is
 * asked for room once for each 16 characters, the depth of its FIFO, and not for each.
 */
#include "guest.h"

#define COM1 0x3f8
#define COM1_IIR_FCR (COM1 + 2)
#define COM1_LSR (COM1 + 5)
#define LSR_DATA 0x01
#define LSR_ROOM 0x20

static unsigned int fifo_depth = 1;
static unsigned int room;

void serial_init(void)
{
	outb(COM1_IIR_FCR, 0x07);
	fifo_depth = (inb(COM1_IIR_FCR) & 0xc0) == 0xc0 ? 16 : 1;
	room = 0;
}

int serial_get(void)
{
	uint8_t lsr = inb(COM1_LSR);

	/* 0xff: nobody at that port */
	if (lsr == 0xff || !(lsr & LSR_DATA))
		return -1;
	return inb(COM1);
}

bool serial_idle(void)
{
	if (inb(COM1_LSR) & LSR_ROOM)
		room = fifo_depth;
	else
		return false;
	return true;
}

void serial_putc(char c)
{
	while (!room)
		if (!serial_idle())
			relax();
	outb(COM1, (uint8_t)c);
	room--;
}

void serial_puts(const char *s)
{
	while (*s)
		serial_putc(*s++);
}

void serial_num(uint64_t v)
{
	char digits[20];
	int n = 0;

	do {
		digits[n++] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (n)
		serial_putc(digits[--n]);
}

void serial_hex(uint64_t v)
{
	int shift = 60;

	serial_puts("0x");
	while (shift && !(v >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		serial_putc("0123456789abcdef"[v >> shift & 15]);
}
