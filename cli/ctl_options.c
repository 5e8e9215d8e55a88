// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/size.h"
#include "cli/ctl_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "control/rundir.h"

#define TIMEOUT_MS 10000u

const char ctl_help[] =
	"usage: postern ctl [OPTION...] COMMAND [ARGUMENT]\n"
	"\n"
	"machine\n"
	"  list                  the machines of this user that have a name\n"
	"  status                what it does, its memory, its migration\n"
	"  stop, cont            pause the guest, let it go on\n"
	"  reset                 as the reset button\n"
	"  powerdown             as the power button: the guest decides\n"
	"  quit                  end the machine, and wait until it has ended\n"
	"\n"
	"late memory\n"
	"  migrate URI           to where another postern waits; shows progress until the end\n"
	"  incoming URI          after --incoming defer: wait for a migration there; shows progress\n"
	"  recover URI           at the destination, after the link was lost: wait for the source there; shows progress\n"
	"  pause-migration       cut the link, to go on over another one\n"
	"  cancel                end a migration that has not switched over yet (also: migrate-cancel)\n"
	"  fill FILL             of a restored machine, what nobody waits for: on, off, or bytes a second\n"
	"  faults                who waits for which page, and how long pages take\n"
	"\n"
	"QMP\n"
	"  events                show events as they come\n"
	"  qmp JSON              send a request, show the reply, such as '{\"execute\": \"query-kvm\"}'\n"
	"\n"
	"options\n"
	"  -n, --name NAME       which machine; not needed where there is only one\n"
	"      --qmp ADDRESS     one without a name: its QMP socket, unix:PATH, tcp:HOST:PORT or PATH\n"
	"  -j, --json            replies as they are, for programs\n"
	"      --timeout SECONDS  how long to wait for an answer, 1 to 3600 (10)\n"
	"      --names           list: names alone, and nobody is asked\n"
	"      --bandwidth BYTES  migrate: a second of bulk pages, 0: no limit; suffixes K, M, G, T\n"
	"      --resume          migrate: go on with one whose link was lost\n"
	"      --secret-file FILE  migrate, incoming, recover: what the other side has to have, too, instead of postern run's\n"
	"      --insecure        migrate, incoming, recover: over TCP, trust everybody who can reach the port\n"
	"      --detach          migrate, incoming, recover: do not wait for the end\n"
	"  -h, --help            print this\n"
	"\n"
	"Exit status: 0 done; 1 the machine refused, or the migration failed or lost its link; 2 bad usage; 3 no such\n"
	"machine, or no answer; 130 interrupted: a migration goes on.\n";

static const struct command {
	const char *name;
	enum ctl_command command;
	const char *argument;	/* what it takes; NULL: nothing */
	const char *qmp;
} commands[] = {
	{ "list", CTL_LIST, NULL, NULL },
	{ "status", CTL_STATUS, NULL, NULL },
	{ "stop", CTL_STOP, NULL, "stop" },
	{ "cont", CTL_CONT, NULL, "cont" },
	{ "quit", CTL_QUIT, NULL, NULL },
	{ "powerdown", CTL_POWERDOWN, NULL, "system_powerdown" },
	{ "reset", CTL_RESET, NULL, "system_reset" },
	{ "migrate", CTL_MIGRATE, "URI", "migrate" },
	{ "incoming", CTL_INCOMING, "URI", "migrate-incoming" },
	{ "recover", CTL_RECOVER, "URI", "migrate-recover" },
	{ "pause-migration", CTL_PAUSE_MIGRATION, NULL, "migrate-pause" },
	{ "cancel", CTL_CANCEL, NULL, "migrate_cancel" },
	{ "migrate-cancel", CTL_CANCEL, NULL, "migrate_cancel" },
	{ "fill", CTL_FILL, "FILL", "postern-set-fill" },
	{ "faults", CTL_FAULTS, NULL, NULL },
	{ "events", CTL_EVENTS, NULL, NULL },
	{ "qmp", CTL_QMP, "JSON", NULL },
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

enum {
	OPT_QMP = 256,
	OPT_TIMEOUT,
	OPT_NAMES,
	OPT_BANDWIDTH,
	OPT_RESUME,
	OPT_DETACH,
	OPT_SECRET_FILE,
	OPT_INSECURE
};

static const struct option long_options[] = {
	{ "name", required_argument, NULL, 'n' },
	{ "qmp", required_argument, NULL, OPT_QMP },
	{ "json", no_argument, NULL, 'j' },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "names", no_argument, NULL, OPT_NAMES },
	{ "bandwidth", required_argument, NULL, OPT_BANDWIDTH },
	{ "resume", no_argument, NULL, OPT_RESUME },
	{ "detach", no_argument, NULL, OPT_DETACH },
	{ "secret-file", required_argument, NULL, OPT_SECRET_FILE },
	{ "insecure", no_argument, NULL, OPT_INSECURE },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

const char *ctl_command_qmp(enum ctl_command command)
{
	size_t i;

	for (i = 0; i < NCOMMANDS; i++)
		if (commands[i].command == command)
			return commands[i].qmp;
	return NULL;
}

static int parse_timeout(struct ctl_options *o, const char *text, struct err *err)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || errno || *end || value < 1 || value > 3600)
		return err_set(err, -EINVAL, "--timeout %s: seconds from 1 to 3600 are allowed",
			       text);
	o->timeout_ms = (unsigned int)value * 1000;
	return 0;
}

static int ctl_options_take(struct ctl_options *o, int option, const char *value, struct err *err)
{
	switch (option) {
	case 'n':
		o->name = value;
		if (!rundir_name_is_valid(value))
			return err_set(err, -EINVAL, "--name %s: no machine can have this name",
				       value);
		break;
	case OPT_QMP:
		o->qmp = value;
		break;
	case 'j':
		o->json = true;
		break;
	case OPT_TIMEOUT:
		return parse_timeout(o, value, err);
	case OPT_NAMES:
		o->names = true;
		break;
	case OPT_BANDWIDTH:
		o->limit = true;
		if (size_parse(&o->bandwidth, value) < 0 || o->bandwidth > INT64_MAX)
			return err_set(
				err, -EINVAL,
				"--bandwidth %s: bytes a second are allowed, with K, M, G or T "
				"(such as 200M), or 0 for no limit",
				value);
		break;
	case OPT_RESUME:
		o->resume = true;
		break;
	case OPT_DETACH:
		o->detach = true;
		break;
	case OPT_SECRET_FILE:
		o->secret_file = value;
		break;
	case OPT_INSECURE:
		o->insecure = true;
		break;
	case 'h':
		o->help = true;
		break;
	}
	return 0;
}

static int ctl_options_take_command(struct ctl_options *o, int argc, char **argv, struct err *err)
{
	const struct command *c = commands;
	int taken;

	if (!argc)
		return err_set(err, -EINVAL, "a command is missing (postern ctl --help has all)");
	while (c < commands + NCOMMANDS && strcmp(c->name, argv[0]) != 0)
		c++;
	if (c == commands + NCOMMANDS)
		return err_set(err, -EINVAL, "%s: no such command (postern ctl --help has all)",
			       argv[0]);
	taken = c->argument ? 2 : 1;
	if (argc < taken)
		return err_set(err, -EINVAL, "%s: its %s is missing", argv[0], c->argument);
	if (argc > taken)
		return err_set(err, -EINVAL, "%s: \"%s\" is too much", argv[0], argv[taken]);
	o->command = c->command;
	o->argument = c->argument ? argv[1] : NULL;
	return 0;
}

static int ctl_options_check(const struct ctl_options *o, struct err *err)
{
	if (o->name && o->qmp)
		return err_set(err, -EINVAL, "--name and --qmp: only one of them is allowed");
	if (o->command == CTL_LIST && (o->name || o->qmp))
		return err_set(err, -EINVAL, "list: --name and --qmp are not allowed");
	if (o->command != CTL_LIST && o->names)
		return err_set(err, -EINVAL, "--names: only list takes it");
	if (o->command != CTL_MIGRATE && (o->limit || o->resume))
		return err_set(err, -EINVAL, "--bandwidth and --resume: only migrate takes them");
	if (o->command == CTL_MIGRATE || o->command == CTL_INCOMING || o->command == CTL_RECOVER)
		return o->secret_file && o->insecure ?
			       err_set(err, -EINVAL,
				       "--secret-file and --insecure: only one of them is allowed") :
			       0;
	if (o->detach || o->secret_file || o->insecure)
		return err_set(err, -EINVAL, "%s: only migrate, incoming and recover take it",
			       o->detach      ? "--detach" :
			       o->secret_file ? "--secret-file" :
						"--insecure");
	return 0;
}

int ctl_options_parse(struct ctl_options *o, int argc, char **argv, struct err *err)
{
	int option, r;

	*o = (struct ctl_options){ .timeout_ms = TIMEOUT_MS };
	opterr = 0;
	optind = 0;	/* glibc: begins anew, also its memory of words that it has moved */
	while ((option = getopt_long(argc, argv, ":n:jh", long_options, NULL)) != -1) {
		if (option == '?')
			return err_set(
				err, -EINVAL,
				"%s: no such option, or it takes no value (postern ctl --help has all)",
				argv[optind - 1]);
		if (option == ':')
			return err_set(err, -EINVAL, "%s: its value is missing", argv[optind - 1]);
		r = ctl_options_take(o, option, optarg, err);
		if (r < 0)
			return r;
	}
	if (o->help)
		return 0;
	r = ctl_options_take_command(o, argc - optind, argv + optind, err);
	return r < 0 ? r : ctl_options_check(o, err);
}
