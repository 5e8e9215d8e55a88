// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern top's picture of a machine.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cli/top_text.h"

static json_t *load(const char *json)
{
	json_t *out = json_loads(json, JSON_DECODE_ANY, NULL);

	assert_non_null(out);
	return out;
}

static void map(const char *json, unsigned int width, const char *wanted)
{
	json_t *parsed = load(json);
	char *text = top_text_map(parsed, width);

	if (wanted)
		assert_string_equal(text, wanted);
	else
		assert_null(text);
	free(text);
	json_decref(parsed);
}

static void test_a_map_has_a_letter_a_cell_and_is_folded(void **state)
{
	static const char six[] =
		"{\"looked\": [4, 4, 4, 4, 4, 4], \"present\": [4, 2, 0, 3, 0, 4], "
		"\"requested\": [0, 0, 0, 1, 0, 0], \"lost\": [0, 0, 0, 0, 1, 0]}";

	(void)state;
	map(six, 80, "#+.?!#");
	map(six, 6, "#+.?!#");
	map(six, 3, "+?!");
	map(six, 1, "!");
	map(six, 0, NULL);
	map("{\"looked\": [4, 4, 4, 4], \"present\": [4, 4, 4, 0]}", 2, "#+");
}

static void test_a_map_of_another_shape_is_survived(void **state)
{
	(void)state;
	map("{}", 10, NULL);
	map("7", 10, NULL);
	map("{\"looked\": []}", 10, NULL);
	map("{\"looked\": [4, 4]}", 10, "..");
	map("{\"looked\": [\"x\", -1, 9223372036854775807], \"present\": {}}", 10, "###");	/* nothing looked at, nothing missing */
}

static void test_a_rate_needs_two_looks_that_fit(void **state)
{
	json_t *before = load("{\"counters\": {\"faults\": 100}}"),
	       *now = load("{\"counters\": {\"faults\": 350}}");

	(void)state;
	assert_int_equal(top_fault_rate(before, now, 2 * NS_PER_SEC), 125);
	assert_int_equal(top_fault_rate(now, before, NS_PER_SEC), 0);
	assert_int_equal(top_fault_rate(NULL, now, NS_PER_SEC), 0);
	assert_int_equal(top_fault_rate(before, now, 0), 0);
	assert_int_equal(top_fault_rate(before, NULL, NS_PER_SEC), 0);
	json_decref(before);
	json_decref(now);
}

static void picture(const char *json, const char *wanted)
{
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	json_t *machine = load(json);

	top_text_machine(out, machine, 80);
	fclose(out);
	assert_string_equal(text, wanted);
	free(text);
	json_decref(machine);
}

static void test_a_machine_is_shown_with_what_there_is(void **state)
{
	(void)state;
	picture("{\"name\": \"web\", \"pid\": 12, \"status\": {\"status\": \"running\"}, \"migration\": {\"status\": "
		"\"postcopy-paused\", \"postern\": {\"incoming\": true}, \"ram\": {\"remaining\": 1024, \"total\": 2048}}, "
		"\"map\": {\"looked\": [1, 1], \"present\": [1, 0]}, \"faults-per-second\": 3, \"faults\": {\"counters\": "
		"{\"faults\": 9}, \"vcpus\": [{\"name\": \"vcpu1\", \"gpa\": 4096, \"since-us\": 2000, \"page\": \"missing\"}], "
		"\"latency\": {\"count\": 8, \"p50-us\": 10, \"p99-us\": 2000, \"max-us\": 3000000, \"histogram\": "
		"[{\"le-us\": 1, \"count\": 8}, {\"le-us\": 2, \"count\": 0}, {\"le-us\": 4, \"count\": 1}]}}}",
		"web  pid 12  running\n"
		"  memory   [#.]\n"
		"  link     LOST; postcopy-paused, to here, 1.0 KiB of 2.0 KiB left\n"
		"  faults   3/s, 9 in all\n"
		"  waits    vcpu1 for page 0x1000, 2.0 ms, missing\n"
		"  latency  p50 10 us, p99 2.0 ms, longest 3.0 s  [@ :]\n");
	picture("{\"name\": \"w\\u001b\", \"pid\": 1, \"error\": \"gone\\n\"}",
		"w?  pid 1  no answer: gone?\n");
	picture("{\"name\": \"w\", \"pid\": 1, \"faults\": {\"pages\": {\"missing\": 255, \"requested\": 1}, \"source\": "
		"{\"kind\": \"image\", \"image\": \"a\", \"store\": \"/i\", \"fill\": \"off\"}}}",
		"w  pid 1  unknown\n  source   image a in /i, 1.0 MiB left, fill off\n  faults   0/s, 0 in all\n");
	picture("5", "?  pid 0  unknown\n  faults   0/s, 0 in all\n");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_map_has_a_letter_a_cell_and_is_folded),
		cmocka_unit_test(test_a_map_of_another_shape_is_survived),
		cmocka_unit_test(test_a_rate_needs_two_looks_that_fit),
		cmocka_unit_test(test_a_machine_is_shown_with_what_there_is),
	};

	return cmocka_run_group_tests_name("top_text", tests, NULL, NULL);
}
