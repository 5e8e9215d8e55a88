// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See qmp_remote.h. The socket never blocks; every wait is one poll with what
// is left until the deadline, so a server that sends a byte now and then gains
// nothing by it.
#include "control/qmp_remote.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dial.h"
#include "control/json_stream.h"

#define ADDRESS_SHOWN 200

struct event {
	json_t *json;
	size_t bytes;
};

struct qmp_remote {
	int fd, interrupt_fd;
	int passed_fd; /* goes with the next message's first byte; -1: none */
	int timeout_ms;
	char address[ADDRESS_SHOWN];	/* for messages */
	json_int_t id;			/* of the last request */
	struct json_stream input;
	uint8_t bytes[16 << 10];	/* read and not yet fed: [used, have) */
	size_t used, have;
	struct event events[QMP_REMOTE_EVENTS_MAX];
	unsigned int nevents;
	size_t events_bytes;
};

/* ---- waiting ---- */

/* INT64_MAX: never. */
static int64_t deadline_in(int timeout_ms)
{
	return timeout_ms < 0 ? INT64_MAX : clock_now_ns() + timeout_ms * NS_PER_MS;
}

/* Milliseconds until the deadline, rounded up. */
static int ms_left(int64_t deadline)
{
	int64_t left;

	if (deadline == INT64_MAX)
		return -1;
	left = deadline - clock_now_ns();
	return left <= 0 ? 0 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
}

/* Until the socket is ready for `events`. */
static int wait_ready(struct qmp_remote *remote, short events, int64_t deadline, struct err *err)
{
	struct pollfd fds[] = {
		{ .fd = remote->fd, .events = events },
		{ .fd = remote->interrupt_fd, .events = POLLIN },
	};
	int n;

	for (;;) {
		n = poll(fds, 2, ms_left(deadline));
		if (n < 0 && errno != EINTR)
			return err_errno(err, -errno, "%s", remote->address);
		if (n > 0 && fds[1].revents)
			return err_set(err, -EINTR, "interrupted");
		if (n > 0)
			return 0;
		if (!ms_left(deadline))
			return err_set(err, -ETIMEDOUT, "%s: no answer in time", remote->address);
	}
}

/* ---- connecting ---- */

/* "unix:PATH", "tcp:HOST:PORT", or a path. */
static int address_of(struct address *to, const char *address, struct err *err)
{
	char text[sizeof("unix:") + ADDRESS_PATH_BYTES];

	if (!strncmp(address, "tcp:", 4) || !strncmp(address, "unix:", 5))
		return address_parse(to, address, err);
	/* What does not fit is too long all the same. */
	snprintf(text, sizeof(text), "unix:%s", address);
	return address_parse(to, text, err);
}

static int connect_address(struct qmp_remote *remote, const char *address, int timeout_ms,
			   struct err *err)
{
	struct address to;
	struct dial *dial;
	int r = address_of(&to, address, err);

	if (!r)
		r = dial_new(&dial, &to, NULL, timeout_ms, err);
	if (r < 0)
		return r;
	r = dial_wait(dial, remote->interrupt_fd, err);
	dial_free(dial);
	if (r < 0)
		return r;
	remote->fd = r;
	return 0;
}

/* ---- messages ---- */

static int receive_bytes(struct qmp_remote *remote, int64_t deadline, struct err *err)
{
	ssize_t n;
	int r;

	for (;;) {
		n = recv(remote->fd, remote->bytes, sizeof(remote->bytes), 0);
		if (n > 0)
			break;
		if (n == 0)
			return err_set(err, -ECONNRESET, "%s: the connection was closed",
				       remote->address);
		if (errno != EAGAIN && errno != EINTR)
			return err_errno(err, -errno, "%s", remote->address);
		r = wait_ready(remote, POLLIN, deadline, err);
		if (r < 0)
			return r;
	}
	remote->used = 0;
	remote->have = (size_t)n;
	return 0;
}

/* The next message, an object; *bytes gets its size. */
static int receive(struct qmp_remote *remote, int64_t deadline, json_t **message, size_t *bytes,
		   struct err *err)
{
	json_error_t error;
	size_t used;
	int r;

	for (;;) {
		if (remote->used == remote->have) {
			r = receive_bytes(remote, deadline, err);
			if (r < 0)
				return r;
		}
		r = json_stream_feed(&remote->input, remote->bytes + remote->used,
				     remote->have - remote->used, &used);
		remote->used += used;
		if (r < 0)
			return err_set(err, r, "%s: no memory for a message", remote->address);
		if (r == JSON_STREAM_BAD)
			return err_set(err, -EPROTO, "%s: this is no QMP: %s", remote->address,
				       remote->input.error);
		if (r == JSON_STREAM_MESSAGE)
			break;
		/* Who sends without pause never lets poll look at the clock. */
		if (!ms_left(deadline))
			return err_set(err, -ETIMEDOUT, "%s: no whole answer in time",
				       remote->address);
	}
	*bytes = remote->input.value.len;
	*message = json_loadb((const char *)remote->input.value.data, *bytes, JSON_REJECT_DUPLICATES, &error);
	if (!*message)
		return err_set(err, -EPROTO, "%s: this is no QMP: %s", remote->address, error.text);
	if (json_is_object(*message))
		return 0;
	json_decref(*message);
	return err_set(err, -EPROTO, "%s: this is no QMP: a message is no object", remote->address);
}

/* As send, with the descriptor that is to be passed, which a part of it is enough for. */
static ssize_t send_some(struct qmp_remote *remote, const char *text, size_t len)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct iovec iov = { (char *)text, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (remote->passed_fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &remote->passed_fd, sizeof(int));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	n = sendmsg(remote->fd, &msg, MSG_NOSIGNAL);
	if (n > 0)
		remote->passed_fd = -1;
	return n;
}

static int send_message(struct qmp_remote *remote, const json_t *message, int64_t deadline,
			struct err *err)
{
	char *text = json_dumps(message, JSON_COMPACT);
	size_t len, sent = 0;
	ssize_t n;
	int r = 0;

	if (!text)
		return err_set(err, -ENOMEM, "no memory for a message");
	len = strlen(text);
	text[len++] = '\n';	/* instead of the NUL */
	while (sent < len && !r) {
		n = send_some(remote, text + sent, len - sent);
		if (n > 0)
			sent += (size_t)n;
		else if (errno == EAGAIN || errno == EINTR)
			r = wait_ready(remote, POLLOUT, deadline, err);
		else
			r = err_errno(err, -errno, "%s", remote->address);
	}
	free(text);
	return r;
}

/* Consumes the event. */
static int keep_event(struct qmp_remote *remote, json_t *json, size_t bytes, struct err *err)
{
	if (remote->nevents == QMP_REMOTE_EVENTS_MAX ||
	    remote->events_bytes + bytes > QMP_REMOTE_EVENTS_BYTES) {
		json_decref(json);
		return err_set(err, -EPROTO, "%s: sends events without end and no answer",
			       remote->address);
	}
	remote->events[remote->nevents++] = (struct event){ .json = json, .bytes = bytes };
	remote->events_bytes += bytes;
	return 0;
}

static bool is_event(const json_t *message)
{
	return json_is_string(json_object_get(message, "event"));
}

/*
 * Is it the reply to the request of that id? An error that comes before the
 * server has seen an id has none.
 */
static bool is_reply(const json_t *message, const json_t *id)
{
	const json_t *theirs = json_object_get(message, "id");
	bool error = json_is_object(json_object_get(message, "error"));

	if (!error && !json_object_get(message, "return"))
		return false;
	return theirs ? json_equal(theirs, id) : error;
}

int qmp_remote_ask(struct qmp_remote *remote, json_t *request, json_t **reply, struct err *err)
{
	int64_t deadline = deadline_in(remote->timeout_ms);
	json_t *message, *id;
	size_t bytes;
	int r = 0;

	if (!json_object_get(request, "id"))
		r = json_object_set_new(request, "id", json_integer(++remote->id));
	if (r < 0) {
		json_decref(request);
		return err_set(err, -ENOMEM, "no memory for a message");
	}
	id = json_incref(json_object_get(request, "id"));
	r = send_message(remote, request, deadline, err);
	json_decref(request);
	while (!r) {
		r = receive(remote, deadline, &message, &bytes, err);
		if (r < 0)
			break;
		if (is_event(message)) {
			r = keep_event(remote, message, bytes, err);
			continue;
		}
		if (is_reply(message, id)) {
			*reply = message;
			break;
		}
		json_decref(message);
		r = err_set(err, -EPROTO,
			    "%s: this is no QMP: a message is neither an event nor the answer",
			    remote->address);
	}
	json_decref(id);
	return r;
}

int qmp_remote_call(struct qmp_remote *remote, const char *command, json_t *args, json_t **result,
		    struct err *err)
{
	json_t *request = json_pack("{s:s,s:o*}", "execute", command, "arguments", args), *reply,
	       *error;
	const char *desc;
	int r;

	if (!request)
		return err_set(err, -ENOMEM, "no memory for a message");
	r = qmp_remote_ask(remote, request, &reply, err);
	if (r < 0)
		return r;
	error = json_object_get(reply, "error");
	if (error) {
		desc = json_string_value(json_object_get(error, "desc"));
		r = err_set(err, -EREMOTEIO, "%s", desc ? desc : "an error without a text");
	} else if (result) {
		*result = json_incref(json_object_get(reply, "return"));
	}
	json_decref(reply);
	return r;
}

int qmp_remote_pass_fd(struct qmp_remote *remote, const char *name, int fd, struct err *err)
{
	int domain = AF_UNSPEC, r;
	socklen_t len = sizeof(domain);

	if (getsockopt(remote->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
		return err_set(err, -EINVAL,
			       "%s: a descriptor can be passed over a unix socket alone",
			       remote->address);
	remote->passed_fd = fd;
	r = qmp_remote_call(remote, "getfd", json_pack("{s:s}", "fdname", name), NULL, err);
	remote->passed_fd = -1;
	return r;
}

int qmp_remote_event(struct qmp_remote *remote, int timeout_ms, json_t **event, struct err *err)
{
	struct err why;
	size_t bytes;
	int r;

	if (remote->nevents) {
		*event = remote->events[0].json;
		remote->events_bytes -= remote->events[0].bytes;
		memmove(remote->events, remote->events + 1,
			--remote->nevents * sizeof(remote->events[0]));
		return 1;
	}
	r = receive(remote, deadline_in(timeout_ms), event, &bytes, &why);
	if (r == -ETIMEDOUT)
		return 0;
	if (r < 0)
		return err_set(err, r, "%s", why.text);
	if (is_event(*event))
		return 1;
	json_decref(*event);
	return err_set(err, -EPROTO, "%s: this is no QMP: an event was expected", remote->address);
}

/* ---- beginning and end ---- */

static int negotiate(struct qmp_remote *remote, int64_t deadline, struct err *err)
{
	json_t *greeting;
	size_t bytes;
	bool fine;
	int r;

	r = receive(remote, deadline, &greeting, &bytes, err);
	if (r < 0)
		return r;
	fine = json_is_object(json_object_get(greeting, "QMP"));
	json_decref(greeting);
	if (!fine)
		return err_set(err, -EPROTO, "%s: this is no QMP: the greeting is missing",
			       remote->address);
	return qmp_remote_call(remote, "qmp_capabilities", NULL, NULL, err);
}

int qmp_remote_open(struct qmp_remote **out, const char *address, int timeout_ms, struct err *err)
{
	struct qmp_remote *remote = calloc(1, sizeof(*remote));
	int64_t deadline = deadline_in(timeout_ms);
	int r;

	if (!remote)
		return err_set(err, -ENOMEM, "no memory for a connection");
	remote->fd = remote->interrupt_fd = remote->passed_fd = -1;
	remote->timeout_ms = timeout_ms;
	snprintf(remote->address, sizeof(remote->address), "%s", address);
	r = connect_address(remote, address, timeout_ms, err);
	if (!r)
		r = negotiate(remote, deadline, err);
	if (r < 0) {
		qmp_remote_free(remote);
		return r;
	}
	*out = remote;
	return 0;
}

void qmp_remote_interrupt_by(struct qmp_remote *remote, int fd)
{
	remote->interrupt_fd = fd;
}

void qmp_remote_free(struct qmp_remote *remote)
{
	unsigned int i;

	if (!remote)
		return;
	for (i = 0; i < remote->nevents; i++)
		json_decref(remote->events[i].json);
	json_stream_fini(&remote->input);
	if (remote->fd >= 0)
		close(remote->fd);
	free(remote);
}
