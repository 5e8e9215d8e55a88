// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The file of options: values, types, and where an error is.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/config.h"

static char path[64];

static const struct config_key keys[] = {
	{ "text", CONFIG_TEXT, 't' },  { "number", CONFIG_NUMBER, 'n' }, { "size", CONFIG_SIZE, 's' },
	{ "flag", CONFIG_FLAG, 'f' },  { "list", CONFIG_LIST, 'l' },	 { 0 },
};

/* "t=value;" for each value taken; a value "bad" is refused. */
static int take(void *arg, int option, const char *value, struct err *err)
{
	char *taken = arg;

	if (value && !strcmp(value, "bad"))
		return err_set(err, -EINVAL, "this is bad");
	snprintf(taken + strlen(taken), 256 - strlen(taken), "%c=%s;", option, value ? value : "");
	return 0;
}

static int load(const char *text, size_t len, char *taken, struct err *err)
{
	FILE *file = fopen(path, "w");
	struct config config = { 0 };
	int r;

	*taken = '\0';
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	fclose(file);
	r = config_load(&config, path, keys, take, taken, err);
	config_fini(&config);
	return r;
}

static void fine(const char *text, const char *wanted)
{
	char taken[256];
	struct err err;

	if (load(text, strlen(text), taken, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	assert_string_equal(taken, wanted);
}

/* The error is the path and `says`. */
static void wrong(const char *text, const char *says)
{
	char taken[256], wanted[256];
	struct err err;

	assert_int_equal(load(text, strlen(text), taken, &err), -EINVAL);
	snprintf(wanted, sizeof(wanted), "%s%s", path, says);
	if (strncmp(err.text, wanted, strlen(wanted)) != 0)
		fail_msg("%s\n says %s\n not  %s", text, err.text, wanted);
}

static void test_values_are_taken_in_order_as_text(void **state)
{
	(void)state;
	fine("{}", "");
	fine("{\"text\": \"a b\", \"number\": 7, \"size\": \"2G\", \"flag\": true, \"list\": \"x\"}",
	     "t=a b;n=7;s=2G;f=;l=x;");
	fine("{\"list\": [\"x\", \"y\"], \"size\": 4096, \"flag\": false}", "l=x;l=y;s=4096;");
	fine("{\"number\": 9223372036854775807}", "n=9223372036854775807;");
	fine("{\"number\": -1}", "n=-1;");	/* whose range it is knows what to say */
	fine("{\"list\": []}", "");
}

static void test_an_unknown_key_is_named_with_its_line(void **state)
{
	(void)state;
	wrong("{\"txt\": 1}", ":1: \"txt\": there is no such key");
	wrong("{\n\"text\": \"number\",\n\n \"Number\" :\n1}",
	      ":4: \"Number\": there is no such key");
	wrong("{\"text\": \"{\\\"a\\\": \\\"\",\n\"a\": 1}", ":2: \"a\"");
	wrong("{\"list\": [\"a\",\n\"b\"],\n\"b\": 1}", ":3: \"b\"");
	wrong("{\"\\u0061\": 1}", ": \"a\": there is no such key");
}

static void test_a_wrong_type_is_named_with_its_line(void **state)
{
	(void)state;
	wrong("{\n\"text\": 5}", ":2: \"text\": a string is needed");
	wrong("{\"text\": null}", ":1: \"text\": a string");
	wrong("{\"number\": \"5\"}", ":1: \"number\": a number");
	wrong("{\"number\": 1.5}", ":1: \"number\": a number without a fraction");
	wrong("{\"size\": [1]}", ":1: \"size\": a size");
	wrong("{\"flag\": 1}", ":1: \"flag\": true or false");
	wrong("{\"list\": [\"a\", 5]}", ":1: \"list\": a string or an array");
	wrong("{\"list\": {}}", ":1: \"list\": a string or an array");
	wrong("{\"flag\": true,\n\"text\": \"bad\"}", ":2: this is bad");
	wrong("{\"list\": [\"a\",\n\"bad\"]}", ":1: this is bad");
}

static void test_what_is_no_json_object_is_told_by_line(void **state)
{
	char taken[256], *huge;
	struct err err;

	(void)state;
	wrong("", ":1: ");
	wrong("{\n\"text\": \n}", ":3: ");
	wrong("{\"text\": \"a\",\n\"text\": \"b\"}", ":2: ");
	wrong("[1]", ": an object is needed");
	wrong("{} {}", ":1: ");
	assert_int_equal(load("{}\0", 3, taken, &err), -EINVAL);
	huge = calloc(1, CONFIG_BYTES_MAX + 1);
	memset(huge, ' ', CONFIG_BYTES_MAX + 1);
	memcpy(huge, "{}", 2);
	assert_int_equal(load(huge, CONFIG_BYTES_MAX, taken, &err), 0);
	assert_int_equal(load(huge, CONFIG_BYTES_MAX + 1, taken, &err), -EINVAL);
	free(huge);
}

static void test_a_file_that_cannot_be_read_is_named(void **state)
{
	struct config config = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(config_load(&config, "/nonexistent", keys, take, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent"));
	assert_int_equal(config_load(&config, "/", keys, take, NULL, &err), -EISDIR);
	config_fini(&config);
}

static int set_up(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/postern-config-XXXXXX");
	fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values_are_taken_in_order_as_text),
		cmocka_unit_test(test_an_unknown_key_is_named_with_its_line),
		cmocka_unit_test(test_a_wrong_type_is_named_with_its_line),
		cmocka_unit_test(test_what_is_no_json_object_is_told_by_line),
		cmocka_unit_test(test_a_file_that_cannot_be_read_is_named),
	};

	return cmocka_run_group_tests_name("config", tests, set_up, tear_down);
}
