// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * serial.c - a 16550A.
 *
 * The transmitter is infinitely fast: a byte written to THR is on the wire when
 * the write returns, so THRE and TEMT always read as set, and each write makes
 * the "transmitter empty" interrupt pending anew. That interrupt has a memory
 * of its own (8.6.3): it becomes pending when a byte has gone out and when its
 * enable bit goes from 0 to 1, and is cleared by an IIR read that reports it or
 * by the next THR write. Linux's 8250 driver tests for just this at start-up.
 *
 * The receiver pushes back: serial_input takes what fits in the FIFO (one byte
 * when the FIFO is off) and nothing in loopback, and once the guest has emptied
 * it the wire is asked for more. The receive time-out interrupt comes without
 * the time-out: as long as there are fewer bytes than the trigger level it is
 * simply there.
 *
 * The interrupt reaches the controller only while MCR's OUT2 is set and
 * loopback is off, as a PC wires it.
 */
#include "device/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/proto.h"
#include "serial.pb-c.h"

#define FIFO_BYTES 16

enum {
	IER_RX = 0x01,
	IER_THRE = 0x02,
	IER_LINE = 0x04,
	IER_MODEM = 0x08,
	IER_ALL = 0x0f,
	IIR_MODEM = 0x00,
	IIR_NONE = 0x01,
	IIR_THRE = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_RX_TIMEOUT = 0x0c,
	IIR_FIFO_ON = 0xc0,
	FCR_ENABLE = 0x01,
	FCR_CLEAR_RX = 0x02,
	FCR_TRIGGER = 0xc0,
	LCR_DLAB = 0x80,
	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08,
	MCR_LOOP = 0x10,
	MCR_ALL = 0x1f,
	LSR_DATA = 0x01,
	LSR_OVERRUN = 0x02,
	LSR_THRE = 0x20,
	LSR_TEMT = 0x40,
	MSR_DCTS = 0x01,
	MSR_DDSR = 0x02,
	MSR_TERI = 0x04,
	MSR_DDCD = 0x08,
	MSR_DELTAS = 0x0f,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
};

#define DIVISOR_9600 12

struct serial_regs {
	uint8_t ier, fcr, lcr, mcr, lsr_errors, msr_deltas, scr;
	uint16_t divisor;
	bool thre_pending;
	uint8_t rx[FIFO_BYTES];
	unsigned int rx_len;
};

struct serial {
	struct irq_line irq;
	struct serial_wire wire;
	pthread_mutex_t lock;	/* guards all below; the wire's and the interrupt controller's locks come after it */
	struct serial_regs r;
	bool level;		/* of the interrupt line, as last set */
	bool refused;		/* serial_input took less than it was offered */
};

static void serial_regs_reset(struct serial_regs *r)
{
	*r = (struct serial_regs){ .divisor = DIVISOR_9600 };
}

static unsigned int rx_capacity(const struct serial_regs *r)
{
	return r->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned int rx_trigger(const struct serial_regs *r)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	return r->fcr & FCR_ENABLE ? level[r->fcr >> 6] : 1;
}

/* The highest pending interrupt that is enabled (table II, interrupt priorities). */
static uint8_t iir_source(const struct serial_regs *r)
{
	if (r->ier & IER_LINE && r->lsr_errors)
		return IIR_LINE;
	if (r->ier & IER_RX && r->rx_len >= rx_trigger(r))
		return IIR_RX;
	if (r->ier & IER_RX && r->rx_len)
		return IIR_RX_TIMEOUT;
	if (r->ier & IER_THRE && r->thre_pending)
		return IIR_THRE;
	if (r->ier & IER_MODEM && r->msr_deltas)
		return IIR_MODEM;
	return IIR_NONE;
}

static void irq_update(struct serial *s)
{
	bool level =
		(s->r.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && iir_source(&s->r) != IIR_NONE;

	if (level == s->level)
		return;
	s->level = level;
	irq_line_set(&s->irq, level);
}

/* Modem inputs: all wired to "ready" outside, MCR's own outputs in loopback (8.7.5). */
static uint8_t modem_lines(const struct serial_regs *r)
{
	uint8_t lines = 0;

	if (!(r->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (r->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (r->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (r->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (r->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void rx_push(struct serial_regs *r, uint8_t byte)
{
	if (r->rx_len < rx_capacity(r)) {
		r->rx[r->rx_len++] = byte;
		return;
	}
	r->lsr_errors |= LSR_OVERRUN;
	/* Without a FIFO the new byte overwrites the old one (8.4.2). */
	if (!(r->fcr & FCR_ENABLE))
		r->rx[0] = byte;
}

static uint8_t rx_pop(struct serial *s)
{
	struct serial_regs *r = &s->r;
	uint8_t byte = r->rx[0];

	if (!r->rx_len)
		return 0;
	r->rx_len--;
	memmove(r->rx, r->rx + 1, r->rx_len);
	return byte;
}

/* Asks for more once the FIFO is empty, so that it is filled in one go and not byte by byte. */
static void rx_invite(struct serial *s)
{
	if (!s->refused || s->r.rx_len || s->r.mcr & MCR_LOOP)
		return;
	s->refused = false;
	s->wire.accept_input(s->wire.arg);
}

static void thr_write(struct serial *s, uint8_t byte)
{
	if (s->r.mcr & MCR_LOOP)
		rx_push(&s->r, byte);
	else
		s->wire.output(s->wire.arg, &byte, 1);
	s->r.thre_pending = true;
}

static void ier_write(struct serial_regs *r, uint8_t value)
{
	value &= IER_ALL;
	if (value & ~r->ier & IER_THRE)
		r->thre_pending = true;
	r->ier = value;
}

static void fcr_write(struct serial_regs *r, uint8_t value)
{
	/* Turning the FIFOs on or off empties them (8.5). */
	if ((value ^ r->fcr) & FCR_ENABLE || value & FCR_CLEAR_RX)
		r->rx_len = 0;
	r->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
}

static void mcr_write(struct serial_regs *r, uint8_t value)
{
	uint8_t before = modem_lines(r), changed;

	r->mcr = value & MCR_ALL;
	changed = before ^ modem_lines(r);
	if (changed & MSR_CTS)
		r->msr_deltas |= MSR_DCTS;
	if (changed & MSR_DSR)
		r->msr_deltas |= MSR_DDSR;
	/* The ring indicator counts only its trailing edge. */
	if (changed & before & MSR_RI)
		r->msr_deltas |= MSR_TERI;
	if (changed & MSR_DCD)
		r->msr_deltas |= MSR_DDCD;
}

static uint8_t iir_read(struct serial_regs *r)
{
	uint8_t source = iir_source(r);

	if (source == IIR_THRE)
		r->thre_pending = false;
	return source | (r->fcr & FCR_ENABLE ? IIR_FIFO_ON : 0);
}

static uint8_t lsr_read(struct serial_regs *r)
{
	uint8_t lsr = LSR_THRE | LSR_TEMT | r->lsr_errors | (r->rx_len ? LSR_DATA : 0);

	r->lsr_errors = 0;
	return lsr;
}

static uint8_t serial_msr_read(struct serial_regs *r)
{
	uint8_t msr = modem_lines(r) | r->msr_deltas;

	r->msr_deltas = 0;
	return msr;
}

static uint8_t reg_read(struct serial *s, unsigned int reg)
{
	struct serial_regs *r = &s->r;
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case 0:
		return dlab ? (uint8_t)r->divisor : rx_pop(s);
	case 1:
		return dlab ? (uint8_t)(r->divisor >> 8) : r->ier;
	case 2:
		return iir_read(r);
	case 3:
		return r->lcr;
	case 4:
		return r->mcr;
	case 5:
		return lsr_read(r);
	case 6:
		return serial_msr_read(r);
	default:
		return r->scr;
	}
}

static void reg_write(struct serial *s, unsigned int reg, uint8_t value)
{
	struct serial_regs *r = &s->r;
	bool dlab = r->lcr & LCR_DLAB;

	switch (reg) {
	case 0:
		if (dlab)
			r->divisor = (uint16_t)((r->divisor & 0xff00) | value);
		else
			thr_write(s, value);
		break;
	case 1:
		if (dlab)
			r->divisor = (uint16_t)((r->divisor & 0xff) | value << 8);
		else
			ier_write(r, value);
		break;
	case 2:
		fcr_write(r, value);
		break;
	case 3:
		r->lcr = value;
		break;
	case 4:
		mcr_write(r, value);
		break;
	case 7:
		r->scr = value;
		break;
	}
}

void serial_access(void *serial, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct serial *s = serial;

	(void)size;
	pthread_mutex_lock(&s->lock);
	if (write) {
		/*
		 * A THR write is seen as "busy" for no time at all: an edge for
		 * each byte all the same.
		 */
		if (offset == 0 && !(s->r.lcr & LCR_DLAB)) {
			s->r.thre_pending = false;
			irq_update(s);
		}
		reg_write(s, (unsigned int)offset & 7, *data);
	} else {
		*data = reg_read(s, (unsigned int)offset & 7);
	}
	irq_update(s);
	rx_invite(s);
	pthread_mutex_unlock(&s->lock);
}

size_t serial_input(struct serial *s, const uint8_t *data, size_t len)
{
	size_t taken = 0;

	pthread_mutex_lock(&s->lock);
	if (!(s->r.mcr & MCR_LOOP))
		while (taken < len && s->r.rx_len < rx_capacity(&s->r))
			rx_push(&s->r, data[taken++]);
	s->refused = taken < len;
	irq_update(s);
	pthread_mutex_unlock(&s->lock);
	return taken;
}

int serial_new(struct serial **out, const struct irq_line *irq, const struct serial_wire *wire,
	       struct err *err)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, -ENOMEM, "no memory for the serial port");
	pthread_mutex_init(&s->lock, NULL);
	s->irq = *irq;
	s->wire = *wire;
	serial_regs_reset(&s->r);
	*out = s;
	return 0;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void serial_reset(void *dev)
{
	struct serial *s = dev;

	pthread_mutex_lock(&s->lock);
	serial_regs_reset(&s->r);
	irq_update(s);
	rx_invite(s);
	pthread_mutex_unlock(&s->lock);
}

static int serial_save(void *dev, struct buf *out, struct err *err)
{
	Postern__Device__SerialState msg = POSTERN__DEVICE__SERIAL_STATE__INIT;
	struct serial *s = dev;
	struct serial_regs r;
	uint8_t *to;

	pthread_mutex_lock(&s->lock);
	r = s->r;
	pthread_mutex_unlock(&s->lock);
	msg.ier = r.ier;
	msg.fcr = r.fcr;
	msg.lcr = r.lcr;
	msg.mcr = r.mcr;
	msg.lsr_errors = r.lsr_errors;
	msg.msr_deltas = r.msr_deltas;
	msg.scr = r.scr;
	msg.divisor = r.divisor;
	msg.thre_pending = r.thre_pending;
	msg.rx.data = r.rx;
	msg.rx.len = r.rx_len;
	to = buf_reserve(out, postern__device__serial_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the serial port's state");
	out->len += postern__device__serial_state__pack(&msg, to);
	return 0;
}

static int regs_from(struct serial_regs *r, const Postern__Device__SerialState *msg,
		     struct err *err)
{
	if (msg->ier & ~(uint32_t)IER_ALL || msg->mcr & ~(uint32_t)MCR_ALL || msg->lcr > 0xff ||
	    msg->scr > 0xff || msg->divisor > 0xffff || msg->lsr_errors & ~(uint32_t)LSR_OVERRUN ||
	    msg->msr_deltas & ~(uint32_t)MSR_DELTAS)
		return err_set(err, -EINVAL, "a register has bits that do not exist");
	if (msg->fcr & ~(uint32_t)(FCR_ENABLE | FCR_TRIGGER) ||
	    (msg->fcr && !(msg->fcr & FCR_ENABLE)))
		return err_set(err, -EINVAL, "FIFO control is 0x%x", msg->fcr);
	*r = (struct serial_regs){
		.ier = (uint8_t)msg->ier, .fcr = (uint8_t)msg->fcr, .lcr = (uint8_t)msg->lcr,
		.mcr = (uint8_t)msg->mcr, .lsr_errors = (uint8_t)msg->lsr_errors,
		.msr_deltas = (uint8_t)msg->msr_deltas, .scr = (uint8_t)msg->scr,
		.divisor = (uint16_t)msg->divisor, .thre_pending = msg->thre_pending,
	};
	if (msg->rx.len > rx_capacity(r))
		return err_set(err, -EINVAL, "%zu received bytes, at most %u fit", msg->rx.len,
			       rx_capacity(r));
	if (msg->rx.len)
		memcpy(r->rx, msg->rx.data, msg->rx.len);
	r->rx_len = (unsigned int)msg->rx.len;
	return 0;
}

static int serial_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__SerialState *msg = proto_unpack(&postern__device__serial_state__descriptor,
							 data, len, PROTO_FIELDS_MAX, err);
	struct serial *s = dev;
	struct serial_regs r;
	int ret;

	if (!msg)
		return -EINVAL;
	ret = regs_from(&r, msg, err);
	postern__device__serial_state__free_unpacked(msg, NULL);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	s->r = r;
	/*
	 * Make the line what the state says, whatever it was: low first, so
	 * that a pending interrupt is an edge.
	 */
	s->level = false;
	irq_line_set(&s->irq, false);
	irq_update(s);
	rx_invite(s);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

const struct device_ops serial_device_ops = {
	.name = "serial",
	.version = 1,
	.save = serial_save,
	.load = serial_load,
	.reset = serial_reset,
};
