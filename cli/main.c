// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cli.h"
#include "control/share.h"

/*
 * Sockets of many clients, a page store's connections, vCPUs: more than the
 * 1024 that some systems give.
 */
#define FILES_WANTED 16384

static const char help[] =
	"usage: postern COMMAND [OPTION...]\n"
	"\n"
	"  run      run a virtual machine (postern run --help)\n"
	"  clone    run many machines out of one image (postern clone --help)\n"
	"  ctl      control a machine that runs (postern ctl --help)\n"
	"  top      look at the machines that run (postern top --help)\n"
	"  image    make a disk with a system to run (postern image --help)\n"
	"  snapshot save a machine into an image, and look after images (postern snapshot --help)\n"
	"  doctor   look at what this host's kernel can do for guests whose memory arrives late\n"
	"  version  print the version\n"
	"  help     print this\n";

static int print_version(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	puts("postern " POSTERN_VERSION);
	return CLI_OK;
}

static int cmd_help(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	fputs(help, stdout);
	return CLI_OK;
}

/* Who starts us with standard streams closed would find a socket of ours among them. */
static void open_standard_streams(void)
{
	int fd;

	for (fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", fd ? O_WRONLY : O_RDONLY);
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= FILES_WANTED)
		return;
	limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {
		{ "run", cmd_run },	    { "clone", cmd_clone },	{ SHARE_KEEPER_COMMAND, cmd_share_keeper },
		{ "ctl", cmd_ctl },		{ "top", cmd_top },	{ "image", cmd_image },
		{ "snapshot", cmd_snapshot },
		{ "doctor", cmd_doctor },     { "disk-child", cmd_disk_child }, { "version", print_version },
		{ "--version", print_version }, { "help", cmd_help },	{ "--help", cmd_help },
		{ "-h", cmd_help },
	};
	size_t i;

	open_standard_streams();
	raise_file_limit();
	signal(SIGPIPE, SIG_IGN);
	/* A file at a limit of the process's is an error of its writer's, as a full disk is. */
	signal(SIGXFSZ, SIG_IGN);
	if (argc < 2) {
		fputs(help, stderr);
		return CLI_USAGE;
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr,
		"postern: no command \"%s\"; there are run, clone, ctl, top, image, snapshot, doctor, version and help\n",
		argv[1]);
	return CLI_USAGE;
}
