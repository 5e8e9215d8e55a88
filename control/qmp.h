/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The QEMU Machine Protocol (docs/interop/qmp-spec in QEMU's tree): JSON over a
 * unix socket, names, arguments, errors and events as QEMU's, so that its
 * clients work. Any number of clients, any number of sockets; runs on the main
 * thread, which never waits for a page, so every command is answered at once
 * and out-of-band execution is trivial.
 */
#ifndef POSTERN_CONTROL_QMP_H
#define POSTERN_CONTROL_QMP_H

#include "base/err.h"
#include "machine/machine.h"
#include "migrate/migration.h"
#include "snapshot/snapshot.h"

struct qmp;

int qmp_new(struct qmp **out, struct machine *machine, struct migration *migration,
	    struct err *err);
/*
 * What the commands on snapshots are about; without it they are refused.
 * Outlives qmp, and has no other listener.
 */
void qmp_set_snapshot(struct qmp *qmp, struct snapshot *snapshot);
/*
 * spec: "unix:PATH" or "tcp:HOST:PORT", with QEMU's ",server=on,wait=off"
 * accepted. May be called several times.
 */
int qmp_listen(struct qmp *qmp, const char *spec, struct err *err);
/*
 * Sends what is queued as far as the clients take it, closes, unlinks the
 * sockets. Before migration_free.
 */
void qmp_free(struct qmp *qmp);

#endif
