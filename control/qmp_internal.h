/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of the QMP server share. Main thread only.
 *
 *   qmp.c            the server: sockets, events
 *   qmp_client.c     a connection: input, negotiation, dispatch, bounded output
 *   qmp_fd.c         descriptors that a client passes
 *   qmp_machine.c    commands on the machine
 *   qmp_query.c      what clients find out first
 *   qmp_migrate.c    commands on migration
 *   qmp_postern.c    commands that QEMU does not have
 *   qmp_snapshot.c   those on snapshots, and on where late memory comes from
 *   qmp_dump.c       dump-guest-memory
 *   qmp_hmp.c        human-monitor-command
 */
#ifndef POSTERN_CONTROL_QMP_INTERNAL_H
#define POSTERN_CONTROL_QMP_INTERNAL_H

#include <jansson.h>

#include "control/json_stream.h"
#include "control/qmp.h"
#include "control/qmp_args.h"
#include "control/qmp_fd.h"
#include "control/server.h"
#include "snapshot/dump.h"

#define QMP_OUTPUT_MAX ((size_t)16 << 20)	/* bytes queued for a client; beyond it the client is dropped */
#define QMP_LISTENERS_MAX 9	/* --qmp's and a named machine's */
#define QMP_CLIENTS_MAX 64

/* Whose numbers query-version gives: what clients test for. */
#define QMP_QEMU_MAJOR 7
#define QMP_QEMU_MINOR 2
#define QMP_QEMU_MICRO 0

struct qmp_hook;
struct qmp_client;

struct qmp {
	struct machine *machine;
	struct migration *migration;
	struct snapshot *snapshot;	/* NULL: none */
	struct dump *dump;	/* the last one; NULL: there was none */
	uv_loop_t *uv;
	struct server *servers[QMP_LISTENERS_MAX];
	unsigned int nservers;
	struct qmp_client *clients;
	unsigned int nclients;
	struct machine_observer machine_observer;
	uv_prepare_t life;	/* never started: its close callback frees this struct */
	bool closed;
	bool migration_events;	/* the "events" migration capability */
};

/* One command being carried out. */
struct qmp_call {
	struct qmp *qmp;
	struct qmp_client *client;
	const struct qmp_input *input;
	const json_t *args;		/* of the input, checked against the command's spec; NULL: none given */
	json_t *result;			/* set by the handler; NULL: {} */
	const char *error_class;	/* set by a failing handler; NULL: GenericError */
	void (*after)(struct qmp *qmp);	/* set by the handler: runs when the reply is on its way */
};

struct qmp_command {
	const char *name;		/* NULL ends a table */
	int (*run)(struct qmp_call *call, struct err *err);
	const struct qmp_arg *args;	/* NULL: takes none */
	bool oob;
};

/* The tables, in the order of query-commands. */
extern const struct qmp_command qmp_client_commands[];
extern const struct qmp_command qmp_machine_commands[];
extern const struct qmp_command qmp_query_commands[];
extern const struct qmp_command qmp_migrate_commands[];
extern const struct qmp_command qmp_postern_commands[];
extern const struct qmp_command qmp_snapshot_commands[];
extern const struct qmp_command qmp_dump_commands[];
extern const struct qmp_command qmp_hmp_commands[];
extern const struct qmp_command *const qmp_tables[];
extern const unsigned int qmp_ntables;
/* NULL: there is none of that name. */
const struct qmp_command *qmp_find_command(const char *name);

/* Arguments of a checked call; NULL, false or `otherwise` when not given. */
const char *qmp_arg_string(const struct qmp_call *call, const char *name);
bool qmp_arg_bool(const struct qmp_call *call, const char *name);
uint64_t qmp_arg_uint(const struct qmp_call *call, const char *name, uint64_t otherwise);

/* What the client has named by getfd: the caller's from now on. -ENOENT. */
int qmp_take_fd(struct qmp_call *call, const char *name, struct err *err);

/* A JSON string of any bytes: what is not UTF-8 is shown as '?'. NULL: no memory. */
json_t *qmp_string(const char *text);
/* jansson's integers are signed 64 bit: larger values are shown as the largest. */
json_t *qmp_uint(uint64_t value);

/* Sends to every client that has negotiated. `data` (may be NULL) is consumed. */
void qmp_event(struct qmp *qmp, const char *name, json_t *data);

/* ---- qmp_snapshot.c ---- */

/* Progress of a save, as an event. */
void qmp_on_snapshot(void *qmp, const struct snapshot_info *info);
/* Where late memory comes from; NULL: from nowhere. */
json_t *qmp_source(struct qmp *qmp);

/* A client is at the server's door. */
void qmp_client_accept(struct qmp *qmp, struct server *server);
/*
 * `message` is borrowed. A client whose queue is full is closed instead. id:
 * the text of a member "id" to be added to the message, which is then no empty
 * object; NULL: none.
 */
void qmp_client_send(struct qmp_client *client, const json_t *message, const char *id);
/* It has negotiated, and not ended. */
bool qmp_client_hears_events(const struct qmp_client *client);
struct qmp_client *qmp_client_next(const struct qmp_client *client);
size_t qmp_client_queued(const struct qmp_client *client);
/* Takes no further commands. */
void qmp_client_stop_reading(struct qmp_client *client);
/* The memory goes when the loop has run. */
void qmp_client_close(struct qmp_client *client);

#endif
