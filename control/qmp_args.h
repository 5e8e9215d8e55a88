/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Strict checks of a QMP command and its arguments, with QEMU's order and texts
 * (qapi/qobject-input-visitor.c and qapi/qmp-dispatch.c there). Pure.
 */
#ifndef POSTERN_CONTROL_QMP_ARGS_H
#define POSTERN_CONTROL_QMP_ARGS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "control/qmp_input.h"

enum qmp_type {
	QMP_STRING,
	QMP_UINT,	/* 0 to UINT64_MAX */
	QMP_BOOL,
	QMP_ARRAY,
	QMP_OBJECT,
};

/* A command's arguments; the list ends with a NULL name. */
struct qmp_arg {
	const char *name;
	enum qmp_type type;
	bool optional;
};

/*
 * Every mandatory argument there, every one of the right type, no other. args,
 * of the message `input` (NULL: see qmp_input_uint), may be NULL: none. 0 or
 * -EINVAL.
 */
int qmp_args_check(const struct qmp_input *input, const json_t *args, const struct qmp_arg *spec,
		   struct err *err);

/* A parsed request's parts, borrowed from it. */
struct qmp_request {
	const char *command;
	const json_t *args;	/* NULL: none */
	bool oob;		/* exec-oob */
};
/* The request's outer form. oob: the client has negotiated it. 0 or -EINVAL. */
int qmp_request_check(struct qmp_request *request, const json_t *message, bool oob,
		      struct err *err);

#endif
