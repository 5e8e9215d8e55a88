// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What --disk takes, and what it says of the rest; NBD's URIs.
 */
#include "disks.h"

static void refused(const char *text, const char *says)
{
	struct disk_config config;
	struct err err;

	assert_int_equal(disk_config_parse(&config, text, &err), -EINVAL);
	if (!strstr(err.text, says))
		fail_msg("%s: %s", text, err.text);
}

static void taken(const char *text, const char *path, bool nbd, enum disk_format format)
{
	struct disk_config config;
	struct err err;

	if (disk_config_parse(&config, text, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(config.path, path);
	assert_int_equal(config.nbd, nbd);
	assert_int_equal(config.format, format);
	disk_config_fini(&config);
}

static void names_and_options(void **state)
{
	struct disk_config config;
	struct err err;

	(void)state;
	taken("a", "a", false, DISK_FORMAT_NONE);
	taken("a,,b,format=raw", "a,b", false, DISK_FORMAT_RAW);
	taken("a,,,readonly", "a,", false, DISK_FORMAT_NONE);
	taken("x.qcow2,format=qcow2", "x.qcow2", false, DISK_FORMAT_QCOW2);
	taken("x.qcow2,format=raw", "x.qcow2", false, DISK_FORMAT_RAW);
	taken("nbd://host/a,,b", "nbd://host/a,b", true, DISK_FORMAT_NONE);
	taken("nbd+unix:///?socket=/a%2Cb,format=raw", "nbd+unix:///?socket=/a%2Cb", true, DISK_FORMAT_RAW);
	assert_int_equal(disk_config_parse(&config, "a,serial=12345678901234567890,readonly", &err),
			 0);
	assert_string_equal(config.serial, "12345678901234567890");
	assert_true(config.readonly);
	assert_int_equal(config.reconnect_s, -1);
	disk_config_fini(&config);
	assert_int_equal(disk_config_parse(&config, "nbd://h,reconnect=30", &err), 0);
	assert_int_equal(config.reconnect_s, 30);
	disk_config_fini(&config);
	refused("", "missing");
	refused(",readonly", "missing");
	refused("a,writable", "\"writable\" is not known");
	refused("a,", "\"\" is not known");
	refused("a,serial=123456789012345678901", "at most 20");
	refused("a,format=vmdk", "raw and qcow2");
	refused("x.qcow2", "format=qcow2");
	refused("X.QCOW2,readonly", "format=qcow2");
	refused("nbd://h,format=qcow2", "is raw");
	refused("a,reconnect=1", "no server");
	refused("nbd://h,reconnect=", "seconds");
	refused("nbd://h,reconnect=-1", "seconds");
	refused("nbd://h,reconnect=99999999999999999999", "seconds");
	assert_int_equal(disk_config_parse(&config, "nbd://h,quiesce=0", &err), 0);
	assert_int_equal(config.quiesce_s, 0);
	disk_config_fini(&config);
	assert_int_equal(disk_config_parse(&config, "nbd://h", &err), 0);
	assert_int_equal(config.quiesce_s, -1);
	disk_config_fini(&config);
	refused("nbd://h,quiesce=-1", "0 to 3600 seconds");
	refused("nbd://h,quiesce=3601", "0 to 3600 seconds");
	refused("a,quiesce=1", "is for NBD");
	refused("a,quiesce=1,format=qcow2", "is for NBD");
}

static void uris(void **state)
{
	struct nbd_address a;
	char long_name[NBD_NAME_BYTES + 10];
	struct err err;

	(void)state;
	assert_int_equal(nbd_address_parse(&a, "nbd://example.com", &err), 0);
	assert_string_equal(a.host, "example.com");
	assert_string_equal(a.port, "10809");
	assert_string_equal(a.export_name, "");
	assert_int_equal(nbd_address_parse(&a, "nbd://[::1]:1234/a%20b/c", &err), 0);
	assert_string_equal(a.host, "::1");
	assert_string_equal(a.port, "1234");
	assert_string_equal(a.export_name, "a b/c");
	assert_int_equal(nbd_address_parse(&a, "nbd+unix:///e?socket=/tmp/x%3Fy", &err), 0);
	assert_string_equal(a.host, "");
	assert_string_equal(a.socket, "/tmp/x?y");
	assert_string_equal(a.export_name, "e");
	refused("nbds://h", "TLS");
	refused("nbd:host", "are allowed");
	refused("nbd://", "host is missing");
	refused("nbd://u@h", "user's name");
	refused("nbd://h:0", "port");
	refused("nbd://h:65536", "port");
	refused("nbd://h:1x", "port");
	refused("nbd://h:-1", "port");
	refused("nbd://[::1", "]");
	refused("nbd://[::1]x", "port");
	refused("nbd://h/%zz", "hexadecimal");
	refused("nbd://h/%00", "hexadecimal");
	refused("nbd://h/%4", "hexadecimal");
	refused("nbd://h#x", "%23");
	refused("nbd://h?socket=/x", "nbd+unix");
	refused("nbd+unix://h/?socket=/x", "three slashes");
	refused("nbd+unix:///", "socket=PATH is missing");
	refused("nbd+unix:///?tls-certificates=/etc&socket=/x", "only socket=");
	memset(long_name, 'a', sizeof(long_name) - 1);
	memcpy(long_name, "nbd://h/", 8);
	long_name[sizeof(long_name) - 1] = '\0';
	refused(long_name, "longer than 4096");
	/* The protocol's longest. */
	long_name[sizeof(long_name) - 2] = '\0';
	assert_int_equal(nbd_address_parse(&a, long_name, &err), 0);
	assert_int_equal(strlen(a.export_name), NBD_NAME_BYTES);
	memcpy(long_name, "nbd+unix:///?socket=", 20);
	long_name[200] = '\0';
	refused(long_name, "longer than 107");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_options),
		cmocka_unit_test(uris),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
