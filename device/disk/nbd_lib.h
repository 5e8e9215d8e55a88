/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * libnbd, loaded when a disk first needs it: with what it brings (TLS, XML, C++'s runtime) it takes
 * more memory than all the rest of a machine that has no such disk. Main thread.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_LIB_H
#define POSTERN_DEVICE_DISK_NBD_LIB_H

#include <libnbd.h>

#include "base/dynamic.h"

#define NBD_LIB_FUNCTIONS(f)                                                                       \
	f(nbd_create) f(nbd_close) f(nbd_get_error) f(nbd_get_errno)                               \
	f(nbd_set_request_structured_replies) f(nbd_set_pread_initialize) f(nbd_set_export_name)   \
	f(nbd_get_size) f(nbd_get_block_size) f(nbd_is_read_only) f(nbd_can_flush) f(nbd_can_fua)  \
	f(nbd_can_trim) f(nbd_can_zero) f(nbd_aio_connect_socket) f(nbd_aio_disconnect)            \
	f(nbd_aio_get_fd) f(nbd_aio_get_direction) f(nbd_aio_notify_read)                          \
	f(nbd_aio_notify_write) f(nbd_aio_is_ready) f(nbd_aio_is_dead) f(nbd_aio_is_closed)        \
	f(nbd_aio_pread) f(nbd_aio_pwrite) f(nbd_aio_flush) f(nbd_aio_trim) f(nbd_aio_zero)

struct nbd_lib {
	DYNAMIC_TABLE(NBD_LIB_FUNCTIONS)
};

/* As dynamic_load. */
int nbd_lib_load(struct nbd_lib *lib, struct err *err);

#endif
