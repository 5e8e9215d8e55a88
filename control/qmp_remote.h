/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The other end of QMP: a client of a server in another process. Blocking, with
 * a deadline on every wait. The server is not trusted: what it sends is bounded
 * (json_stream.h; QMP_REMOTE_EVENTS_MAX), checked, and it may be silent, slow
 * or gone at any time. One thread.
 *
 * Errors: -EREMOTEIO the server answered with an error, whose text it is;
 * -EINTR interrupt_fd became readable; -ETIMEDOUT no answer in time;
 * -ECONNRESET it closed the connection; -EPROTO what it says is no QMP; others
 * as connect(2) has them. After any but -EREMOTEIO, and -EINTR from
 * qmp_remote_event, only qmp_remote_free is of use.
 */
#ifndef POSTERN_CONTROL_QMP_REMOTE_H
#define POSTERN_CONTROL_QMP_REMOTE_H

#include <jansson.h>

#include "base/err.h"

#define QMP_REMOTE_EVENTS_MAX 256u		/* kept while a reply is waited for */
#define QMP_REMOTE_EVENTS_BYTES ((size_t)1 << 20)

struct qmp_remote;

/*
 * Connects and negotiates. address: "unix:PATH", "tcp:HOST:PORT" or a path.
 * timeout_ms: for this, and for each call.
 */
int qmp_remote_open(struct qmp_remote **out, const char *address, int timeout_ms, struct err *err);
/* NULL is allowed. */
void qmp_remote_free(struct qmp_remote *remote);

/* From now on waits end with -EINTR when fd is readable; -1: none. The fd stays the caller's. */
void qmp_remote_interrupt_by(struct qmp_remote *remote, int fd);

/*
 * Sends a request and returns the whole reply, which has "return" or "error".
 * The request's "id" is kept, or one is given. `request` is an object and
 * consumed.
 */
int qmp_remote_ask(struct qmp_remote *remote, json_t *request, json_t **reply, struct err *err);
/*
 * As qmp_remote_ask, and returns what is under "return", or -EREMOTEIO. args
 * may be NULL and is consumed; result may be NULL.
 */
int qmp_remote_call(struct qmp_remote *remote, const char *command, json_t *args, json_t **result,
		    struct err *err);

/*
 * Passes a copy of a descriptor over a unix socket, and has it named there: QEMU's
 * getfd. -EINVAL: over another one none can be passed.
 */
int qmp_remote_pass_fd(struct qmp_remote *remote, const char *name, int fd, struct err *err);

/* The next event, in order. timeout_ms -1: waits for ever. 1: there is one; 0: none in time. */
int qmp_remote_event(struct qmp_remote *remote, int timeout_ms, json_t **event, struct err *err);

#endif
