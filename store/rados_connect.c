// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The connection to a Ceph cluster. rados_connect waits for a monitor, so it has a thread of its own
 * for each attempt, which holds a reference of the store: a store that is freed meanwhile does not
 * wait for it. An attempt ends by itself, librados' own timeouts see to that; they are whole
 * seconds, and the deadlines of requests are not theirs but those of the layers above.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "store/rados_internal.h"

/* Seconds. The last is for LIST, which nothing but this ends where the cluster hangs. */
#define CONNECT_TIMEOUT "15"
#define MONITOR_TIMEOUT "15"
#define OSD_TIMEOUT "120"

/* What its own limits would have us wait for in the middle of a call is limited in rados.c. */
static const char *const settings[][2] = {
	{ "client_mount_timeout", CONNECT_TIMEOUT },
	{ "rados_mon_op_timeout", MONITOR_TIMEOUT },
	{ "rados_osd_op_timeout", OSD_TIMEOUT },
	{ "objecter_inflight_ops", "65536" },
	{ "objecter_inflight_op_bytes", "8589934592" },
	/* Errors are told where they are seen. */
	{ "log_to_stderr", "false" },
	{ "err_to_stderr", "false" },
	{ "mon_cluster_log_to_stderr", "false" },
};

static int set(const struct rados_store *rs, rados_t cluster, const char *name, const char *value,
	       struct err *err)
{
	int r = rs->lib->rados_conf_set(cluster, name, value);

	return r < 0 ? err_errno(err, r, "librados does not take %s = %s", name, value) : 0;
}

static int read_conf(const struct rados_store *rs, rados_t cluster, struct err *err)
{
	int r = rs->lib->rados_conf_read_file(cluster, *rs->conf ? rs->conf : NULL);

	/* Who says where the monitors are needs no file. */
	if (r == -ENOENT && !*rs->conf && *rs->mon_host)
		return 0;
	if (r < 0)
		return err_errno(err, r,
				 "cannot read Ceph's configuration %s (conf=PATH, or "
				 "mon_host=ADDRESSES)",
				 *rs->conf ? rs->conf : "/etc/ceph/ceph.conf");
	return 0;
}

static int configure(const struct rados_store *rs, rados_t cluster, struct err *err)
{
	int r = read_conf(rs, cluster, err);
	size_t i;

	/* CEPH_ARGS, as all of Ceph's programs. */
	if (!r && rs->lib->rados_conf_parse_env(cluster, NULL) < 0)
		r = err_set(err, -EINVAL, "the environment's CEPH_ARGS is not well-formed");
	for (i = 0; !r && i < sizeof(settings) / sizeof(settings[0]); i++)
		r = set(rs, cluster, settings[i][0], settings[i][1], err);
	if (!r && *rs->mon_host)
		r = set(rs, cluster, "mon_host", rs->mon_host, err);
	if (!r && *rs->keyring)
		r = set(rs, cluster, "keyring", rs->keyring, err);
	return r;
}

static int connect_refused(const struct rados_store *rs, int r, struct err *err)
{
	switch (r) {
	case -ETIMEDOUT:
		return err_set(err, -EAGAIN, "none of the cluster's monitors answers");
	case -EACCES:
	case -EPERM:
		return err_set(err, -EACCES, "the cluster does not accept client.%s's key", rs->id);
	case -ENOENT:
	case -ENOTSUP:
		return err_set(err, -EACCES,
			       "there is no key for client.%s: give a keyring (keyring=PATH in "
			       "the URL, or a file of credentials)",
			       rs->id);
	default:
		return err_errno(err, r, "cannot connect to the cluster");
	}
}

static int open_pool(const struct rados_store *rs, rados_t cluster, rados_ioctx_t *io,
		     struct err *err)
{
	int r = rs->lib->rados_ioctx_create(cluster, rs->pool, io);

	if (r == -ETIMEDOUT)
		return err_set(err, -EAGAIN, "the cluster does not answer (ceph -s)");
	if (r == -ENOENT)
		return err_set(err, -ENOENT, "the cluster has no pool %s (ceph osd pool ls)",
			       rs->pool);
	if (r < 0)
		return err_errno(err, r, "cannot open the pool %s", rs->pool);
	if (*rs->space)
		rs->lib->rados_ioctx_set_namespace(*io, rs->space);
	return 0;
}

static int connect_all(const struct rados_store *rs, rados_t *cluster, rados_ioctx_t *io,
		       struct err *err)
{
	char name[sizeof(rs->id) + 8];
	int r;

	snprintf(name, sizeof(name), "client.%s", rs->id);
	r = rs->lib->rados_create2(cluster, "ceph", name, 0);
	if (r < 0)
		return err_errno(err, r, "librados does not start");
	r = configure(rs, *cluster, err);
	if (!r) {
		r = rs->lib->rados_connect(*cluster);
		r = r < 0 ? connect_refused(rs, r, err) : open_pool(rs, *cluster, io, err);
	}
	if (r < 0)
		rs->lib->rados_shutdown(*cluster);
	return r;
}

static void *connect_main(void *arg)
{
	struct rados_store *rs = arg;
	rados_t cluster = NULL;
	rados_ioctx_t io = NULL;
	struct err err;
	int r;

	pthread_setname_np(pthread_self(), "rados-connect");
	r = connect_all(rs, &cluster, &io, &err);
	pthread_mutex_lock(&rs->lock);
	rs->connecting = false;
	rs->connected = !r;
	rs->refused = r < 0;
	if (r < 0)
		rs->connect_err = err;
	rs->cluster = cluster;
	rs->io = io;
	pthread_cond_signal(&rs->work);
	pthread_mutex_unlock(&rs->lock);
	rados_store_put(rs);
	return NULL;
}

void rados_connect_start(struct rados_store *rs)
{
	pthread_t thread;
	int r = thread_start(&thread, connect_main, rs);

	if (r < 0) {
		rs->refused = true;
		err_errno(&rs->connect_err, r, "starting a thread");
		return;
	}
	/* It waits for the lock, should it be as far as that. */
	rs->connecting = true;
	rados_store_get(rs);
	pthread_detach(thread);
}

void rados_disconnect(struct rados_store *rs)
{
	if (!rs->connected)
		return;
	rs->lib->rados_ioctx_destroy(rs->io);
	rs->lib->rados_shutdown(rs->cluster);
}
