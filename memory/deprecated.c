// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Functions of the library by the names that they had in 0.1: a program that
// was written for those builds and runs with one release more. Each goes with
// its declaration, and with its line in tests/abi/libpostern.symbols.
#include "memory/eject.h"

void memory_thread_set_nudge(struct memory_thread *thread, void (*send_signal)(void *arg),
			     void *arg)
{
	memory_thread_set_signal(thread, send_signal, arg);
}

void memory_thread_sit_out(struct memory_thread *thread)
{
	memory_thread_wait_page(thread);
}

void memory_set_stray(struct memory *mem, enum memory_stray what)
{
	_Static_assert((int)MEMORY_STRAY_ABORT == (int)MEMORY_DIRECT_ACCESS_ABORT, "same values");
	memory_set_direct_access(mem, (enum memory_direct_access)what);
}
