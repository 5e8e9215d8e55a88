/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A QMP client's message, parsed, with what jansson cannot hold. RFC 8259 sets
 * no limit to numbers, QEMU's commands take integers up to 2^64 - 1, and an id
 * is sent back whatever it is; jansson refuses a whole message for one integer
 * beyond a signed 64 bits, or a number beyond a double. So the id is kept as it
 * was written, and each number out of jansson's range is noted beside the value
 * that stands for it. Pure: no I/O.
 */
#ifndef POSTERN_CONTROL_QMP_INPUT_H
#define POSTERN_CONTROL_QMP_INPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct qmp_number;

struct qmp_input {
	json_t *message;		/* any JSON value; 0 or 0.0 stands for a number that jansson cannot hold */
	char *id;			/* the text of the object's member "id", without white space; NULL: there is none */
	struct qmp_number *numbers;	/* those out of range, in the order of the text */
	size_t nnumbers;
};

/*
 * Parses the len bytes at `text`, one value with brackets that match
 * (json_stream.h), and writes to them. -EINVAL: no JSON, with jansson's text;
 * -ENOMEM. To be finished with qmp_input_fini in any case.
 */
int qmp_input_parse(struct qmp_input *input, char *text, size_t len, struct err *err);
void qmp_input_fini(struct qmp_input *input);

/*
 * Is `value`, of this message, an integer from 0 to 2^64 - 1? input NULL: of a
 * message that has no number out of range. *to gets it.
 */
bool qmp_input_uint(const struct qmp_input *input, const json_t *value, uint64_t *to);

#endif
