/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * librados, loaded when a store in a Ceph cluster is first opened: machines without one carry none
 * of it. Its functions are those that Ceph 16 has.
 */
#ifndef POSTERN_STORE_RADOS_LIB_H
#define POSTERN_STORE_RADOS_LIB_H

#include <rados/librados.h>

#include "base/dynamic.h"

/* clang-format off */
#define RADOS_LIB_FUNCTIONS(f) \
	f(rados_create2) \
	f(rados_conf_read_file) \
	f(rados_conf_parse_env) \
	f(rados_conf_set) \
	f(rados_conf_get) \
	f(rados_connect) \
	f(rados_shutdown) \
	f(rados_ioctx_create) \
	f(rados_ioctx_destroy) \
	f(rados_ioctx_set_namespace) \
	f(rados_nobjects_list_open) \
	f(rados_nobjects_list_next2) \
	f(rados_nobjects_list_close) \
	f(rados_getxattr) \
	f(rados_stat) \
	f(rados_remove) \
	f(rados_aio_create_completion2) \
	f(rados_aio_get_return_value) \
	f(rados_aio_get_version) \
	f(rados_aio_release) \
	f(rados_aio_read) \
	f(rados_aio_remove) \
	f(rados_aio_cancel) \
	f(rados_create_write_op) \
	f(rados_release_write_op) \
	f(rados_write_op_create) \
	f(rados_write_op_assert_version) \
	f(rados_write_op_write_full) \
	f(rados_write_op_setxattr) \
	f(rados_write_op_rmxattr) \
	f(rados_write_op_remove) \
	f(rados_aio_write_op_operate) \
	f(rados_create_read_op) \
	f(rados_release_read_op) \
	f(rados_read_op_stat) \
	f(rados_read_op_getxattrs) \
	f(rados_aio_read_op_operate) \
	f(rados_getxattrs_next) \
	f(rados_getxattrs_end)
/* clang-format on */

struct rados_lib {
	DYNAMIC_TABLE(RADOS_LIB_FUNCTIONS)
};

/*
 * Loads it once a process; *out stays valid. Any thread. -ENOSYS: it is not there, or too old; the
 * error says what to install.
 */
int rados_lib_load(const struct rados_lib **out, struct err *err);

#endif
