// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The QMP server: its sockets, and what happens to the machine turned into events. See qmp.h.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/qmp_internal.h"

#define FLUSH_NS (100 * NS_PER_MS)	/* how long qmp_free gives clients to take what is queued */

json_t *qmp_string(const char *text)
{
	json_t *json = json_string(text);
	char *copy, *c;

	if (json)
		return json;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (c = copy; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	json = json_string(copy);
	free(copy);
	return json;
}

json_t *qmp_uint(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

void qmp_event(struct qmp *qmp, const char *name, json_t *data)
{
	struct qmp_client *client, *next;
	struct timeval now;
	json_t *event;

	gettimeofday(&now, NULL);
	event = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec,
			  "microseconds", (json_int_t)now.tv_usec, "event", name);
	if (!event || (data && json_object_set(event, "data", data) < 0)) {
		log_error("QMP: no memory for event %s", name);
	} else {
		for (client = qmp->clients; client; client = next) {
			next = qmp_client_next(client);
			if (qmp_client_hears_events(client))
				qmp_client_send(client, event, NULL);
		}
	}
	json_decref(data);
	json_decref(event);
}

static void qmp_on_state(void *arg, enum run_state old, enum run_state now)
{
	if (old == RUN_STATE_RUNNING && now != RUN_STATE_RUNNING)
		qmp_event(arg, "STOP", NULL);
	else if (old != RUN_STATE_RUNNING && now == RUN_STATE_RUNNING)
		qmp_event(arg, "RESUME", NULL);
}

static void qmp_on_reset(void *arg, bool by_guest)
{
	qmp_event(arg, "RESET",
		  json_pack("{s:b,s:s}", "guest", by_guest, "reason",
			    by_guest ? "guest-reset" : "host-qmp-system-reset"));
}

static void on_shutdown(void *arg, bool by_guest, const char *reason)
{
	qmp_event(arg, "SHUTDOWN",
		  json_pack("{s:b,s:s}", "guest", by_guest, "reason", reason ? reason : "none"));
}

static void on_powerdown(void *arg)
{
	qmp_event(arg, "POWERDOWN", NULL);
}

static void on_pages_lost(void *arg, const struct lost_pages *lost)
{
	json_t *ranges = json_array();
	unsigned int i;

	for (i = 0; i < lost->ranges; i++)
		json_array_append_new(ranges,
				      json_pack("{s:o,s:o}", "gpa",
						qmp_uint(gfn_to_gpa(lost->range[i].first).v),
						"pages", qmp_uint(lost->range[i].pages)));
	qmp_event(arg, "POSTERN_PAGE_LOST",
		  json_pack("{s:o,s:o,s:o}", "gpa", qmp_uint(gfn_to_gpa(lost->lowest).v), "pages",
			    qmp_uint(lost->pages), "ranges", ranges));
}

static void balloon_event(struct qmp *qmp)
{
	uint64_t memory_bytes;
	struct err err;

	if (machine_balloon(qmp->machine, &memory_bytes, &err) == 0)
		qmp_event(qmp, "BALLOON_CHANGE",
			  json_pack("{s:o}", "actual", qmp_uint(memory_bytes)));
}

/* The names of QEMU's BlockErrorAction and IoOperationType. */
static void on_device(void *arg, const struct device_event *event)
{
	switch (event->type) {
	case DEVICE_EVENT_DISK_AWAY:
		qmp_event(arg, "POSTERN_DISK_AWAY",
			  json_pack("{s:s,s:o,s:i}", "device", event->device, "reason",
				    qmp_string(event->reason), "requests", (int)event->requests));
		break;
	case DEVICE_EVENT_DISK_BACK:
		qmp_event(arg, "POSTERN_DISK_BACK", json_pack("{s:s}", "device", event->device));
		break;
	case DEVICE_EVENT_DISK_ERROR:
		qmp_event(arg, "BLOCK_IO_ERROR",
			  json_pack("{s:s,s:s,s:s,s:s,s:b,s:s}", "device", event->device,
				    "node-name", event->device, "operation",
				    event->read ? "read" : "write", "action", "report", "nospace",
				    event->error == -ENOSPC, "reason", strerror(-event->error)));
		break;
	case DEVICE_EVENT_BALLOON:
		balloon_event(arg);
		break;
	default:	/* the machine's own business: it says what comes of it */
		break;
	}
}

static void on_migration(void *arg, enum migration_status status)
{
	struct qmp *qmp = arg;

	if (qmp->migration_events && !qmp->closed)
		qmp_event(qmp, "MIGRATION",
			  json_pack("{s:s}", "status", migration_status_name(status)));
}

int qmp_new(struct qmp **out, struct machine *machine, struct migration *migration, struct err *err)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));
	struct migration_observer observer;

	if (!qmp)
		return err_set(err, -ENOMEM, "QMP: no memory");
	qmp->machine = machine;
	qmp->migration = migration;
	qmp->uv = loop_uv(machine_loop(machine));
	qmp->migration_events = true;
	qmp->machine_observer = (struct machine_observer){
		.state = qmp_on_state,
		.reset = qmp_on_reset,
		.shutdown = on_shutdown,
		.powerdown = on_powerdown,
		.pages_lost = on_pages_lost,
		.device = on_device,
		.arg = qmp,
	};
	machine_observe(machine, &qmp->machine_observer);
	observer = (struct migration_observer){ .status = on_migration, .arg = qmp };
	migration_observe(migration, &observer);
	uv_prepare_init(qmp->uv, &qmp->life);
	qmp->life.data = qmp;
	*out = qmp;
	return 0;
}

void qmp_set_snapshot(struct qmp *qmp, struct snapshot *snapshot)
{
	const struct snapshot_observer observer = { .progress = qmp_on_snapshot, .arg = qmp };

	qmp->snapshot = snapshot;
	snapshot_observe(snapshot, &observer);
}

static void qmp_on_client(struct server *server, void *arg)
{
	qmp_client_accept(arg, server);
}

int qmp_listen(struct qmp *qmp, const char *spec, struct err *err)
{
	int r;

	if (qmp->nservers == QMP_LISTENERS_MAX)
		return err_set(err, -E2BIG, "QMP: more than %d sockets", QMP_LISTENERS_MAX);
	r = server_new(&qmp->servers[qmp->nservers], qmp->uv, "QMP", spec, qmp_on_client, qmp, err);
	if (r == 0)
		qmp->nservers++;
	return r;
}

static size_t queued(const struct qmp *qmp)
{
	const struct qmp_client *client;
	size_t sum = 0;

	for (client = qmp->clients; client; client = qmp_client_next(client))
		sum += qmp_client_queued(client);
	return sum;
}

/*
 * Sends what clients still take: the reply to quit, the SHUTDOWN event. Who
 * does not read is not waited for long.
 */
static void qmp_flush(struct qmp *qmp)
{
	int64_t end = clock_now_ns() + FLUSH_NS;
	struct timespec pause = clock_to_timespec(NS_PER_MS);
	struct qmp_client *client;

	for (client = qmp->clients; client; client = qmp_client_next(client))
		qmp_client_stop_reading(client);
	while (queued(qmp) && clock_now_ns() < end) {
		uv_run(qmp->uv, UV_RUN_NOWAIT);
		if (queued(qmp))
			nanosleep(&pause, NULL);
	}
}

void qmp_free(struct qmp *qmp)
{
	unsigned int i;

	if (!qmp)
		return;
	for (i = 0; i < qmp->nservers; i++)
		server_free(qmp->servers[i]);
	qmp->nservers = 0;
	qmp_flush(qmp);
	/* The guest is its machine's again. */
	dump_free(qmp->dump);
	qmp->dump = NULL;
	machine_unobserve(qmp->machine, &qmp->machine_observer);
	if (qmp->snapshot)
		snapshot_observe(qmp->snapshot, &(struct snapshot_observer){ 0 });
	while (qmp->clients)
		qmp_client_close(qmp->clients);
	/*
	 * The migration may still tell of its end: the memory goes when the
	 * loop has run once more.
	 */
	qmp->closed = true;
	loop_close((uv_handle_t *)&qmp->life, qmp);
}
