// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * image.c - `postern image debian`: a disk with a Debian on it, made by Debian's
 * own tools. What is done stands in recipe/debian.sh, whose text is in
 * image_run.c. Here what it is given is checked; the recipe runs in a process
 * group of its own (image_run.c) and leaves nothing behind when it fails or is
 * interrupted (image_work.c).
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/image.h"

#define SIZE_MIN (UINT64_C(400) << 20)
#define SIZE_MAX_BYTES (UINT64_C(16) << 40)
#define BLOCK_BYTES 4096u /* ext4's */
#define KEY_BYTES_MAX 65536
#define PASSWORD_BYTES_MAX 512

static const char help[] =
	"usage: postern image debian FILE [OPTION...]\n"
	"\n"
	"Makes a raw disk with Debian on it, to be run by postern run --disk FILE.\n"
	"\n"
	"  --size SIZE           of the disk: bytes, or with K, M, G or T (2G)\n"
	"  --suite NAME          Debian's release (bookworm)\n"
	"  --package NAME        one more package; may be given several times\n"
	"  --root-password-file FILE  root's, for the console and ssh, in its one line; -: standard input. Without it, root\n"
	"                        needs none on the console\n"
	"  --ssh-key FILE        public keys that ssh lets in as root\n"
	"  --hostname NAME       (debian)\n"
	"  --mirror URL          where packages come from; else, where this machine's own come from\n"
	"  -h, --help            print this\n";

/* ---- options ---- */

static bool is_made_of(const char *text, const char *more)
{
	const char *at;

	for (at = text; *at; at++)
		if (!(*at >= 'a' && *at <= 'z') && !(*at >= 'A' && *at <= 'Z') &&
		    !isdigit((unsigned char)*at) && !strchr(more, *at))
			return false;
	return *text && *text != '-' && *text != '.';
}

static int package_add(struct image *image, const char *name, struct err *err)
{
	char *all;

	if (!is_made_of(name, "+-."))
		return err_set(err, -EINVAL, "--package %s: that is not a package's name", name);
	if (asprintf(&all, "%s %s", image->packages ? image->packages : "", name) < 0)
		return err_set(err, -ENOMEM, "no memory");
	free(image->packages);
	image->packages = all;
	return 0;
}

static int key_read(struct image *image, const char *path, struct err *err)
{
	FILE *file = fopen(path, "re");
	size_t n;

	if (!file)
		return err_errno(err, -errno, "--ssh-key %s", path);
	free(image->key);
	image->key = calloc(1, KEY_BYTES_MAX + 1);
	n = image->key ? fread(image->key, 1, KEY_BYTES_MAX, file) : 0;
	fclose(file);
	if (!n || strlen(image->key) != n || strstr(image->key, "PRIVATE KEY") ||
	    !strpbrk(image->key, " "))
		return err_set(
			err, -EINVAL,
			"--ssh-key %s: that is not a file of public keys, such as ~/.ssh/id_ed25519.pub",
			path);
	while (n && isspace((unsigned char)image->key[n - 1]))
		image->key[--n] = '\0';
	return 0;
}

/* One line. What it is must not get into a message. */
static int password_read(struct image *image, const char *path, struct err *err)
{
	bool standard = !strcmp(path, "-");
	FILE *file = standard ? stdin : fopen(path, "re");
	size_t n;

	if (!file)
		return err_errno(err, -errno, "--root-password-file %s", path);
	free(image->password);
	image->password = calloc(1, PASSWORD_BYTES_MAX + 2);
	n = image->password ? fread(image->password, 1, PASSWORD_BYTES_MAX + 1, file) : 0;
	if (!standard)
		fclose(file);
	if (n && image->password[n - 1] == '\n')
		image->password[--n] = '\0';
	if (!n || n > PASSWORD_BYTES_MAX || strlen(image->password) != n ||
	    strpbrk(image->password, "\n\r"))
		return err_set(err, -EINVAL,
			       "--root-password-file %s: it has to hold one line of 1 to %d bytes",
			       path, PASSWORD_BYTES_MAX);
	return 0;
}

static int size_take(struct image *image, const char *text, struct err *err)
{
	uint64_t bytes;

	if (size_parse(&bytes, text) < 0 || bytes < SIZE_MIN || bytes > SIZE_MAX_BYTES)
		return err_set(err, -EINVAL, "--size %s: from 400M to 16T is allowed", text);
	if (bytes % BLOCK_BYTES)
		return err_set(err, -EINVAL,
			       "--size %s: a multiple of 4K is allowed; the next is %" PRIu64 "K",
			       text, (bytes / BLOCK_BYTES + 1) * (BLOCK_BYTES / 1024));
	/* A bare number is KiB there. */
	snprintf(image->size, sizeof(image->size), "%" PRIu64 "K", bytes / 1024);
	return 0;
}

static int image_word_take(const char **to, const char *option, const char *text, const char *more,
			   struct err *err)
{
	if (!is_made_of(text, more) || strlen(text) > 200)
		return err_set(err, -EINVAL,
			       "--%s %s: letters, digits and any of \"%s\" are allowed", option,
			       text, more);
	*to = text;
	return 0;
}

static int image_take(struct image *image, int option, const char *value, struct err *err)
{
	switch (option) {
	case 's':
		return size_take(image, value, err);
	case 'u':
		return image_word_take(&image->suite, "suite", value, "-", err);
	case 'p':
		return package_add(image, value, err);
	case 'w':
		return password_read(image, value, err);
	case 'W':
		return err_set(
			err, -EINVAL,
			"--root-password: everybody can see a command line: --root-password-file FILE, or - for standard "
			"input");
	case 'k':
		return key_read(image, value, err);
	case 'n':
		return image_word_take(&image->hostname, "hostname", value, "-.", err);
	case 'm':
		return image_word_take(&image->mirror, "mirror", value, "-.:/+~_%@[]", err);
	default:
		image->help = true;
		return 0;
	}
}

static int parse(struct image *image, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "size", required_argument, NULL, 's' },
		{ "suite", required_argument, NULL, 'u' },
		{ "package", required_argument, NULL, 'p' },
		{ "root-password-file", required_argument, NULL, 'w' },
		{ "root-password", required_argument, NULL, 'W' },
		{ "ssh-key", required_argument, NULL, 'k' },
		{ "hostname", required_argument, NULL, 'n' },
		{ "mirror", required_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option, r = 0;

	opterr = 0;
	while (!r && (option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (option == '?' || option == ':')
			return err_set(err, -EINVAL, "%s: %s", argv[optind - 1],
				       option == ':' ?
					       "its value is missing" :
					       "no such option (postern image --help has all)");
		r = image_take(image, option, optarg, err);
	}
	if (r < 0 || image->help)
		return r;
	if (argc - optind != 2 || strcmp(argv[optind], "debian") != 0)
		return err_set(err, -EINVAL,
			       "\"debian\" and a file are wanted: postern image debian FILE");
	image->name = argv[optind + 1];
	if (asprintf(&image->out, "%s%s", *image->name == '/' ? "" : "./", image->name) < 0)
		image->out = NULL;
	return image->out ? 0 : err_set(err, -ENOMEM, "no memory");
}

/* ---- the command ---- */

static int image_make(struct image *image, struct err *err)
{
	struct image_progress progress = { .terminal = isatty(STDERR_FILENO),
					   .start_ns = clock_now_ns() };
	sigset_t signals;
	struct stat st;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGCHLD);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	r = image_programs_check(err);
	if (!r)
		r = image_work_make(image, err);
	if (!r)
		r = image_run(image, &progress, &signals, err);
	if (progress.terminal)
		fputs("\r\033[K", stderr);
	image_work_remove(image);
	if (r == -EIO)
		fputs(progress.tail, stderr);
	if (!r && stat(image->out, &st) < 0)
		r = err_errno(err, -errno, "%s", image->name);
	if (!r)
		printf("%s: %lld MiB, of which %lld are in use; start it by: postern run -m 512M --disk %s\n",
		       image->name, (long long)st.st_size >> 20,
		       (long long)st.st_blocks * 512 >> 20, image->name);
	return r;
}

int cmd_image(int argc, char **argv)
{
	struct image image = { .size = "2097152K", .suite = "bookworm", .hostname = "debian" };
	struct err err = { 0 };
	const char *path = getenv("PATH");
	char *wide;
	int status = CLI_OK;

	/* Users' paths often lack where mke2fs is. */
	if (asprintf(&wide, "%s:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin") > 0) {
		setenv("PATH", wide, 1);
		free(wide);
	}
	if (parse(&image, argc, argv, &err) < 0) {
		fprintf(stderr, "postern image: %s\n", err.text);
		status = CLI_USAGE;
	} else if (image.help) {
		fputs(help, stdout);
	} else if (image_make(&image, &err) < 0) {
		fprintf(stderr, "postern image: %s\n", err.text);
		status = CLI_FAILED;
	}
	free(image.out);
	free(image.packages);
	free(image.key);
	free(image.password);
	return status;
}
