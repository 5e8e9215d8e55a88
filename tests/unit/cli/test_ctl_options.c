// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The command line of postern ctl.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cli/ctl_options.h"

#define WORDS_MAX 12

/* Parses words that are separated by spaces; they live until the next call. */
static int parse(struct ctl_options *o, const char *words, struct err *err)
{
	static char text[256];
	char *argv[WORDS_MAX + 1] = { "ctl" }, *word, *save = NULL;
	int argc = 1;

	assert_true(strlen(words) < sizeof(text));
	strcpy(text, words);
	for (word = strtok_r(text, " ", &save); word && argc < WORDS_MAX;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	return ctl_options_parse(o, argc, argv, err);
}

static void test_options_stand_before_and_after_the_command(void **state)
{
	struct ctl_options o;
	struct err err;

	(void)state;
	assert_int_equal(parse(&o,
			       "--name web migrate tcp:h:1 --bandwidth 2M --detach -j --timeout 3",
			       &err),
			 0);
	assert_int_equal(o.command, CTL_MIGRATE);
	assert_string_equal(o.argument, "tcp:h:1");
	assert_string_equal(o.name, "web");
	assert_true(o.limit && o.detach && o.json && !o.resume);
	assert_int_equal(o.bandwidth, 2 << 20);
	assert_int_equal(o.timeout_ms, 3000);
	assert_int_equal(parse(&o, "stop", &err), 0);
	assert_null(o.name);
	assert_null(o.argument);
	assert_false(o.json || o.limit || o.detach);
	assert_int_equal(o.timeout_ms, 10000);
	assert_int_equal(parse(&o, "migrate --resume -- -x", &err), 0);
	assert_string_equal(o.argument, "-x");
	assert_int_equal(parse(&o, "recover u --secret-file /s", &err), 0);
	assert_string_equal(o.secret_file, "/s");
	assert_int_equal(parse(&o, "incoming u --insecure", &err), 0);
	assert_true(o.insecure && !o.secret_file);
}

static void test_every_command_is_known(void **state)
{
	static const struct {
		const char *words, *qmp;
		enum ctl_command command;
	} all[] = {
		{ "list", NULL, CTL_LIST }, { "status", NULL, CTL_STATUS }, { "stop", "stop", CTL_STOP },
		{ "cont", "cont", CTL_CONT }, { "quit", NULL, CTL_QUIT }, { "powerdown", "system_powerdown", CTL_POWERDOWN },
		{ "reset", "system_reset", CTL_RESET }, { "migrate u", "migrate", CTL_MIGRATE },
		{ "incoming u", "migrate-incoming", CTL_INCOMING }, { "recover u", "migrate-recover", CTL_RECOVER },
		{ "pause-migration", "migrate-pause", CTL_PAUSE_MIGRATION }, { "cancel", "migrate_cancel", CTL_CANCEL },
		{ "migrate-cancel", "migrate_cancel", CTL_CANCEL }, { "faults", NULL, CTL_FAULTS },
		{ "events", NULL, CTL_EVENTS }, { "qmp {}", NULL, CTL_QMP },
	};
	struct ctl_options o;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		assert_int_equal(parse(&o, all[i].words, &err), 0);
		assert_int_equal(o.command, all[i].command);
		if (all[i].qmp)
			assert_string_equal(ctl_command_qmp(o.command), all[i].qmp);
		else
			assert_null(ctl_command_qmp(o.command));
		assert_int_equal(!strchr(all[i].words, ' '), !o.argument);
	}
}

static void test_what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *words, *says;
	} bad[] = {
		{ "", "command is missing" }, { "fly", "fly" }, { "Stop", "Stop" }, { "stop now", "now" },
		{ "migrate", "URI" }, { "qmp", "JSON" }, { "migrate a b", "b" }, { "stop --resume", "migrate" }, { "stop --detach", "incoming" }, { "recover u --resume", "migrate" },
		{ "stop --bandwidth 1M", "migrate" }, { "migrate a --bandwidth -1", "--bandwidth" },
		{ "migrate a --bandwidth 9999999T", "--bandwidth" }, { "--timeout 0 stop", "--timeout" },
		{ "--timeout 3601 stop", "--timeout" }, { "--timeout 1x stop", "--timeout" },
		{ "--timeout 4294967297 stop", "--timeout" }, { "--name a/b stop", "a/b" }, { "--name .. stop", ".." },
		{ "--name a --qmp b stop", "--qmp" }, { "list --name a", "list" }, { "status --names", "--names" },
		{ "--fly stop", "--fly" }, { "stop --insecure", "--insecure" }, { "status --secret-file x", "--secret-file" },
		{ "migrate u --secret-file x --insecure", "only one" }, { "stop --name", "--name" },
	};
	struct ctl_options o;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(parse(&o, bad[i].words, &err), -EINVAL);
		if (!strstr(err.text, bad[i].says))
			fail_msg("\"%s\": \"%s\" says nothing of \"%s\"", bad[i].words, err.text,
				 bad[i].says);
	}
}

static void test_help_needs_no_command(void **state)
{
	struct ctl_options o;
	struct err err;

	(void)state;
	assert_int_equal(parse(&o, "--help", &err), 0);
	assert_true(o.help);
	assert_int_equal(parse(&o, "stop -h", &err), 0);
	assert_true(o.help);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_stand_before_and_after_the_command),
		cmocka_unit_test(test_every_command_is_known),
		cmocka_unit_test(test_what_is_wrong_is_named),
		cmocka_unit_test(test_help_needs_no_command),
	};

	return cmocka_run_group_tests_name("ctl_options", tests, NULL, NULL);
}
