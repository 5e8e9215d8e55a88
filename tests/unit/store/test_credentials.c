// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// store/credentials.c: where logins come from, and what is none.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/credentials.h"
#include "tests/own_dir.h"

struct place {
	struct own_dir dir;
	char path[64];
};

static void set_up(struct place *place, const char *text)
{
	static const char *const variables[] = {
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_SHARED_CREDENTIALS_FILE", "POSTERN_HTTP_USER", "POSTERN_HTTP_PASSWORD",
		"POSTERN_HTTP_TOKEN",
	};
	size_t i;
	int fd;

	for (i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		unsetenv(variables[i]);
	place->dir = own_dir_new();
	setenv("HOME", place->dir.path, 1);
	snprintf(place->path, sizeof(place->path), "%s/file", place->dir.path);
	fd = open(place->path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void tear_down(struct place *place)
{
	unlink(place->path);
	own_dir_free(&place->dir);
}

static const char file_text[] = "# a comment = x\n"
				"aws_access_key_id = NOBODY\n"
				"[default]\n"
				"  aws_access_key_id=ID\r\n"
				"aws_secret_access_key = a+b/c = d \n"
				"; aws_session_token = no\n"
				"[profile other]\n"
				"aws_access_key_id = OTHER\n"
				"aws_secret_access_key = secret\n"
				"aws_session_token = token\n"
				"[half]\n"
				"aws_access_key_id = HALF\n";

static void a_file_is_read(void **state)
{
	struct web_login login = { 0 };
	struct place place;
	struct err err;

	(void)state;
	set_up(&place, file_text);
	assert_int_equal(credentials_aws(&login, place.path, &err), 0);
	assert_int_equal(login.kind, WEB_AWS);
	assert_string_equal(login.user, "ID");
	assert_string_equal(login.secret, "a+b/c = d");
	assert_string_equal(login.session, "");
	setenv("AWS_PROFILE", "other", 1);
	setenv("AWS_SHARED_CREDENTIALS_FILE", place.path, 1);
	assert_int_equal(credentials_aws(&login, NULL, &err), 0);
	assert_string_equal(login.user, "OTHER");
	assert_string_equal(login.session, "token");
	tear_down(&place);
}

static void the_environment_goes_first(void **state)
{
	struct web_login login = { 0 };
	struct place place;
	struct err err;

	(void)state;
	set_up(&place, file_text);
	assert_int_equal(credentials_aws(&login, NULL, &err), 0);
	assert_int_equal(login.kind, WEB_ANONYMOUS);
	setenv("AWS_SHARED_CREDENTIALS_FILE", place.path, 1);
	setenv("AWS_ACCESS_KEY_ID", "ENV", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
	assert_int_equal(credentials_aws(&login, NULL, &err), 0);
	assert_string_equal(login.user, "ENV");
	tear_down(&place);
}

static void what_is_none_is_refused(void **state)
{
	struct web_login login = { 0 };
	struct place place;
	struct err err;
	char fifo[64];

	(void)state;
	set_up(&place, file_text);
	setenv("AWS_PROFILE", "half", 1);
	assert_int_equal(credentials_aws(&login, place.path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "half of the credentials"));
	setenv("AWS_PROFILE", "nobody", 1);
	memset(&login, 0, sizeof(login));
	assert_int_equal(credentials_aws(&login, place.path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no aws_access_key_id in [nobody]"));
	assert_int_equal(credentials_aws(&login, "/nowhere", &err), -ENOENT);
	assert_int_equal(credentials_aws(&login, "/dev/zero", &err), -EINVAL);
	snprintf(fifo, sizeof(fifo), "%s/fifo", place.dir.path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(credentials_aws(&login, fifo, &err), -EINVAL);
	unlink(fifo);
	assert_int_equal(truncate(place.path, 1 << 20), 0);
	assert_int_equal(credentials_aws(&login, place.path, &err), -EFBIG);
	setenv("AWS_ACCESS_KEY_ID", "a\r\nX-Other: b", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
	assert_int_equal(credentials_aws(&login, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "more than one line"));
	tear_down(&place);
}

static void a_web_server_has_its_own(void **state)
{
	struct web_login login = { 0 };
	struct place place;
	struct err err;

	(void)state;
	set_up(&place, "[default]\nuser = me\npassword = geheim\n");
	assert_int_equal(credentials_http(&login, NULL, &err), 0);
	assert_int_equal(login.kind, WEB_ANONYMOUS);
	assert_int_equal(credentials_http(&login, place.path, &err), 0);
	assert_int_equal(login.kind, WEB_BASIC);
	assert_string_equal(login.user, "me");
	assert_string_equal(login.secret, "geheim");
	setenv("POSTERN_HTTP_TOKEN", "abc", 1);
	assert_int_equal(credentials_http(&login, NULL, &err), 0);
	assert_int_equal(login.kind, WEB_BEARER);
	assert_string_equal(login.secret, "abc");
	tear_down(&place);
}

static void values_are_bounded(void **state)
{
	const char text[] = "[a]\nname = 12345\n[b]\nname =";
	char out[5];

	(void)state;
	assert_int_equal(credentials_find(text, sizeof(text) - 1, "a", "name", out, 5), -EMSGSIZE);
	assert_int_equal(credentials_find(text, sizeof(text) - 1, "b", "name", out, 5), 0);
	assert_string_equal(out, "");
	assert_int_equal(credentials_find("[", 1, "", "name", out, 5), 0);
	assert_int_equal(credentials_find("", 0, "", "name", out, 5), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_read),
		cmocka_unit_test(the_environment_goes_first),
		cmocka_unit_test(what_is_none_is_refused),
		cmocka_unit_test(a_web_server_has_its_own),
		cmocka_unit_test(values_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
