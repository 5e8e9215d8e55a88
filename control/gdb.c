// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The gdb stub: its socket, and one session at a time. Input is taken packet by
// packet; while a memory access is under way, what comes further is kept, since
// its reply has to be sent first. However many packets come at once, a turn of
// the loop (base/loop.h) begins some, and nothing more is read before the rest
// has been carried out. See gdb.h and docs/gdb.md.
//
// A session begins with the first byte, and not with the connection: a socket
// on TCP can be reached by a web browser of this host, which opens connections
// at a page's wish. Whose first byte is none of the protocol is not heard, and
// has not stopped the machine.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/gdb_internal.h"

#define REPLY_TEXT_MAX 1024
#define REFUSED_REPLIES 8u

struct output {
	uv_write_t write;
	size_t len;
	char bytes[];
};

static void gdb_on_closed(uv_handle_t *handle)
{
	struct gdb_client *client = handle->data;

	if (--client->handles)
		return;
	buf_fini(&client->pending);
	buf_fini(&client->last);
	free(client);
}

void gdb_client_close(struct gdb_client *client)
{
	struct gdb *gdb = client->gdb;

	if (!gdb)
		return;
	if (client->job) {
		gdb_job_cancel(client->job);
		client->job = NULL;
	}
	if (gdb->client == client) {
		if (!client->detached)
			gdb_run_detach(client);
		gdb->client = NULL;
		log_info("gdb: detached");
	} else {
		gdb->stranger = NULL;
	}
	client->gdb = NULL;
	uv_close(&client->stream.handle, gdb_on_closed);
	uv_close((uv_handle_t *)&client->more, gdb_on_closed);
}

/*
 * After D, the machine is no longer this session's: what still comes is not
 * carried out, since nobody would take it back. gdb goes when it has the reply;
 * it is let go when it has acknowledged it. Earlier, where it still writes,
 * would be an error to it.
 */
static void detached_close(struct gdb_client *client)
{
	if (client->detached && (client->no_ack || client->acked) &&
	    !uv_stream_get_write_queue_size(&client->stream.stream))
		gdb_client_close(client);
}

/* ---- output ---- */

static void gdb_on_written(uv_write_t *write, int status)
{
	struct gdb_client *client = write->handle->data;

	free(write->data);
	if (status < 0)
		gdb_client_close(client);
	else if (client->gdb)
		detached_close(client);
}

static void gdb_output(struct gdb_client *client, const void *bytes, size_t len)
{
	struct output *out;
	uv_buf_t buf;

	if (!client->gdb)
		return;
	out = malloc(sizeof(*out) + len);
	if (!out || uv_stream_get_write_queue_size(&client->stream.stream) + len > GDB_OUTPUT_MAX)
		goto err_close;
	memcpy(out->bytes, bytes, len);
	out->write.data = out;
	buf = uv_buf_init(out->bytes, (unsigned int)len);
	if (uv_write(&out->write, &client->stream.stream, &buf, 1, gdb_on_written) == 0)
		return;
err_close:
	free(out);
	log_warn("gdb: a client that does not read is dropped");
	gdb_client_close(client);
}

void gdb_reply_bytes(struct gdb_client *client, const void *payload, size_t len)
{
	if (!client->gdb)
		return;
	client->last.len = 0;
	if (gdb_packet_frame(&client->last, payload, len) < 0) {
		gdb_client_close(client);
		return;
	}
	gdb_output(client, client->last.data, client->last.len);
}

void gdb_reply(struct gdb_client *client, const char *fmt, ...)
{
	char text[REPLY_TEXT_MAX];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	gdb_reply_bytes(client, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

/* ---- input ---- */

static void take_packet(struct gdb_client *client)
{
	if (!client->no_ack)
		gdb_output(client, "+", 1);
	if (client->gdb)
		gdb_command(client, (const char *)client->in.data, client->in.len);
}

static void detached_take(struct gdb_client *client, enum gdb_packet_event event)
{
	if (event == GDB_GOT_NAK) {
		gdb_output(client, client->last.data, client->last.len);
	} else if (event == GDB_GOT_ACK) {
		client->acked = true;
		detached_close(client);
	}
}

static void take_event(struct gdb_client *client, enum gdb_packet_event event)
{
	if (client->detached) {
		detached_take(client, event);
		return;
	}
	switch (event) {
	case GDB_GOT_NOTHING:
	case GDB_GOT_ACK:
		break;
	case GDB_GOT_PACKET:
		take_packet(client);
		break;
	case GDB_GOT_NAK:
		if (client->last.len)
			gdb_output(client, client->last.data, client->last.len);
		break;
	case GDB_GOT_INTERRUPT:
		gdb_run_interrupt(client);
		break;
	case GDB_GOT_BAD:
		/*
		 * Without acknowledgements nobody sends it again: an error
		 * keeps gdb from waiting.
		 */
		if (client->no_ack)
			gdb_reply(client, "E%02x", EPROTO);
		else
			gdb_output(client, "-", 1);
		break;
	case GDB_GOT_TOO_LONG:
		if (!client->no_ack)
			gdb_output(client, "+", 1);
		gdb_reply(client, "E%02x", E2BIG);
		break;
	}
}

static void keep_input(struct gdb_client *client, const void *data, size_t len)
{
	if (client->pending.len + len > GDB_PENDING_MAX ||
	    buf_append(&client->pending, data, len) < 0)
		gdb_client_close(client);
}

static void gdb_turn_begin(struct gdb_client *client)
{
	client->turn_ms = uv_now(client->more.loop);
	client->turn_end_ns = loop_turn_end();
}

static void gdb_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
static void gdb_on_more(uv_idle_t *more);

static void gdb_take_input(struct gdb_client *client, const uint8_t *data, size_t len)
{
	enum gdb_packet_event event;
	bool over;
	size_t used;

	while (len && client->gdb) {
		over = clock_now_ns() >= client->turn_end_ns;
		if (client->job || over) {
			keep_input(client, data, len);
			if (!client->gdb || client->job)
				return;
			uv_read_stop(&client->stream.stream);
			uv_idle_start(&client->more, gdb_on_more);
			return;
		}
		event = gdb_packet_feed(&client->in, data, len, &used);
		data += used;
		len -= used;
		take_event(client, event);
	}
}

/* A new turn for what is kept. */
static void take_pending(struct gdb_client *client)
{
	struct buf pending = client->pending;

	client->pending = (struct buf){ 0 };
	gdb_turn_begin(client);
	gdb_take_input(client, pending.data, pending.len);
	buf_fini(&pending);
}

void gdb_client_job_done(struct gdb_client *client)
{
	client->job = NULL;
	take_pending(client);
}

static void gdb_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct gdb_client *client = handle->data;

	(void)suggested;
	*buf = uv_buf_init(client->bytes, sizeof(client->bytes));
}

static void gdb_on_more(uv_idle_t *more)
{
	struct gdb_client *client = more->data;

	uv_idle_stop(more);
	take_pending(client);
	/* It goes on in the next turn, or with what comes. */
	if (client->gdb && !uv_is_active((uv_handle_t *)more) &&
	    uv_read_start(&client->stream.stream, gdb_on_alloc, gdb_on_read) < 0)
		gdb_client_close(client);
}

/* False: closed. */
static bool gdb_begin(struct gdb_client *client, char first)
{
	struct gdb *gdb = client->gdb;

	if (!first || !strchr("+-$\003", first)) {
		log_info("gdb: a connection is dropped that does not begin as a debugger does");
		gdb_client_close(client);
		return false;
	}
	gdb->stranger = NULL;
	gdb->client = client;
	gdb->missing[0] = '\0';
	log_info("gdb: attached");
	gdb_run_attach(client);
	return client->gdb;
}

static void gdb_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct gdb_client *client = stream->data;

	if (n < 0) {
		gdb_client_close(client);
		return;
	}
	if (!n || (client->gdb->stranger == client && !gdb_begin(client, *buf->base)))
		return;
	/* libuv may read many times in one turn, whose time does not move. */
	if (client->turn_ms != uv_now(stream->loop))
		gdb_turn_begin(client);
	gdb_take_input(client, (const uint8_t *)buf->base, (size_t)n);
}

/* ---- a client connects ---- */

/*
 * A second debugger. gdb shows what the reply to its packets says, and gives
 * up; so each is replied to. There is at most one such connection: the next
 * takes its place.
 */
struct gdb_refused {
	struct gdb *gdb;
	union server_stream stream;
	unsigned int replies;
	char bytes[256];
};

static void refused_close(struct gdb_refused *refused)
{
	refused->gdb->refused = NULL;
	loop_close(&refused->stream.handle, refused);
}

static void on_refused_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct gdb_refused *refused = handle->data;

	(void)suggested;
	*buf = uv_buf_init(refused->bytes, sizeof(refused->bytes));
}

static void on_refused_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *in)
{
	static char text[] = "+$E.another debugger is attached#23";
	struct gdb_refused *refused = stream->data;
	uv_buf_t out = uv_buf_init(text, sizeof(text) - 1);

	if (n > 0 && !memchr(in->base, '$', (size_t)n))
		return;
	if (n < 0 ||
	    (n > 0 && (refused->replies++ == REFUSED_REPLIES || uv_try_write(stream, &out, 1) < 0)))
		refused_close(refused);
}

static void gdb_refuse(struct gdb *gdb, struct server *server)
{
	struct gdb_refused *refused = calloc(1, sizeof(*refused));
	int r;

	log_warn("gdb: a second debugger was refused");
	if (!refused)
		return;
	if (gdb->refused)
		refused_close(gdb->refused);
	gdb->refused = refused;
	refused->gdb = gdb;
	r = server_accept(server, &refused->stream, false);
	refused->stream.handle.data = refused;
	if (r < 0 || uv_read_start(&refused->stream.stream, on_refused_alloc, on_refused_read) < 0)
		refused_close(refused);
}

static void gdb_on_client(struct server *server, void *arg)
{
	struct gdb *gdb = arg;
	struct gdb_client *client;
	int r;

	if (gdb->client && gdb->client->detached)
		gdb_client_close(gdb->client);
	if (gdb->client) {
		gdb_refuse(gdb, server);
		return;
	}
	/* Who says nothing does not keep others out. */
	if (gdb->stranger)
		gdb_client_close(gdb->stranger);
	client = calloc(1, sizeof(*client));
	if (!client) {
		log_error("gdb: no memory for a client");
		return;
	}
	client->gdb = gdb;
	client->cont_thread = -1;
	gdb->stranger = client;
	r = server_accept(server, &client->stream, false);
	uv_idle_init(gdb->uv, &client->more);
	client->stream.handle.data = client->more.data = client;
	client->handles = 2;
	if (r < 0 || uv_read_start(&client->stream.stream, gdb_on_alloc, gdb_on_read) < 0)
		gdb_client_close(client);
}

int gdb_new(struct gdb **out, struct machine *machine, const char *spec, int page_timeout_ms,
	    struct err *err)
{
	struct gdb *gdb = calloc(1, sizeof(*gdb));
	int r;

	if (!gdb)
		return err_set(err, -ENOMEM, "gdb: no memory");
	gdb->machine = machine;
	gdb->mem = machine_memory(machine);
	gdb->vm = machine_vm(machine);
	gdb->uv = loop_uv(machine_loop(machine));
	gdb->page_timeout_ms = page_timeout_ms;
	r = gdb_worker_new(&gdb->worker, gdb->mem, machine_loop(machine), err);
	if (r < 0)
		goto err_gdb;
	r = server_new(&gdb->server, gdb->uv, "gdb", spec, gdb_on_client, gdb, err);
	if (r < 0)
		goto err_worker;
	gdb->observer = (struct machine_observer){
		.state = gdb_run_on_state,
		.debug = gdb_run_on_debug,
		.arg = gdb,
	};
	machine_observe(machine, &gdb->observer);
	*out = gdb;
	return 0;

err_worker:
	gdb_worker_free(gdb->worker);
err_gdb:
	free(gdb);
	return r;
}

void gdb_free(struct gdb *gdb)
{
	if (!gdb)
		return;
	machine_unobserve(gdb->machine, &gdb->observer);
	server_free(gdb->server);
	if (gdb->client)
		gdb_client_close(gdb->client);
	if (gdb->stranger)
		gdb_client_close(gdb->stranger);
	if (gdb->refused)
		refused_close(gdb->refused);
	gdb_worker_free(gdb->worker);
	free(gdb);
}
