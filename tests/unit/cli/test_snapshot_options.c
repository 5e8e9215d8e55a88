// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The command line of `postern snapshot`.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/snapshot.h"

static struct snapshot_options options;
static struct err err;

static int parse(const char *line)
{
	static char words[512];
	char *argv[16] = { (char *)"snapshot" }, *save = words;
	int argc = 1;

	strcpy(words, line);
	while ((argv[argc] = strsep(&save, " ")))
		argc++;
	return snapshot_options_parse(&options, argc, argv, &err);
}

static void test_good_lines(void **state)
{
	(void)state;
	assert_int_equal(parse("save --name web --level 19 /images/web1 --detach"), 0);
	assert_int_equal(options.command, SNAPSHOT_SAVE);
	assert_string_equal(options.place[0], "/images/web1");
	assert_string_equal(options.ctl.name, "web");
	assert_int_equal(options.level, 19);
	assert_true(options.ctl.detach);
	assert_null(options.store.given);
	assert_int_equal(parse("save s3://b/a --store-credentials c --store-deadline 500"), 0);
	assert_string_equal(options.store.store.credentials, "c");
	assert_int_equal(options.store.store.deadline_ms, 500);
	assert_false(options.incremental || options.track || options.pause || options.parent);
	assert_int_equal(parse("save /images/web1 --incremental --track"), 0);
	assert_true(options.incremental && options.track);
	assert_int_equal(parse("save /images/web1 --parent web0 --pause"), 0);
	assert_string_equal(options.parent, "web0");
	assert_true(options.pause);
	assert_int_equal(parse("status --qmp unix:/x --json --timeout 3"), 0);
	assert_int_equal(options.command, SNAPSHOT_STATUS);
	assert_int_equal(options.ctl.timeout_ms, 3000);
	assert_int_equal(parse("cancel"), 0);
	assert_int_equal(options.command, SNAPSHOT_CANCEL);
	assert_int_equal(parse("--help"), 0);
	assert_true(options.ctl.help);
}

static void test_good_lines_of_images(void **state)
{
	(void)state;
	assert_int_equal(parse("compact --threads 16 s3://b/from --level 3 s3://b/to"), 0);
	assert_int_equal(options.command, SNAPSHOT_COMPACT);
	assert_string_equal(options.place[0], "s3://b/from");
	assert_string_equal(options.place[1], "s3://b/to");
	assert_int_equal(options.threads, 16);
	assert_int_equal(parse("gc --dry-run --dead-after 3600 /images -j"), 0);
	assert_int_equal(options.command, SNAPSHOT_GC);
	assert_true(options.dry_run && options.ctl.json);
	assert_int_equal(options.dead_after_s, 3600);
	assert_int_equal(parse("list --names images"), 0);
	assert_true(options.ctl.names);
	assert_string_equal(snapshot_command_name(SNAPSHOT_LIST), "list");
	assert_false(snapshot_command_needs_machine(SNAPSHOT_LIST));
	assert_true(snapshot_command_needs_machine(SNAPSHOT_CANCEL));
	assert_int_equal(parse("info a/b --store-deadline 500"), 0);
	assert_int_equal(options.store.store.deadline_ms, 500);
	assert_int_equal(parse("verify a/b --key-fd 7 --allow-unencrypted"), 0);
	assert_true(options.key.fd_given && options.key.fd == 7 && options.key.allow_unencrypted);
	assert_int_equal(parse("save a/b --key-file k"), 0);
	assert_string_equal(options.key.file, "k");
	assert_int_equal(parse("verify a/b"), 0);
	assert_int_equal(parse("delete a/b"), 0);
}

static void test_bad_lines_say_what_is_wrong(void **state)
{
	static const struct {
		const char *line, *text;
	} cases[] = {
		{ "save", "STORE/NAME" },
		{ "load x", "load" },
		{ "status x", "\"x\"" },
		{ "save a b", "\"b\"" },
		{ "save a --buffer 4K", "1M or more" },
		{ "save a --buffer much", "1M or more" },
		{ "status --buffer 1M", "--buffer: status does not" },
		{ "save a --level 0", "1 to 19" },
		{ "save a --level 20", "1 to 19" },
		{ "save a --level x", "1 to 19" },
		{ "status --level 3", "--level: status does not" },
		{ "cancel --detach", "--detach: cancel does not" },
		{ "status --store-deadline 500", "--store-deadline: status does not" },
		{ "save a --store-deadline 99", "100 to 3600000" },
		{ "list a --key-fd 3", "--key-fd: list does not" },
		{ "list a --key-file k", "--key-file: list does not" },
		{ "verify a/b --key-fd x", "the number of a descriptor" },
		{ "verify a/b --key-fd 3 --key-file k", "only one of them" },
		{ "verify a/b --allow-unencrypted", "needs --key-file or --key-fd" },
		{ "save a --store-cache /c", "no such option" },
		{ "info a/b --name x", "--name: info does not" },
		{ "verify a/b --dry-run", "--dry-run: verify does not" },
		{ "compact a/b", "STORE/TO" },
		{ "compact a/b a/c a/d", "\"a/d\"" },
		{ "gc", "its STORE is missing" },
		{ "gc a --dead-after 0", "--dead-after 0" },
		{ "verify a/b --threads 17", "1 to 16" },
		{ "status --incremental", "--incremental: status does not" },
		{ "status --parent x", "--parent: status does not" },
		{ "cancel --track", "--track: cancel does not" },
		{ "compact a/b a/c --pause", "--pause: compact does not" },
		{ "save a --track --pause", "only one" },
		{ "save a --name ..", "--name" },
		{ "save a --name x --qmp y", "only one" },
		{ "save a --timeout", "missing" },
		{ "save a --wat", "--wat" },
		{ "--json", "command is missing" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(cases[i].line), -EINVAL);
		assert_non_null(strstr(err.text, cases[i].text));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_lines),
		cmocka_unit_test(test_good_lines_of_images),
		cmocka_unit_test(test_bad_lines_say_what_is_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
