// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// One QMP connection: greeting, negotiation, dispatch, output.
//
// Messages are carried out in the order in which they come, each whole before
// the next, so exec-oob needs no queue of its own: nothing on the main thread
// waits. However many come at once, a turn of the loop (base/loop.h) begins
// some, and nothing more is read before the rest has been carried out. Output
// is queued by libuv; the queue is bounded, and a client that does not read is
// dropped rather than allowed to hold memory or anybody else up. One that
// closes its sending side hears all answers.
//
// A socket on TCP can be reached by a web browser of this host, and by what a
// page has it send: a request whose body may hold whole commands. So the first
// bytes decide: a client begins with an object, and until it has negotiated
// what is none ends the connection.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/qmp_internal.h"

#define INPUT_BYTES ((size_t)16 << 10)

struct qmp_client {
	struct qmp *qmp;	/* NULL: closed */
	uv_idle_t more;		/* active: input is left for the next turn */
	unsigned int handles;	/* of the stream and this, those that the loop has */
	struct qmp_client *next, **link;
	union server_stream stream;
	struct json_stream input;
	bool negotiated, oob;
	bool begun;		/* it has said the first byte of an object */
	bool ended;		/* it has said all, and still hears what it asked for */
	int64_t turn_end_ns;
	uint64_t turn_ms;	/* the loop's time when the turn began */
	struct qmp_fds fds; /* that it has passed */
	const uint8_t *left;	/* of bytes: not looked at yet */
	size_t left_len;
	char bytes[INPUT_BYTES];
};

struct output {
	uv_write_t write;
	char *text;
};

static void qmp_client_on_closed(uv_handle_t *handle)
{
	struct qmp_client *client = handle->data;

	if (--client->handles)
		return;
	json_stream_fini(&client->input);
	qmp_fds_fini(&client->fds);
	free(client);
}

void qmp_client_close(struct qmp_client *client)
{
	struct qmp *qmp = client->qmp;

	if (!qmp)
		return;
	client->qmp = NULL;
	*client->link = client->next;
	if (client->next)
		client->next->link = client->link;
	qmp->nclients--;
	uv_close(&client->stream.handle, qmp_client_on_closed);
	uv_close((uv_handle_t *)&client->more, qmp_client_on_closed);
}

struct qmp_client *qmp_client_next(const struct qmp_client *client)
{
	return client->next;
}

size_t qmp_client_queued(const struct qmp_client *client)
{
	return uv_stream_get_write_queue_size(&client->stream.stream);
}

void qmp_client_stop_reading(struct qmp_client *client)
{
	uv_read_stop(&client->stream.stream);
	uv_idle_stop(&client->more);
}

static void qmp_client_on_written(uv_write_t *write, int status)
{
	struct output *output = write->data;
	struct qmp_client *client = write->handle->data;

	free(output->text);
	free(output);
	if (status < 0 || (client->ended && !qmp_client_queued(client)))
		qmp_client_close(client);
}

/*
 * Returns the message, with this id as its last member if not NULL, and "\r\n",
 * to be freed; or NULL.
 */
static char *to_text(const json_t *message, const char *id, size_t *len)
{
	static const char member[] = ", \"id\": ";
	char *text = json_dumps(message, 0), *more, *end;
	size_t id_len = id ? strlen(id) : 0;

	if (!text)
		return NULL;
	*len = strlen(text);
	more = realloc(text, *len + sizeof(member) + id_len + sizeof("\r\n"));
	if (!more) {
		free(text);
		return NULL;
	}
	end = more + *len;
	if (id) {
		/* In place of the brace. */
		end = (char *)mempcpy(end - 1, member, sizeof(member) - 1);
		end = (char *)mempcpy(end, id, id_len);
		*end++ = '}';
	}
	end = (char *)mempcpy(end, "\r\n", 2);
	*len = (size_t)(end - more);
	return more;
}

void qmp_client_send(struct qmp_client *client, const json_t *message, const char *id)
{
	struct output *output;
	uv_buf_t buf;
	size_t len;
	char *text;

	if (!client->qmp)
		return;
	text = to_text(message, id, &len);
	output = calloc(1, sizeof(*output));
	if (!text || !output || qmp_client_queued(client) + len > QMP_OUTPUT_MAX) {
		log_warn("QMP: a client that does not read is dropped");
		goto err_close;
	}
	output->text = text;
	output->write.data = output;
	buf = uv_buf_init(text, (unsigned int)len);
	if (uv_write(&output->write, &client->stream.stream, &buf, 1, qmp_client_on_written) == 0)
		return;
err_close:
	free(text);
	free(output);
	qmp_client_close(client);
}

bool qmp_client_hears_events(const struct qmp_client *client)
{
	return client->negotiated && !client->ended;
}

/* Sends {"return"} or {"error"} with the request's id; `body` is consumed. */
static void reply(struct qmp_client *client, const char *member, json_t *body, const char *id)
{
	json_t *message = json_object();

	if (!message || !body || json_object_set(message, member, body) < 0) {
		log_error("QMP: no memory for a reply");
		qmp_client_close(client);
	} else {
		qmp_client_send(client, message, id);
	}
	json_decref(body);
	json_decref(message);
}

static void qmp_client_reply_error(struct qmp_client *client, const char *class, const char *text,
				   const char *id)
{
	reply(client, "error",
	      json_pack("{s:s,s:o}", "class", class ? class : "GenericError", "desc",
			qmp_string(text)),
	      id);
}

const struct qmp_command *qmp_find_command(const char *name)
{
	const struct qmp_command *command;
	unsigned int i;

	for (i = 0; i < qmp_ntables; i++)
		for (command = qmp_tables[i]; command->name; command++)
			if (!strcmp(command->name, name))
				return command;
	return NULL;
}

/* Whose call it is, with arguments that it takes. */
static int find_call(struct qmp_call *call, const struct qmp_command **out, struct err *err)
{
	static const struct qmp_arg no_args[] = { { 0 } };
	const struct qmp_command *command;
	struct qmp_client *client = call->client;
	struct qmp_request request;
	int r = qmp_request_check(&request, call->input->message, client->oob, err);

	if (r < 0)
		return r;
	if (!client->negotiated && strcmp(request.command, "qmp_capabilities") != 0) {
		call->error_class = "CommandNotFound";
		return err_set(err, -ENOENT,
			       "Expecting capabilities negotiation with 'qmp_capabilities'");
	}
	command = qmp_find_command(request.command);
	if (!command) {
		call->error_class = "CommandNotFound";
		return err_set(err, -ENOENT, "The command %s has not been found", request.command);
	}
	if (request.oob && !command->oob)
		return err_set(err, -EINVAL, "The command %s does not support OOB", command->name);
	r = qmp_args_check(call->input, request.args, command->args ? command->args : no_args, err);
	if (r < 0)
		return r;
	call->args = request.args;
	*out = command;
	return 0;
}

static void dispatch(struct qmp_client *client, const struct qmp_input *input)
{
	struct qmp *qmp = client->qmp;
	struct qmp_call call = { .qmp = qmp, .client = client, .input = input };
	const struct qmp_command *command = NULL;
	struct err err = { 0 };
	int r = find_call(&call, &command, &err);

	if (!r)
		r = command->run(&call, &err);
	if (r < 0) {
		json_decref(call.result);
		qmp_client_reply_error(client, call.error_class, err.text, input->id);
		return;
	}
	reply(client, "return", call.result ? call.result : json_object(), input->id);
	if (call.after)
		call.after(qmp);
}

/* It is no QMP client, whatever else it may be: it is heard no further. */
static void drop_stranger(struct qmp_client *client, const char *why)
{
	log_info("QMP: a connection is dropped that does not begin as a client does: %s", why);
	qmp_client_close(client);
}

/* Something was wrong. Once it has negotiated, a client may err. */
static void check_stranger(struct qmp_client *client, const char *why)
{
	if (client->qmp && !client->negotiated)
		drop_stranger(client, why);
}

static void take_message(struct qmp_client *client)
{
	const struct buf *value = &client->input.value;
	struct qmp_input input;
	struct err err;

	if (!qmp_input_parse(&input, (char *)value->data, value->len, &err))
		dispatch(client, &input);
	else
		qmp_client_reply_error(client, NULL, err.text, NULL);
	if (!json_is_object(input.message))
		check_stranger(client, "it says what is no object");
	qmp_input_fini(&input);
}

/* False: closed. */
static bool check_beginning(struct qmp_client *client)
{
	for (; client->left_len && !client->begun; client->left++, client->left_len--) {
		if (*client->left == '{')
			break;
		if (!strchr(" \t\r\n", *client->left) || !*client->left) {
			drop_stranger(client, "its first byte is no brace");
			return false;
		}
	}
	client->begun |= client->left_len;
	return true;
}

static void take_nonsense(struct qmp_client *client)
{
	qmp_client_reply_error(client, NULL, client->input.error, NULL);
	check_stranger(client, client->input.error);
}

/* What is left of the input, until the turn is over. */
static void qmp_client_take_input(struct qmp_client *client)
{
	size_t used;
	int event;

	if (!check_beginning(client))
		return;
	while (client->left_len && client->qmp && !client->ended) {
		if (clock_now_ns() >= client->turn_end_ns)
			return;
		event = json_stream_feed(&client->input, client->left, client->left_len, &used);
		client->left += used;
		client->left_len -= used;
		if (event == JSON_STREAM_MESSAGE)
			take_message(client);
		else if (event == JSON_STREAM_BAD)
			take_nonsense(client);
		else if (event < 0)
			qmp_client_close(client);
	}
}

static void qmp_client_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct qmp_client *client = handle->data;

	(void)suggested;
	*buf = uv_buf_init(client->bytes, sizeof(client->bytes));
}

static void qmp_client_turn_begin(struct qmp_client *client)
{
	client->turn_ms = uv_now(client->more.loop);
	client->turn_end_ns = loop_turn_end();
}

static void qmp_client_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void qmp_client_on_more(uv_idle_t *more)
{
	struct qmp_client *client = more->data;

	qmp_client_turn_begin(client);
	qmp_client_take_input(client);
	if (!client->qmp || client->left_len)
		return;
	uv_idle_stop(more);
	if (uv_read_start(&client->stream.stream, qmp_client_on_alloc, qmp_client_on_read) < 0)
		qmp_client_close(client);
}

static void qmp_client_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct qmp_client *client = stream->data;

	if (n == UV_EOF && qmp_client_queued(client)) {
		client->ended = true;
		qmp_client_stop_reading(client);
		return;
	}
	if (n < 0) {
		qmp_client_close(client);
		return;
	}
	if (stream->type == UV_NAMED_PIPE)
		qmp_fds_receive(&client->fds, &client->stream.pipe);
	/* libuv may read many times in one turn, whose time does not move. */
	if (client->turn_ms != uv_now(stream->loop))
		qmp_client_turn_begin(client);
	client->left = (const uint8_t *)buf->base;
	client->left_len = (size_t)n;
	qmp_client_take_input(client);
	if (!client->qmp || !client->left_len)
		return;
	uv_read_stop(stream);
	uv_idle_start(&client->more, qmp_client_on_more);
}

static json_t *version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", QMP_QEMU_MICRO, "minor",
			 QMP_QEMU_MINOR, "major", QMP_QEMU_MAJOR, "package",
			 "postern " POSTERN_VERSION);
}

static void greet(struct qmp_client *client)
{
	json_t *greeting =
		json_pack("{s:{s:o,s:[s]}}", "QMP", "version", version(), "capabilities", "oob");

	if (greeting)
		qmp_client_send(client, greeting, NULL);
	else
		qmp_client_close(client);
	json_decref(greeting);
}

/*
 * Who does not negotiate keeps nobody out: of those the one goes that has been
 * there the longest.
 */
static void make_place(struct qmp *qmp)
{
	struct qmp_client *client, *silent = NULL;

	/* The newest is first on the list. */
	for (client = qmp->clients; client; client = client->next)
		if (!client->negotiated)
			silent = client;
	if (qmp->nclients == QMP_CLIENTS_MAX && silent)
		drop_stranger(silent, "it has not negotiated, and others come");
}

void qmp_client_accept(struct qmp *qmp, struct server *server)
{
	struct qmp_client *client = calloc(1, sizeof(*client));
	int r;

	if (!client) {
		log_error("QMP: no memory for a client");
		return;
	}
	qmp_fds_init(&client->fds);
	make_place(qmp);
	r = server_accept(server, &client->stream, true);
	uv_idle_init(qmp->uv, &client->more);
	client->stream.handle.data = client->more.data = client;
	client->handles = 2;
	client->qmp = qmp;
	client->next = qmp->clients;
	client->link = &qmp->clients;
	if (client->next)
		client->next->link = &client->next;
	qmp->clients = client;
	if (++qmp->nclients > QMP_CLIENTS_MAX) {
		log_warn("QMP: more than %d clients", QMP_CLIENTS_MAX);
		r = -EMFILE;
	}
	if (r < 0 ||
	    uv_read_start(&client->stream.stream, qmp_client_on_alloc, qmp_client_on_read) < 0)
		qmp_client_close(client);
	else
		greet(client);
}

/* ---- the commands on the connection itself ---- */

static int cmd_capabilities(struct qmp_call *call, struct err *err)
{
	const json_t *enable = json_object_get(call->args, "enable");
	bool oob = false;
	json_t *value;
	size_t i;

	if (call->client->negotiated) {
		call->error_class = "CommandNotFound";
		return err_set(err, -EALREADY,
			       "Capabilities negotiation is already complete, command ignored");
	}
	json_array_foreach(enable, i, value) {
		if (!json_is_string(value))
			return err_set(err, -EINVAL,
				       "Invalid parameter type for 'enable[%zu]', expected: string",
				       i);
		if (strcmp(json_string_value(value), "oob") != 0)
			return err_set(err, -EINVAL,
				       "Parameter 'enable[%zu]' does not accept value '%s'", i,
				       json_string_value(value));
		oob = true;
	}
	call->client->oob = oob;
	call->client->negotiated = true;
	return 0;
}

static int cmd_version(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = version();
	return 0;
}

static int cmd_commands(struct qmp_call *call, struct err *err)
{
	const struct qmp_command *command;
	unsigned int i;

	(void)err;
	call->result = json_array();
	for (i = 0; i < qmp_ntables; i++)
		for (command = qmp_tables[i]; command->name; command++)
			json_array_append_new(call->result,
					      json_pack("{s:s}", "name", command->name));
	return 0;
}

static int cmd_getfd(struct qmp_call *call, struct err *err)
{
	return qmp_fds_name(&call->client->fds, qmp_arg_string(call, "fdname"), err);
}

int qmp_take_fd(struct qmp_call *call, const char *name, struct err *err)
{
	return qmp_fds_take(&call->client->fds, name, err);
}

static int cmd_closefd(struct qmp_call *call, struct err *err)
{
	int fd = qmp_take_fd(call, qmp_arg_string(call, "fdname"), err);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static const struct qmp_arg fd_args[] = { { "fdname", QMP_STRING, false }, { 0 } };
static const struct qmp_arg capabilities_args[] = { { "enable", QMP_ARRAY, true }, { 0 } };

const struct qmp_command qmp_client_commands[] = {
	{ "qmp_capabilities", cmd_capabilities, capabilities_args, false },
	{ "query-version", cmd_version, NULL, false },
	{ "query-commands", cmd_commands, NULL, false },
	{ "getfd", cmd_getfd, fd_args, false },
	{ "closefd", cmd_closefd, fd_args, false },
	{ 0 },
};

const struct qmp_command *const qmp_tables[] = {
	qmp_client_commands,
	qmp_machine_commands,
	qmp_query_commands,
	qmp_migrate_commands,
	qmp_postern_commands,
	qmp_snapshot_commands,
	qmp_dump_commands,
	qmp_hmp_commands,
};
const unsigned int qmp_ntables = sizeof(qmp_tables) / sizeof(qmp_tables[0]);

const char *qmp_arg_string(const struct qmp_call *call, const char *name)
{
	return json_string_value(json_object_get(call->args, name));
}

bool qmp_arg_bool(const struct qmp_call *call, const char *name)
{
	return json_is_true(json_object_get(call->args, name));
}

uint64_t qmp_arg_uint(const struct qmp_call *call, const char *name, uint64_t otherwise)
{
	uint64_t value;

	return qmp_input_uint(call->input, json_object_get(call->args, name), &value) ? value :
											otherwise;
}
