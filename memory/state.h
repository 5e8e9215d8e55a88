/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The byte that is the truth about a page, and every transition of it.
 *
 *   bit 0-1  enum page_state
 *   bit 2    EJECTING  the page's protection is taken away for a moment (eject.c), or its content, being
 *                      PRESENT (discard.c); not to be touched, even when it is
 *                      PRESENT
 *   bit 3    WAITED    somebody waits for it, or has a ticket: who makes it PRESENT must wake them. Stays
 *                      set while the page is missing, so a new source is asked
 *                      for all such pages
 *   bit 4    DIRTY     written through gup, or given up; set when the writer puts the page, not when he gets
 *                      it, and taken by a harvest (dirty.c)
 *   bit 5-7  pins      spans that hold it, 0 to 6; 7: pinned for good (more than 6 at one time). Page-out
 *                      leaves pinned pages alone
 *
 * All transitions are compare-and-swap loops with acquire-release order:
 * PRESENT is stored after the page was copied in, so whoever loads PRESENT sees
 * the data.
 */
#ifndef POSTERN_MEMORY_STATE_H
#define POSTERN_MEMORY_STATE_H

#include <stdatomic.h>

#include "memory/memory.h"

#define STATE_MASK 0x03u
#define STATE_EJECTING 0x04u
#define STATE_WAITED 0x08u
#define STATE_DIRTY 0x10u
#define STATE_PIN_SHIFT 5
#define STATE_PIN_MASK 0xe0u
#define STATE_PIN_MAX 7u

typedef _Atomic uint8_t state_byte;

static inline enum page_state state_of(uint8_t byte)
{
	return (enum page_state)(byte & STATE_MASK);
}

/* May the page be touched now? */
static inline bool state_usable(uint8_t byte)
{
	return (byte & (STATE_MASK | STATE_EJECTING)) == PAGE_PRESENT;
}

static inline uint8_t state_load(state_byte *s)
{
	/* Pairs with the release in state_set_present: PRESENT seen means the data is seen. */
	return atomic_load_explicit(s, memory_order_acquire);
}

/* MISSING -> REQUESTED. True when this call made the change. */
bool state_ask(state_byte *s);
/* REQUESTED -> MISSING: the source is gone. True when this call made the change. */
bool state_unask(state_byte *s);
/*
 * any -> PRESENT, WAITED cleared unless EJECTING (eject's end will wake).
 * Returns the byte before.
 */
uint8_t state_set_present(state_byte *s);
/* PRESENT -> REQUESTED, when nobody holds or ejects it (stage.c, discard.c). True when this call
 * made the change. */
bool state_freeze(state_byte *s);
/*
 * REQUESTED, by state_freeze -> MISSING, DIRTY cleared: its content is gone.
 * Returns the byte before.
 */
uint8_t state_drop(state_byte *s);
/* MISSING, REQUESTED -> LOST. Returns the byte before. */
uint8_t state_set_lost(state_byte *s);
/* any -> LOST: its memory is gone (poison.c). Returns the byte before. */
uint8_t state_poison(state_byte *s);
/* Sets WAITED unless the page is usable. False: it is usable, there is nothing to wait for. */
bool state_set_waited(state_byte *s);
/*
 * As state_set_waited, for a thread inside the kernel: nothing to wait for also
 * when PRESENT and EJECTING.
 */
bool state_set_waited_by_kernel(state_byte *s);
/* Sets EJECTING unless PRESENT. False: PRESENT. */
bool state_start_eject(state_byte *s);
/* Clears EJECTING, and WAITED when PRESENT. Returns the byte before. */
uint8_t state_end_eject(state_byte *s);
/* Sets EJECTING when it is PRESENT and nobody holds or ejects it. True when this call did. */
bool state_start_discard(state_byte *s);
/* As state_end_eject, and sets DIRTY. */
uint8_t state_end_discard(state_byte *s);
/* Takes a pin when the page is usable. Returns the byte before; look with state_usable. */
uint8_t state_pin(state_byte *s);
/*
 * Gives a pin back; dirty: sets DIRTY in the same step, also where pins are not
 * counted any more.
 */
void state_unpin(state_byte *s, bool dirty);
/* Clears DIRTY. True: it was set, and what was written before is seen by this thread. */
bool state_take_dirty(state_byte *s);

#endif
