// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A kernel without io_uring, as containers and administrators have it: linked with
// --wrap=io_uring_queue_init.
#include <errno.h>
#include <liburing.h>

int __wrap_io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags);

int __wrap_io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags)
{
	(void)entries;
	(void)ring;
	(void)flags;
	return -EPERM;
}
