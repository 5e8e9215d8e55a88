// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// One QMP connection: greeting, negotiation, dispatch, output.
//
// Messages are carried out in the order in which they come, each whole before the next, so exec-oob needs no queue of
// its own: nothing on the main thread waits. Output is queued by libuv; the queue is bounded, and a client that does
// not read is dropped rather than allowed to hold memory or anybody else up. One that closes its sending side hears all answers.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/qmp_internal.h"

#define INPUT_BYTES ((size_t)16 << 10)

struct qmp_client {
	struct qmp *qmp;	/* NULL: closed */
	struct qmp_client *next, **link;
	union server_stream stream;
	struct json_stream input;
	bool negotiated, oob;
	bool ended;		/* it has said all, and still hears what it asked for */
	char bytes[INPUT_BYTES];
};

struct output {
	uv_write_t write;
	char *text;
};

static void on_closed(uv_handle_t *handle)
{
	struct qmp_client *client = handle->data;

	json_stream_fini(&client->input);
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
	uv_close(&client->stream.handle, on_closed);
}

struct qmp_client *qmp_client_next(const struct qmp_client *client)
{
	return client->next;
}

size_t qmp_client_queued(const struct qmp_client *client)
{
	return uv_stream_get_write_queue_size(&client->stream.stream);
}

void qmp_client_deafen(struct qmp_client *client)
{
	uv_read_stop(&client->stream.stream);
}

static void on_written(uv_write_t *write, int status)
{
	struct output *output = write->data;
	struct qmp_client *client = write->handle->data;

	free(output->text);
	free(output);
	if (status < 0 || (client->ended && !qmp_client_queued(client)))
		qmp_client_close(client);
}

/* Returns the message and "\r\n", to be freed, or NULL. */
static char *to_text(const json_t *message, size_t *len)
{
	char *text = json_dumps(message, 0), *more;

	if (!text)
		return NULL;
	*len = strlen(text);
	more = realloc(text, *len + 2);
	if (!more) {
		free(text);
		return NULL;
	}
	memcpy(more + *len, "\r\n", 2);
	*len += 2;
	return more;
}

void qmp_client_send(struct qmp_client *client, const json_t *message)
{
	struct output *output;
	uv_buf_t buf;
	size_t len;
	char *text;

	if (!client->qmp)
		return;
	text = to_text(message, &len);
	output = calloc(1, sizeof(*output));
	if (!text || !output || qmp_client_queued(client) + len > QMP_OUTPUT_MAX) {
		log_warn("QMP: a client that does not read is dropped");
		goto err_close;
	}
	output->text = text;
	output->write.data = output;
	buf = uv_buf_init(text, (unsigned int)len);
	if (uv_write(&output->write, &client->stream.stream, &buf, 1, on_written) == 0)
		return;
err_close:
	free(text);
	free(output);
	qmp_client_close(client);
}

void qmp_client_event(struct qmp_client *client, const json_t *message)
{
	if (client->negotiated && !client->ended)
		qmp_client_send(client, message);
}

/* Sends {"return"} or {"error"} with the request's id; `body` is consumed. */
static void reply(struct qmp_client *client, const char *member, json_t *body, json_t *id)
{
	json_t *message = json_object();

	if (!message || !body || json_object_set(message, member, body) < 0 ||
	    (id && json_object_set(message, "id", id) < 0)) {
		log_error("QMP: no memory for a reply");
		qmp_client_close(client);
	} else {
		qmp_client_send(client, message);
	}
	json_decref(body);
	json_decref(message);
}

static void reply_error(struct qmp_client *client, const char *class, const char *text, json_t *id)
{
	reply(client, "error",
	      json_pack("{s:s,s:o}", "class", class ? class : "GenericError", "desc", qmp_string(text)), id);
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

static int run_request(struct qmp_call *call, const json_t *message, struct err *err)
{
	static const struct qmp_arg no_args[] = { { 0 } };
	const struct qmp_command *command;
	struct qmp_client *client = call->client;
	struct qmp_request request;
	int r = qmp_request_check(&request, message, client->oob, err);

	if (r < 0)
		return r;
	if (!client->negotiated && strcmp(request.command, "qmp_capabilities") != 0) {
		call->error_class = "CommandNotFound";
		return err_set(err, -ENOENT, "Expecting capabilities negotiation with 'qmp_capabilities'");
	}
	command = qmp_find_command(request.command);
	if (!command) {
		call->error_class = "CommandNotFound";
		return err_set(err, -ENOENT, "The command %s has not been found", request.command);
	}
	if (request.oob && !command->oob)
		return err_set(err, -EINVAL, "The command %s does not support OOB", command->name);
	r = qmp_args_check(request.args, command->args ? command->args : no_args, err);
	if (r < 0)
		return r;
	call->args = request.args;
	return command->run(call, err);
}

static void dispatch(struct qmp_client *client, const json_t *message)
{
	struct qmp *qmp = client->qmp;
	struct qmp_call call = { .qmp = qmp, .client = client };
	json_t *id = json_object_get(message, "id");
	struct err err = { 0 };
	int r = run_request(&call, message, &err);

	if (r < 0) {
		json_decref(call.result);
		reply_error(client, call.error_class, err.text, id);
		return;
	}
	reply(client, "return", call.result ? call.result : json_object(), id);
	if (call.after)
		call.after(qmp);
}

static void take_message(struct qmp_client *client)
{
	const struct buf *value = &client->input.value;
	json_error_t error;
	json_t *message;
	char text[256];

	message = json_loadb((const char *)value->data, value->len,
			     JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	if (message) {
		dispatch(client, message);
		json_decref(message);
		return;
	}
	snprintf(text, sizeof(text), "JSON parse error, %s", error.text);
	reply_error(client, NULL, text, NULL);
}

static void take_input(struct qmp_client *client, const uint8_t *data, size_t len)
{
	size_t used;
	int r;

	while (len && client->qmp) {
		r = json_stream_feed(&client->input, data, len, &used);
		data += used;
		len -= used;
		if (r == JSON_STREAM_MESSAGE)
			take_message(client);
		else if (r == JSON_STREAM_BAD)
			reply_error(client, NULL, client->input.error, NULL);
		else if (r < 0)
			qmp_client_close(client);
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct qmp_client *client = handle->data;

	(void)suggested;
	*buf = uv_buf_init(client->bytes, sizeof(client->bytes));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct qmp_client *client = stream->data;

	if (n == UV_EOF && qmp_client_queued(client)) {
		client->ended = true;
		qmp_client_deafen(client);
		return;
	}
	if (n < 0)
		qmp_client_close(client);
	else
		take_input(client, (const uint8_t *)buf->base, (size_t)n);
}

static json_t *version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", QMP_QEMU_MICRO, "minor", QMP_QEMU_MINOR,
			 "major", QMP_QEMU_MAJOR, "package", "postern " POSTERN_VERSION);
}

static void greet(struct qmp_client *client)
{
	json_t *greeting = json_pack("{s:{s:o,s:[s]}}", "QMP", "version", version(), "capabilities", "oob");

	if (greeting)
		qmp_client_send(client, greeting);
	else
		qmp_client_close(client);
	json_decref(greeting);
}

void qmp_client_accept(struct qmp *qmp, struct server *server)
{
	struct qmp_client *client = calloc(1, sizeof(*client));
	int r;

	if (!client) {
		log_error("QMP: no memory for a client");
		return;
	}
	r = server_accept(server, &client->stream);
	client->stream.handle.data = client;
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
	if (r < 0 || uv_read_start(&client->stream.stream, on_alloc, on_read) < 0)
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
		return err_set(err, -EALREADY, "Capabilities negotiation is already complete, command ignored");
	}
	json_array_foreach(enable, i, value) {
		if (!json_is_string(value))
			return err_set(err, -EINVAL, "Invalid parameter type for 'enable[%zu]', expected: string",
				       i);
		if (strcmp(json_string_value(value), "oob") != 0)
			return err_set(err, -EINVAL, "Parameter 'enable[%zu]' does not accept value '%s'", i,
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
			json_array_append_new(call->result, json_pack("{s:s}", "name", command->name));
	return 0;
}

static const struct qmp_arg capabilities_args[] = { { "enable", QMP_ARRAY, true }, { 0 } };

const struct qmp_command qmp_client_commands[] = {
	{ "qmp_capabilities", cmd_capabilities, capabilities_args, false },
	{ "query-version", cmd_version, NULL, false },
	{ "query-commands", cmd_commands, NULL, false },
	{ 0 },
};

const struct qmp_command *const qmp_tables[] = {
	qmp_client_commands,
	qmp_machine_commands,
	qmp_query_commands,
	qmp_migrate_commands,
	qmp_postern_commands,
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
	const json_t *value = json_object_get(call->args, name);

	return value ? (uint64_t)json_integer_value(value) : otherwise;
}
