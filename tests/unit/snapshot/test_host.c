// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What an image says of its machine, read from hostile text, and compared with this host.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include <cmocka.h>

#include "arch/arch.h"
#include "snapshot/host.h"

static void test_a_record_is_read(void **state)
{
	struct host_record record;
	struct err err;

	(void)state;
	assert_int_equal(host_record_parse(&record,
					   "{\"boot\": \"files\", \"cmdline\": \"a b\", "
					   "\"disks\": [{}, {\"written\": [17, 999999999]}], "
					   "\"later\": 1, \"parked\": 1234567890123456789}",
					   &err),
			 0);
	assert_int_equal(record.parked_ns, INT64_C(1234567890123456789));
	assert_int_equal(record.boot, BOOT_FILES);
	assert_string_equal(record.cmdline, "a b");
	assert_null(record.append);
	assert_int_equal(record.disks, 2);
	assert_false(record.disk[0].has_time);
	assert_true(record.disk[1].has_time);
	assert_int_equal(record.disk[1].time_s, 17);
	assert_int_equal(record.disk[1].time_ns, 999999999);
	host_record_fini(&record);
}

static void test_a_bad_record_is_refused(void **state)
{
	static const char *const cases[] = {
		"",
		"null",
		"[]",
		"{",
		"{}",
		"{\"boot\": \"files\"}",
		"{\"boot\": 1, \"disks\": []}",
		"{\"boot\": \"tape\", \"disks\": []}",
		"{\"boot\": \"disk\", \"disks\": {}}",
		"{\"boot\": \"disk\", \"disks\": [1]}",
		"{\"boot\": \"disk\", \"disks\": [{\"written\": []}]}",
		"{\"boot\": \"disk\", \"disks\": [{\"written\": [1]}]}",
		"{\"boot\": \"disk\", \"disks\": [{\"written\": [1, \"2\"]}]}",
		"{\"boot\": \"disk\", \"disks\": [{\"written\": [1, -1]}]}",
		"{\"boot\": \"disk\", \"disks\": [{\"written\": [1, 1000000000]}]}",
		"{\"boot\": \"disk\", \"disks\": [], \"cmdline\": 7}",
		"{\"boot\": \"disk\", \"disks\": [], \"append\": \"a\\u0000b\"}",
		"{\"boot\": \"disk\", \"boot\": \"disk\", \"disks\": []}",
		"{\"boot\": \"disk\", \"disks\": [], \"parked\": 0}",
		"{\"boot\": \"disk\", \"disks\": [], \"parked\": -1}",
		"{\"boot\": \"disk\", \"disks\": [], \"parked\": 1.5}",
		"{\"boot\": \"disk\", \"disks\": [], \"parked\": \"1\"}",
	};
	struct host_record record;
	struct err err;
	char many[4 * MANIFEST_DISKS_MAX + 64] = "{\"boot\": \"disk\", \"disks\": [{}";
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(host_record_parse(&record, cases[i], &err), -EBADMSG);
	assert_int_equal(host_record_parse(&record, NULL, &err), -EBADMSG);
	for (i = 0; i < MANIFEST_DISKS_MAX; i++)
		strcat(many, ",{}");
	strcat(many, "]}");
	assert_int_equal(host_record_parse(&record, many, &err), -EBADMSG);
}

static struct manifest_machine machine_of(uint64_t bytes)
{
	struct manifest_machine machine = { .cpus = 2 };
	struct utsname name;

	uname(&name);
	strcpy(machine.architecture, name.machine);
	assert_int_equal(arch_memory_layout(bytes, machine.ranges, &machine.n_ranges, NULL), 0);
	return machine;
}

static void test_a_machine_that_cannot_be_built_here_is_refused(void **state)
{
	struct manifest_machine machine = machine_of(UINT64_C(6) << 30);
	struct err err;

	(void)state;
	assert_int_equal(host_check_shape(&machine, &err), 0);
	machine.cpus = VM_VCPUS_MAX + 1;
	assert_int_equal(host_check_shape(&machine, &err), -EINVAL);
	machine = machine_of(UINT64_C(64) << 20);
	machine.ranges[0].base.v += HUGE_BYTES;
	assert_int_equal(host_check_shape(&machine, &err), -EPROTO);
	machine = machine_of(UINT64_C(64) << 20);
	machine.ranges[0].len_bytes += PAGE_BYTES;
	assert_int_equal(host_check_shape(&machine, &err), -EINVAL);
	machine.ranges[0].len_bytes = UINT64_MAX;
	assert_int_equal(host_check_shape(&machine, &err), -EINVAL);
	machine = machine_of(UINT64_C(64) << 20);
	strcpy(machine.architecture, "s390x");
	assert_int_equal(host_check_shape(&machine, &err), -EINVAL);
	assert_non_null(strstr(err.text, "s390x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_record_is_read),
		cmocka_unit_test(test_a_bad_record_is_refused),
		cmocka_unit_test(test_a_machine_that_cannot_be_built_here_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
