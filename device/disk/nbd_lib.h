/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * libnbd, loaded when a disk first needs it: with what it brings (TLS, XML, C++'s runtime) it takes
 * more memory than all the rest of a machine that has no such disk.
 *
 * Each function is libnbd's (libnbd(3)) without the nbd_ of its name. Main thread.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_LIB_H
#define POSTERN_DEVICE_DISK_NBD_LIB_H

#include <libnbd.h>

#include "base/err.h"

#define NBD_LIB_FUNCTIONS(f)                                                                      \
	f(create) f(close) f(get_error) f(get_errno) f(set_request_structured_replies)            \
	f(set_pread_initialize) f(set_export_name) f(get_size) f(get_block_size) f(is_read_only)  \
	f(can_flush) f(can_fua) f(can_trim) f(can_zero) f(aio_connect_socket) f(aio_disconnect)   \
	f(aio_get_fd) f(aio_get_direction) f(aio_notify_read) f(aio_notify_write)                 \
	f(aio_is_ready) f(aio_is_dead) f(aio_is_closed) f(aio_pread) f(aio_pwrite) f(aio_flush)   \
	f(aio_trim) f(aio_zero)

struct nbd_lib {
#define NBD_LIB_MEMBER(name) typeof(nbd_##name) *name;
	NBD_LIB_FUNCTIONS(NBD_LIB_MEMBER)
#undef NBD_LIB_MEMBER
};

/* -ENOSYS: it is not there, or too old; the error says what to install. It stays loaded. */
int nbd_lib_load(struct nbd_lib *lib, struct err *err);

#endif
