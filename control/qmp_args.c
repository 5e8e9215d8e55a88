// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See qmp_args.h. As in QEMU, members are looked at in the command's order, and
// only then is it asked whether there are others.
#include "control/qmp_args.h"

#include <errno.h>
#include <string.h>

static const char *type_name(enum qmp_type type)
{
	switch (type) {
	case QMP_STRING:
		return "string";
	case QMP_UINT:
		return "integer";
	case QMP_BOOL:
		return "boolean";
	case QMP_ARRAY:
		return "array";
	case QMP_OBJECT:
		break;
	}
	return "object";
}

static bool type_fits(enum qmp_type type, const json_t *value)
{
	switch (type) {
	case QMP_STRING:
		return json_is_string(value);
	case QMP_UINT:
		return json_is_integer(value);
	case QMP_BOOL:
		return json_is_boolean(value);
	case QMP_ARRAY:
		return json_is_array(value);
	case QMP_OBJECT:
		break;
	}
	return json_is_object(value);
}

/*
 * A text is a path, a name, a URL: what would be taken of it ends at its first NUL, and is another
 * one than was asked for.
 */
static bool has_nul(const json_t *value)
{
	const json_t *child;
	const char *name;
	size_t i;

	if (json_is_string(value))
		return strlen(json_string_value(value)) != json_string_length(value);
	/* As deep as json_stream.h lets it be. */
	json_array_foreach((json_t *)value, i, child)
		if (has_nul(child))
			return true;
	json_object_foreach((json_t *)value, name, child)
		if (has_nul(child))
			return true;
	return false;
}

static int check_arg(const struct qmp_input *input, const json_t *value, const struct qmp_arg *arg,
		     struct err *err)
{
	uint64_t number;

	if (!value)
		return arg->optional ?
			       0 :
			       err_set(err, -EINVAL, "Parameter '%s' is missing", arg->name);
	if (!type_fits(arg->type, value))
		return err_set(err, -EINVAL, "Invalid parameter type for '%s', expected: %s",
			       arg->name, type_name(arg->type));
	if (arg->type == QMP_UINT && !qmp_input_uint(input, value, &number))
		return err_set(err, -EINVAL, "Parameter '%s' expects uint64", arg->name);
	if (has_nul(value))
		return err_set(err, -EINVAL, "Parameter '%s' has a character that no text has: NUL",
			       arg->name);
	return 0;
}

static bool is_known(const struct qmp_arg *spec, const char *name)
{
	for (; spec->name; spec++)
		if (!strcmp(spec->name, name))
			return true;
	return false;
}

int qmp_args_check(const struct qmp_input *input, const json_t *args, const struct qmp_arg *spec,
		   struct err *err)
{
	const struct qmp_arg *arg;
	const char *name;
	json_t *value;
	int r;

	for (arg = spec; arg->name; arg++) {
		r = check_arg(input, args ? json_object_get(args, arg->name) : NULL, arg, err);
		if (r < 0)
			return r;
	}
	if (!args)
		return 0;
	json_object_foreach((json_t *)args, name, value)
		if (!is_known(spec, name))
			return err_set(err, -EINVAL, "Parameter '%s' is unexpected", name);
	return 0;
}

static int qmp_args_take_command(struct qmp_request *request, const char **seen, const char *name,
				 const json_t *value, struct err *err)
{
	if (!json_is_string(value))
		return err_set(err, -EINVAL, "QMP input member '%s' must be a string", name);
	if (has_nul(value))
		return err_set(err, -EINVAL,
			       "QMP input member '%s' has a character that no text has: NUL", name);
	if (*seen)
		return err_set(err, -EINVAL, "QMP input member '%s' clashes with '%s'", name,
			       *seen);
	*seen = name;
	request->command = json_string_value(value);
	request->oob = strcmp(name, "exec-oob") == 0;
	return 0;
}

static int take_member(struct qmp_request *request, const char **seen, const char *name,
		       const json_t *value, bool oob, struct err *err)
{
	if (!strcmp(name, "execute") || (oob && !strcmp(name, "exec-oob")))
		return qmp_args_take_command(request, seen, name, value, err);
	if (!strcmp(name, "arguments")) {
		if (!json_is_object(value))
			return err_set(err, -EINVAL,
				       "QMP input member 'arguments' must be an object");
		request->args = value;
		return 0;
	}
	if (!strcmp(name, "id"))
		return 0;
	return err_set(err, -EINVAL, "QMP input member '%s' is unexpected", name);
}

int qmp_request_check(struct qmp_request *request, const json_t *message, bool oob, struct err *err)
{
	const char *name, *seen = NULL;
	json_t *value;
	int r;

	*request = (struct qmp_request){ 0 };
	if (!json_is_object(message))
		return err_set(err, -EINVAL, "QMP input must be a JSON object");
	json_object_foreach((json_t *)message, name, value) {
		r = take_member(request, &seen, name, value, oob, err);
		if (r < 0)
			return r;
	}
	if (!request->command)
		return err_set(err, -EINVAL, "QMP input lacks member 'execute'");
	return 0;
}
