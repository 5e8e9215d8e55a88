// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * One walk over the text: strings are skipped, brackets counted, numbers looked
 * at, and the text of the outermost object's member "id" noted. A number that
 * jansson cannot hold is overwritten by a zero of its kind, and noted by how
 * many numbers stand before it. jansson then checks the whole grammar; it keeps
 * an object's members in the order of the text (json_object_iter), so a walk
 * over what it has made meets the numbers in the same order, and each note gets
 * its value.
 */
#include "control/qmp_input.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_CHARS "+-.0123456789Ee"

struct qmp_number {
	size_t at, len;		/* in the text */
	size_t place;		/* how many numbers stand before it */
	bool real, fits;	/* fits: an integer of 64 bits without sign: value */
	uint64_t value;
	const json_t *node;	/* what stands for it */
};

struct scan {
	struct qmp_input *input;
	char *text;
	size_t len, at;
	unsigned int depth;
	size_t numbers;			/* met so far */
	bool key_next;			/* in the outermost object, a string that comes is a key */
	bool key_is_id;
	size_t id_start, id_end;	/* id_end 0: not met */
};

/* ---- numbers ---- */

static size_t digits(const char *text, size_t len, size_t at)
{
	while (at < len && text[at] >= '0' && text[at] <= '9')
		at++;
	return at;
}

/* RFC 8259, section 6. What is no number is left for jansson to name. */
static bool is_number(const char *text, size_t len, bool *real)
{
	size_t at = len && *text == '-', start = at;

	*real = false;
	at = digits(text, len, at);
	if (at == start || (text[start] == '0' && at > start + 1))
		return false;
	if (at < len && text[at] == '.') {
		*real = true;
		start = ++at;
		at = digits(text, len, at);
		if (at == start)
			return false;
	}
	if (at < len && (text[at] == 'e' || text[at] == 'E')) {
		*real = true;
		at++;
		if (at < len && (text[at] == '+' || text[at] == '-'))
			at++;
		start = at;
		at = digits(text, len, at);
		if (at == start)
			return false;
	}
	return at == len;
}

/* Can jansson not hold it? A real that is too small is a zero to jansson, and to everybody. */
static bool is_out_of_range(const char *text, bool real)
{
	double value;

	errno = 0;
	if (!real) {
		strtoll(text, NULL, 10);
		return errno == ERANGE;
	}
	value = strtod(text, NULL);
	return errno == ERANGE && (value == HUGE_VAL || value == -HUGE_VAL);
}

/* `text` is terminated. */
static int note_number(struct scan *scan, const char *text, size_t at, size_t len, bool real)
{
	struct qmp_input *input = scan->input;
	struct qmp_number *number, *more = input->numbers;

	/* Doubles at each power of two. */
	if (!(input->nnumbers & (input->nnumbers - 1)))
		more = realloc(more, (input->nnumbers ? 2 * input->nnumbers : 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	input->numbers = more;
	number = &more[input->nnumbers++];
	*number = (struct qmp_number){ .at = at, .len = len, .place = scan->numbers, .real = real };
	errno = 0;
	number->value = real || *text == '-' ? 0 : strtoull(text, NULL, 10);
	number->fits = !real && *text != '-' && errno != ERANGE;
	return 0;
}

/*
 * A number of that length. The C library's functions want an end to it: the
 * long ones alone are worth a copy.
 */
static int look_at_number(struct scan *scan, const char *text, size_t len, bool real)
{
	char small[24], *copy = small;
	int r = 0;

	if (len >= sizeof(small))
		copy = malloc(len + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (is_out_of_range(copy, real))
		r = note_number(scan, copy, (size_t)(text - scan->text), len, real);
	if (copy != small)
		free(copy);
	scan->numbers++;
	return r;
}

static int scan_number(struct scan *scan)
{
	const char *text = scan->text + scan->at;
	size_t len = 0;
	bool real;

	while (scan->at + len < scan->len && text[len] && strchr(NUMBER_CHARS, text[len]))
		len++;
	scan->at += len;
	return is_number(text, len, &real) ? look_at_number(scan, text, len, real) : 0;
}

/* ---- the walk ---- */

static size_t string_end(const struct scan *scan)
{
	size_t at = scan->at + 1;

	while (at < scan->len && scan->text[at] != '"')
		at += scan->text[at] == '\\' ? 2 : 1;
	return at < scan->len ? at + 1 : scan->len;
}

/* "id", however it is written. */
static bool key_is_id(const struct scan *scan, size_t end)
{
	json_t *key = json_loadb(scan->text + scan->at, end - scan->at,
				 JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	bool is = json_is_string(key) && json_string_length(key) == 2 &&
		  !memcmp(json_string_value(key), "id", 2);

	json_decref(key);
	return is;
}

static void scan_string(struct scan *scan)
{
	size_t end = string_end(scan);

	if (scan->key_next)
		scan->key_is_id = key_is_id(scan, end);
	scan->key_next = false;
	scan->at = end;
}

/* A member of the outermost object ends before the byte at hand. */
static void member_ends(struct scan *scan)
{
	if (scan->key_is_id && scan->id_start && !scan->id_end)
		scan->id_end = scan->at;
	scan->key_is_id = false;
}

static void scan_mark(struct scan *scan, char c)
{
	if (c == '}' || c == ']') {
		if (scan->depth == 1)
			member_ends(scan);
		scan->depth -= scan->depth > 0;
	} else if (c == '{' || c == '[') {
		scan->key_next = !scan->depth++ && c == '{';
	} else if (c == ',' && scan->depth == 1) {
		member_ends(scan);
		scan->key_next = *scan->text == '{';
	} else if (c == ':' && scan->depth == 1 && scan->key_is_id && !scan->id_start) {
		scan->id_start = scan->at + 1;
	}
	scan->at++;
}

static int qmp_input_walk(struct scan *scan)
{
	int r = 0;

	while (scan->at < scan->len && !r) {
		char c = scan->text[scan->at];

		if (c == '"')
			scan_string(scan);
		else if (c == '-' || (c >= '0' && c <= '9'))
			r = scan_number(scan);
		else
			scan_mark(scan, c);
	}
	return r;
}

/* The id's text, without white space outside of strings: answers are a line each. */
static int keep_id(struct scan *scan)
{
	size_t at, used = 0;
	bool quoted = false;
	char *id;

	if (!scan->id_end)
		return 0;
	id = malloc(scan->id_end - scan->id_start + 1);
	if (!id)
		return -ENOMEM;
	for (at = scan->id_start; at < scan->id_end; at++) {
		char c = scan->text[at];

		if (!quoted && strchr(" \t\r\n", c) && c)
			continue;
		id[used++] = c;
		if (quoted && c == '\\' && at + 1 < scan->id_end)
			id[used++] = scan->text[++at];
		else if (c == '"')
			quoted = !quoted;
	}
	id[used] = '\0';
	scan->input->id = id;
	return 0;
}

static void overwrite_numbers(const struct scan *scan)
{
	const struct qmp_input *input = scan->input;
	size_t i;

	for (i = 0; i < input->nnumbers; i++) {
		char *text = scan->text + input->numbers[i].at;

		memset(text, ' ', input->numbers[i].len);
		/* The shortest real that is too large has five characters. */
		memcpy(text, "0.0", input->numbers[i].real ? 3 : 1);
	}
}

/* ---- what jansson has made of it ---- */

struct match {
	struct qmp_input *input;
	size_t met;		/* numbers */
	size_t next;		/* note */
};

static void match_nodes(struct match *match, json_t *value)
{
	struct qmp_number *number;
	const char *key;
	json_t *item;
	size_t i;

	if (json_is_object(value)) {
		json_object_foreach(value, key, item)
			match_nodes(match, item);
	} else if (json_is_array(value)) {
		json_array_foreach(value, i, item)
			match_nodes(match, item);
	} else if (json_is_number(value) && match->next < match->input->nnumbers) {
		number = &match->input->numbers[match->next];
		if (number->place == match->met) {
			number->node = value;
			match->next++;
		}
		match->met++;
	}
}

int qmp_input_parse(struct qmp_input *input, char *text, size_t len, struct err *err)
{
	struct scan scan = { .input = input, .text = text, .len = len };
	struct match match = { .input = input };
	json_error_t error;
	int r;

	*input = (struct qmp_input){ 0 };
	r = qmp_input_walk(&scan);
	if (!r)
		r = keep_id(&scan);
	if (r < 0)
		return err_set(err, r, "no memory for a message");
	overwrite_numbers(&scan);
	input->message = json_loadb(
		text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	if (!input->message)
		return err_set(err, -EINVAL, "JSON parse error, %s", error.text);
	if (input->nnumbers)
		match_nodes(&match, input->message);
	return 0;
}

void qmp_input_fini(struct qmp_input *input)
{
	json_decref(input->message);
	free(input->id);
	free(input->numbers);
	*input = (struct qmp_input){ 0 };
}

bool qmp_input_uint(const struct qmp_input *input, const json_t *value, uint64_t *to)
{
	size_t i;

	if (!json_is_integer(value))
		return false;
	for (i = 0; input && i < input->nnumbers; i++)
		if (input->numbers[i].node == value) {
			*to = input->numbers[i].value;
			return input->numbers[i].fits;
		}
	*to = (uint64_t)json_integer_value(value);
	return json_integer_value(value) >= 0;
}
