// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP's answers as text.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/ctl_text.h"

static char *text;
static size_t size;

static void expect(FILE *out, const char *wanted)
{
	fclose(out);
	assert_string_equal(text, wanted);
	free(text);
}

static json_t *load(const char *json)
{
	json_t *out = json_loads(json, JSON_DECODE_ANY, NULL);

	assert_non_null(out);
	return out;
}

static void test_sizes_and_times_have_units(void **state)
{
	static const struct {
		uint64_t value;
		const char *bytes, *us;
	} all[] = {
		{ 0, "0 B", "0 us" }, { 999, "999 B", "999 us" }, { 1024, "1.0 KiB", "1.0 ms" },
		{ 1536 << 10, "1.5 MiB", "1.6 s" }, { (uint64_t)16 << 30, "16.0 GiB", "17179.9 s" },
		{ UINT64_MAX, "16.0 EiB", "18446744073709.6 s" },
	};
	char got[CTL_BYTES_MAX];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		assert_string_equal(ctl_bytes(got, all[i].value), all[i].bytes);
		assert_string_equal(ctl_us(got, all[i].value), all[i].us);
	}
}

static void test_control_characters_do_not_pass(void **state)
{
	FILE *out = open_memstream(&text, &size);

	(void)state;
	ctl_put(out, "a\x1b[2J\x07\n\x7f\xc2\x9b z \xc3\xa9 \xc2\xa0.");
	expect(out, "a?[2J????" " z \xc3\xa9 \xc2\xa0.");
}

static void migration(const char *json, const char *wanted)
{
	FILE *out = open_memstream(&text, &size);
	json_t *migrate = load(json);

	ctl_text_migration(out, migrate);
	json_decref(migrate);
	expect(out, wanted);
}

static void test_a_migration_is_one_line(void **state)
{
	(void)state;
	migration("{\"status\": \"none\", \"postern\": {\"incoming\": false}}", "none");
	migration("{}", "none");
	migration("5", "none");
	migration(
		"{\"status\": \"postcopy-active\", \"ram\": {\"remaining\": 3145729, \"total\": 67108864}, "
		"\"postern\": {\"incoming\": true, \"bytes-per-second\": 1048576, \"recoveries\": 2}}",
		"postcopy-active, to here, 3.0 MiB of 64.0 MiB left, 1.0 MiB/s, 4 s to go, recovered 2 times");
	migration(
		"{\"status\": \"postcopy-paused\", \"ram\": {\"remaining\": 1024, \"total\": 2048}, "
		"\"postern\": {\"incoming\": false, \"bytes-per-second\": 7}}",
		"postcopy-paused, from here, 1.0 KiB of 2.0 KiB left");
	migration(
		"{\"status\": \"completed\", \"total-time\": 1234, \"ram\": {\"remaining\": 0, \"total\": 1}}",
		"completed, 1.2 s");
	migration(
		"{\"status\": \"postcopy-active\", \"ram\": {\"remaining\": -5, \"total\": \"x\"}}",
		"postcopy-active, 0 B of 0 B left, 0 B/s");
}

static void test_status_has_a_fact_a_line(void **state)
{
	FILE *out = open_memstream(&text, &size);
	json_t *name = load("{\"name\": \"web\"}"), *status = load("{\"status\": \"running\"}");
	json_t *cpus =
		load("[{\"cpu-index\": 0, \"x-postern\": {\"parked\": false}}, {\"cpu-index\": 1, "
		     "\"x-postern\": {\"waits-for\": {\"gpa\": 4096, \"since-us\": 2500}}}]");
	json_t *migrate = load("{\"status\": \"failed\", \"error-desc\": \"no route\"}");
	json_t *faults = load("{\"pages\": {\"total\": 1024, \"present\": 256, \"lost\": 3}}");

	(void)state;
	ctl_text_status(out, name, status, cpus, migrate, faults);
	expect(out, "name       web\nstatus     running\nvcpus      2\n"
		    "vcpu1      waits for page 0x1000, for 2.5 ms\n"
		    "memory     4.0 MiB, 1.0 MiB there, 3 pages lost\n"
		    "migration  failed\nerror      no route\n");
	json_decref(name);
	json_decref(status);
	json_decref(cpus);
	json_decref(migrate);
	json_decref(faults);
}

static void source(const char *json, const char *wanted)
{
	FILE *out = open_memstream(&text, &size);
	json_t *parsed = load(json);

	assert_int_equal(ctl_text_source(out, parsed), *wanted != 0);
	json_decref(parsed);
	expect(out, wanted);
}

static void test_where_memory_comes_from(void **state)
{
	(void)state;
	source("{}", "");
	source("{\"source\": {\"kind\": \"migration\"}}", "");
	source("{\"source\": 7}", "");
	source("{\"source\": {\"kind\": \"image\"}}", "image ? in ?, all is there");
	source("{\"pages\": {\"missing\": 2, \"lost\": 1}, \"source\": {\"kind\": \"image\", \"image\": \"w\\u001b\", "
	       "\"store\": \"s3://b\", \"fill\": \"on\", \"rate\": 1048576, \"failing-us\": 2000, \"error-desc\": "
	       "\"no\\nanswer\"}}",
	       "image w? in s3://b, 12.0 KiB left, fill on, 1.0 MiB/s; CANNOT BE READ for 2.0 ms: no?answer");
}

static void working_set(const char *json, const char *wanted)
{
	FILE *out = open_memstream(&text, &size);
	json_t *parsed = load(json);

	ctl_text_working_set(out, parsed);
	json_decref(parsed);
	expect(out, wanted);
}

static void test_how_far_a_working_set_is(void **state)
{
	(void)state;
	working_set("{}", "replay ?; record ?, 0 touches");
	working_set(
		"{\"working-set\": {\"replay\": \"none\", \"record\": \"running\", \"touches\": 7}}",
		"replay none; record running, 7 touches");
	working_set(
		"{\"working-set\": {\"replay\": \"ended\", \"spans\": 40, \"present\": 30, \"asked\": 2, "
		"\"missed\": 10, \"record\": \"e\\n\", \"touches\": 12}}",
		"replay ended, 30 of 40 spans here, 2 waited for, 10 touches not among them (75 % of "
		"what is known are); record e?, 12 touches");
	source("{\"pages\": {\"missing\": 512}, \"source\": {\"kind\": \"image\", \"image\": \"w\", \"store\": "
	       "\"s\", \"fill\": \"on\", \"fill-rate\": 1048576}}",
	       "image w in s, 2.0 MiB left, fill on, 2.0 s at 1.0 MiB/s");
	source("{\"pages\": {\"missing\": 512}, \"source\": {\"kind\": \"image\", \"image\": \"w\", \"store\": "
	       "\"s\", \"fill\": \"off\", \"fill-rate\": 1048576}}",
	       "image w in s, 2.0 MiB left, fill off");
}

static void event(const char *json, const char *wanted)
{
	FILE *out = open_memstream(&text, &size);
	json_t *parsed = load(json);

	ctl_text_event(out, parsed);
	json_decref(parsed);
	expect(out, wanted);
}

static void test_events_are_one_line_whatever_they_hold(void **state)
{
	(void)state;
	event("{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1000000000, \"microseconds\": 42}}",
	      "2001-09-09T01:46:40.000042Z STOP\n");
	event("{\"event\": \"MIGRATION\", \"timestamp\": {\"seconds\": 0, \"microseconds\": 9000000}, "
	      "\"data\": {\"status\": \"a\\nb\", \"n\": [1, {\"x\": null}]}}",
	      "1970-01-01T00:00:00.000000Z MIGRATION status=a?b n=[1,{\"x\":null}]\n");
	event("{\"event\": 5, \"data\": []}", "1970-01-01T00:00:00.000000Z ?\n");
	event("{\"event\": \"X\", \"timestamp\": {\"seconds\": 9223372036854775807}}",
	      "?.000000Z X\n");
}

static void test_faults_of_any_shape_are_survived(void **state)
{
	static const char *const shapes[] = {
		"5", "[]", "{\"vcpus\": 5}", "{\"vcpus\": [5, {}]}", "{\"counters\": {\"x\": \"y\"}}",
		"{\"latency\": {\"histogram\": [{\"le-us\": 1e300, \"count\": 5}, {\"count\": -1}, 7]}}",
	};
	json_t *faults;
	FILE *out;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		out = open_memstream(&text, &size);
		faults = load(shapes[i]);
		ctl_text_faults(out, faults);
		json_decref(faults);
		fclose(out);
		assert_non_null(strstr(text, "pages missing      0\n"));
		free(text);
	}
}

static void cancelled(const char *before, const char *wanted)
{
	FILE *out = open_memstream(&text, &size);
	json_t *migrate = load(before);

	ctl_text_nothing_to_cancel(out, migrate);
	json_decref(migrate);
	expect(out, wanted);
}

static void test_a_cancel_that_ends_nothing_says_so(void **state)
{
	(void)state;
	cancelled("{}", "nothing to cancel: there is no migration\n");
	cancelled("{\"status\":\"none\"}", "nothing to cancel: there is no migration\n");
	cancelled("{\"status\":\"completed\"}",
		  "nothing to cancel: the migration is over (completed)\n");
	cancelled("{\"status\":\"cancelled\"}",
		  "nothing to cancel: the migration is over (cancelled)\n");
	cancelled("{\"status\":\"setup\"}", "");
	cancelled("{\"status\":\"postcopy-paused\"}", "");
	cancelled("{\"status\":7}", "nothing to cancel: there is no migration\n");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_and_times_have_units),
		cmocka_unit_test(test_control_characters_do_not_pass),
		cmocka_unit_test(test_a_migration_is_one_line),
		cmocka_unit_test(test_a_cancel_that_ends_nothing_says_so),
		cmocka_unit_test(test_status_has_a_fact_a_line),
		cmocka_unit_test(test_events_are_one_line_whatever_they_hold),
		cmocka_unit_test(test_where_memory_comes_from),
		cmocka_unit_test(test_how_far_a_working_set_is),
		cmocka_unit_test(test_faults_of_any_shape_are_survived),
	};

	return cmocka_run_group_tests_name("ctl_text", tests, NULL, NULL);
}
