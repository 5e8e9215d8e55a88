// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "memory/state.h"

#include <assert.h>

/*
 * Success publishes what was done before and sees what others published; a
 * failed try only looks again.
 */
static bool state_cas(state_byte *s, uint8_t *old, uint8_t new)
{
	return atomic_compare_exchange_weak_explicit(s, old, new, memory_order_acq_rel,
						     memory_order_acquire);
}

static uint8_t state_with(uint8_t byte, enum page_state state)
{
	return (uint8_t)((byte & ~STATE_MASK) | state);
}

bool state_ask(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_of(old) != PAGE_MISSING)
			return false;
	} while (!state_cas(s, &old, state_with(old, PAGE_REQUESTED)));
	return true;
}

bool state_unask(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_of(old) != PAGE_REQUESTED)
			return false;
	} while (!state_cas(s, &old, state_with(old, PAGE_MISSING)));
	return true;
}

uint8_t state_set_present(state_byte *s)
{
	uint8_t old = state_load(s), new;

	do {
		new = state_with(old, PAGE_PRESENT);
		if (!(old & STATE_EJECTING))
			new &= (uint8_t)~STATE_WAITED;
	} while (!state_cas(s, &old, new));
	return old;
}

bool state_freeze(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if ((old & (STATE_MASK | STATE_EJECTING | STATE_PIN_MASK)) != PAGE_PRESENT)
			return false;
	} while (!state_cas(s, &old, state_with(old, PAGE_REQUESTED)));
	return true;
}

uint8_t state_drop(state_byte *s)
{
	uint8_t old = state_load(s), new;

	do {
		new = (uint8_t)(old & ~STATE_DIRTY);
		if (state_of(old) == PAGE_REQUESTED)
			new = state_with(new, PAGE_MISSING);
	} while (!state_cas(s, &old, new));
	return old;
}

uint8_t state_set_lost(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_of(old) == PAGE_PRESENT || state_of(old) == PAGE_LOST)
			return old;
	} while (!state_cas(s, &old, state_with(old, PAGE_LOST)));
	return old;
}

uint8_t state_poison(state_byte *s)
{
	uint8_t old = state_load(s);

	while (!state_cas(s, &old, state_with(old, PAGE_LOST)))
		;
	return old;
}

bool state_set_waited(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_usable(old))
			return false;
	} while (!state_cas(s, &old, (uint8_t)(old | STATE_WAITED)));
	return true;
}

bool state_set_waited_by_kernel(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_of(old) == PAGE_PRESENT)
			return false;
	} while (!state_cas(s, &old, (uint8_t)(old | STATE_WAITED)));
	return true;
}

bool state_start_eject(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if (state_of(old) == PAGE_PRESENT && !(old & STATE_EJECTING))
			return false;
	} while (!state_cas(s, &old, (uint8_t)(old | STATE_EJECTING)));
	return true;
}

bool state_start_discard(state_byte *s)
{
	uint8_t old = state_load(s);

	do {
		if ((old & (STATE_MASK | STATE_EJECTING | STATE_PIN_MASK)) != PAGE_PRESENT)
			return false;
	} while (!state_cas(s, &old, (uint8_t)(old | STATE_EJECTING)));
	return true;
}

/* Clears EJECTING, and WAITED when PRESENT; sets the bits of `set`. */
static uint8_t state_end(state_byte *s, uint8_t set)
{
	uint8_t old = state_load(s), new;

	do {
		new = (uint8_t)((old & ~STATE_EJECTING) | set);
		if (state_of(old) == PAGE_PRESENT)
			new &= (uint8_t)~STATE_WAITED;
	} while (!state_cas(s, &old, new));
	return old;
}

uint8_t state_end_eject(state_byte *s)
{
	return state_end(s, 0);
}

uint8_t state_end_discard(state_byte *s)
{
	return state_end(s, STATE_DIRTY);
}

uint8_t state_pin(state_byte *s)
{
	uint8_t old = state_load(s), new;

	do {
		if (!state_usable(old))
			return old;
		new = old;
		if ((old >> STATE_PIN_SHIFT) < STATE_PIN_MAX)
			new = (uint8_t)(new + (1u << STATE_PIN_SHIFT));
	} while (!state_cas(s, &old, new));
	return old;
}

void state_unpin(state_byte *s, bool dirty)
{
	uint8_t old = state_load(s), new;

	do {
		assert(old >> STATE_PIN_SHIFT);
		new = (uint8_t)(old | (dirty ? STATE_DIRTY : 0));
		if ((old >> STATE_PIN_SHIFT) < STATE_PIN_MAX)
			new = (uint8_t)(new - (1u << STATE_PIN_SHIFT));
		/*
		 * A writer's step is never left out: it orders what he wrote
		 * before whoever takes the mark.
		 */
	} while ((dirty || new != old) && !state_cas(s, &old, new));
}

bool state_take_dirty(state_byte *s)
{
	/* Acquire: whoever copies the page next sees what was written before the mark. */
	return atomic_fetch_and_explicit(s, (uint8_t)~STATE_DIRTY, memory_order_acq_rel) &
	       STATE_DIRTY;
}
