// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * clone.c - `postern clone`: many machines out of one image, each a process of its
 * own that is `postern run --restore --share`.
 *
 * They are forked and not started anew: the program is loaded and linked once, and
 * what of it they do not change they have once. This process has no threads, no
 * loop and no machine; it waits for them, and hands on the signals that end them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/key.h"
#include "cli/run.h"
#include "control/rundir.h"
#include "control/share.h"
#include "kvm/host.h"
#include "kvm/probe.h"

#define CLONES_MAX 4096u

static const char help[] =
	"usage: postern clone STORE/NAME --count N [--name NAME] [--share NAME] [--overlay DIR] [-- RUN-OPTION...]\n"
	"\n"
	"Runs N machines out of one image (postern snapshot save), which have its pages once.\n"
	"\n"
	"      --count N     how many, 1 to 4096\n"
	"      --name NAME   their names: NAME-0, NAME-1 and so on (none)\n"
	"      --share NAME  share with machines beyond these (postern run --share)\n"
	"      --overlay DIR what each writes to its disks goes into files of its own in DIR (postern run --overlay)\n" KEY_OPTIONS_HELP
	"  -h, --help        print this\n"
	"\n"
	"Options of postern run follow --; in each, %i is the machine's number, from 0 on, and %% is %.\n"
	"--net without mac= has an address that is each machine's own; --vsock cid=N is the first one's, N+1 the next one's.\n"
	"Without --serial there is nothing behind the serial ports. Prints how long it took until all of\n"
	"them ran; ends when the last one has. A signal that ends it ends all of them.\n";

static const struct option long_options[] = {
	{ "count", required_argument, NULL, 'c' },
	{ "name", required_argument, NULL, 'n' },
	{ "share", required_argument, NULL, 's' },
	{ "overlay", required_argument, NULL, 'o' },
	KEY_LONG_OPTIONS,
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

struct clones {
	unsigned int count;
	const char *place, *name, *overlay;
	char share[RUNDIR_NAME_MAX + 1];
	char **options; /* of postern run */
	int n_options;
	bool help;
	struct key_args key_args;
	struct image_key *key; /* read once for all of them; NULL: none */
	struct vm_host *host; /* asked once for all of them; NULL: each asks for itself */
	pid_t *pid; /* 0: it has ended */
	unsigned int left, running;
	const char *way_out; /* NULL: each finds it out for itself, or is told */
	int ready[2]; /* a byte of each that runs */
	int signals;
	bool failed, ending;
	int64_t begun_ns;
};

/* ---- options ---- */

static int usage(const char *text, const char *value)
{
	fprintf(stderr, "postern clone: %s%s\n", text, value);
	return -EINVAL;
}

static int parse_count(struct clones *c, const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || !*text || *text == '-' || !n || n > CLONES_MAX)
		return usage("--count: 1 to 4096 are allowed, not ", text);
	c->count = (unsigned int)n;
	return 0;
}

static int take_share(struct clones *c, const char *name)
{
	if (!rundir_name_is_valid(name))
		return usage("--share: no such name is possible: ", name);
	snprintf(c->share, sizeof(c->share), "%s", name);
	return 0;
}

static int clones_take_key(struct clones *c, int option, const char *value)
{
	struct err err;
	int r = key_args_take(&c->key_args, option, value, &err);

	return r ? usage(err.text, "") : 0;
}

/* What is said here for all of them. */
static int check_run_options(const struct clones *c)
{
	static const char *const ours[] = {
		"--restore",  "--share",  "--incoming",		 "--name",    "-n",
		"--key-file", "--key-fd", "--allow-unencrypted", "--overlay",
	};
	size_t i, len;
	int k;

	for (k = 0; k < c->n_options; k++)
		for (i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
			len = strlen(ours[i]);
			if (!strncmp(c->options[k], ours[i], len) &&
			    (!c->options[k][len] || c->options[k][len] == '='))
				return usage("not behind --: ", ours[i]);
		}
	return 0;
}

/* Behind "cid=", what the value of --vsock is; NULL: the word is none. */
static const char *vsock_cid(const struct clones *c, int i)
{
	const char *word = c->options[i];

	if (!strncmp(word, "--vsock=", 8))
		word += 8;
	else if (!i || strcmp(c->options[i - 1], "--vsock"))
		return NULL;
	return strncmp(word, "cid=", 4) ? NULL : word + 4;
}

/* The second would not find its socket free, and say so less well. */
static int check_sockets(const struct clones *c)
{
	const char *cid;
	int i;

	for (i = 0; i < c->n_options && c->count > 1; i++) {
		cid = vsock_cid(c, i);
		if (cid && strchr(cid, ',') && !strstr(strchr(cid, ','), "%i"))
			return usage("--vsock: each machine needs a socket of its own, with %i in "
				     "its path: ",
				     c->options[i]);
	}
	return 0;
}

static int clones_check(struct clones *c)
{
	char longest[RUNDIR_NAME_MAX + 8];
	struct err err;

	if (!c->place || !c->count)
		return usage("STORE/NAME and --count N are needed; see --help", "");
	if (c->name) {
		snprintf(longest, sizeof(longest), "%s-%u", c->name, c->count - 1);
		if (!rundir_name_is_valid(longest))
			return usage("--name: no such name is possible: ", longest);
	}
	if (key_args_check(&c->key_args, &err))
		return usage(err.text, "");
	return check_run_options(c) < 0 ? -EINVAL : check_sockets(c);
}

static int clones_parse(struct clones *c, int argc, char **argv)
{
	int option, r = 0;

	snprintf(c->share, sizeof(c->share), "clone-%d", (int)getpid());
	while (!r && (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
		switch (option) {
		case 'c':
			r = parse_count(c, optarg);
			break;
		case 'n':
			c->name = optarg;
			break;
		case 's':
			r = take_share(c, optarg);
			break;
		case 'o':
			c->overlay = optarg;
			break;
		case 'h':
			c->help = true;
			return 0;
		case OPT_KEY_FILE:
		case OPT_KEY_FD:
		case OPT_ALLOW_UNENCRYPTED:
			r = clones_take_key(c, option, optarg);
			break;
		default:
			return -EINVAL;
		}
	/* getopt has put what is no option last; what is behind "--" may look like one. */
	if (!r && optind < argc)
		c->place = argv[optind++];
	if (!r && optind < argc && strncmp(argv[optind], "-", 1))
		return usage("options of postern run follow --; this is none: ", argv[optind]);
	c->options = argv + optind;
	c->n_options = argc - optind;
	return r ? r : clones_check(c);
}

/* ---- one of them ---- */

/* Its number in place of %i. NULL: no memory. */
static char *option_of(const char *text, unsigned int number)
{
	char *to = NULL;
	size_t len;
	FILE *out = open_memstream(&to, &len);

	if (!out)
		return NULL;
	for (; *text; text++)
		if (text[0] == '%' && text[1] == 'i') {
			fprintf(out, "%u", number);
			text++;
		} else {
			fputc(*text, out);
			text += text[0] == '%' && text[1] == '%';
		}
	return fclose(out) ? NULL : to;
}

/*
 * The i-th word for that machine. A CID without %i is the first one's, the others
 * have those behind it. NULL: no memory.
 */
static char *run_word(const struct clones *c, int i, unsigned int number)
{
	const char *cid = vsock_cid(c, i);
	char *to = option_of(c->options[i], number), *end, *with;
	unsigned long first;

	if (!to || !cid)
		return to;
	first = strtoul(cid, &end, 10);
	/* What is no number is for postern run to refuse. */
	if (end == cid || *cid == '-' || *end != ',' || first > UINT32_MAX)
		return to;
	if (asprintf(&with, "%.*s%lu%s", (int)(cid - c->options[i]), c->options[i], first + number,
		     strchr(to, ',')) < 0)
		with = NULL;
	free(to);
	return with;
}

static bool is_given(const struct clones *c, const char *option)
{
	int i;

	for (i = 0; i < c->n_options; i++)
		if (!strncmp(c->options[i], option, strlen(option)))
			return true;
	return false;
}

static void started(void *arg)
{
	const struct clones *c = arg;

	if (write(c->ready[1], "r", 1) < 0)
		log_warn("postern clone is not told that this machine runs: errno %d", errno);
	close(c->ready[1]);
}

/* What tells one of them from the others. */
struct one {
	unsigned int number;
	char name[RUNDIR_NAME_MAX + 8];
	char overlay[16];
	char mac[RUNDIR_NAME_MAX + HOST_NAME_MAX + 16];
};

/* Without names: none that another host's clones, or others here, have as well. */
static void one_name(struct one *one, const struct clones *c, unsigned int number)
{
	char host[HOST_NAME_MAX + 1] = "";

	one->number = number;
	snprintf(one->overlay, sizeof(one->overlay), "%u", number);
	if (c->name) {
		snprintf(one->name, sizeof(one->name), "%s-%u", c->name, number);
		snprintf(one->mac, sizeof(one->mac), "%s", one->name);
		return;
	}
	gethostname(host, sizeof(host) - 1);
	snprintf(one->mac, sizeof(one->mac), "%s/%s-%u", host, c->share, number);
}

static void one_close(struct clones *c, const sigset_t *mask)
{
	close(c->ready[0]);
	close(c->signals);
	sigprocmask(SIG_SETMASK, mask, NULL);
	/* With us, however we end; the guests can do nothing without whoever started them. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
}

/* In the child: it is postern run from here on. */
static int one_main(struct clones *c, unsigned int number, const sigset_t *mask, pid_t parent)
{
	char **argv = calloc((size_t)c->n_options + 17, sizeof(*argv));
	struct one one = { 0 };
	const struct run_started tell = {
		.fn = started,
		.arg = c,
		.key = c->key,
		.host = c->host,
		.overlay_name = one.overlay,
		.mac_name = one.mac,
	};
	int argc = 0, i;

	one_close(c, mask);
	one_name(&one, c, number);
	if (getppid() != parent || !argv)
		return CLI_FAILED;
	argv[argc++] = "run";
	argv[argc++] = "--restore";
	argv[argc++] = (char *)c->place;
	argv[argc++] = "--share";
	argv[argc++] = c->share;
	if (c->name) {
		argv[argc++] = "--name";
		argv[argc++] = one.name;
	}
	if (c->overlay) {
		argv[argc++] = "--overlay";
		argv[argc++] = (char *)c->overlay;
	}
	/* Neither file nor descriptor are for them: they have it. */
	if (c->key)
		image_key_hold(c->key);
	if (c->key_args.allow_unencrypted)
		argv[argc++] = "--allow-unencrypted";
	if (c->way_out) {
		argv[argc++] = "--way-out";
		argv[argc++] = (char *)c->way_out;
	}
	if (!is_given(c, "--serial")) {
		argv[argc++] = "--serial";
		argv[argc++] = "null";
	}
	for (i = 0; i < c->n_options; i++)
		if (!(argv[argc++] = run_word(c, i, number)))
			return CLI_FAILED;
	argv[argc] = NULL;
	optind = 0; /* getopt begins anew */
	return run_main(argc, argv, &tell);
}

/* ---- all of them ---- */

static void clones_end(struct clones *c, int sig)
{
	unsigned int i;

	for (i = 0; i < c->count; i++)
		if (c->pid[i] > 0)
			kill(c->pid[i], sig);
	c->ending = true;
}

static void clones_fork(struct clones *c, const sigset_t *mask)
{
	pid_t parent = getpid();
	unsigned int i;

	for (i = 0; i < c->count; i++) {
		c->pid[i] = fork();
		if (!c->pid[i]) {
			int status = one_main(c, i, mask, parent);

			fflush(NULL);
			_exit(status);
		}
		if (c->pid[i] < 0) {
			fprintf(stderr, "postern clone: machine %u cannot be started: %s\n", i,
				strerror(errno));
			c->pid[i] = 0;
			c->failed = true;
			clones_end(c, SIGTERM);
			break;
		}
		c->left++;
	}
	close(c->ready[1]);
}

static void clones_reap(struct clones *c)
{
	unsigned int i;
	int status;
	pid_t pid;

	while (c->left && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (i = 0; i < c->count && c->pid[i] != pid; i++)
			;
		if (i == c->count)
			continue;
		c->pid[i] = 0;
		c->left--;
		if (WIFEXITED(status) && !WEXITSTATUS(status))
			continue;
		/* A signal of ours may come when it is about to end anyway. */
		if (c->ending)
			continue;
		fprintf(stderr, "postern clone: machine %u has failed\n", i);
		c->failed = true;
	}
}

static void clones_hear(struct clones *c)
{
	struct signalfd_siginfo info;

	if (read(c->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCHLD)
		clones_reap(c);
	else
		clones_end(c, c->ending ? SIGKILL : SIGTERM);
}

/* False: nothing more will come. */
static bool clones_count_ready(struct clones *c)
{
	char bytes[256];
	ssize_t n = read(c->ready[0], bytes, sizeof(bytes));

	if (n <= 0)
		return false;
	c->running += (unsigned int)n;
	if (c->running != c->count)
		return true;
	printf("%u machines run after %.1f ms\n", c->count,
	       (double)(clock_now_ns() - c->begun_ns) / NS_PER_MS);
	fflush(stdout);
	return true;
}

static void clones_wait(struct clones *c)
{
	struct pollfd p[2] = {
		{ .fd = c->signals, .events = POLLIN },
		{ .fd = c->ready[0], .events = POLLIN },
	};

	while (c->left) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents && !clones_count_ready(c))
			p[1].fd = -1;
		if (p[0].revents)
			clones_hear(c);
	}
}

/*
 * What is the same for all of them is looked at once. What does not work here is
 * told by each of them.
 */
static void look_at_host(struct clones *c)
{
	enum way_out way = WAY_OUT_AUTO;
	struct err err;
	int64_t us;

	if (vm_host_new(&c->host, &err) < 0)
		return;
	if (!is_given(c, "--way-out") && !probe_way_out(&way, &us, &err))
		c->way_out = way == WAY_OUT_KERNEL ? "kernel" : "eject";
}

static int clones_open(struct clones *c, sigset_t *mask)
{
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGHUP);
	sigprocmask(SIG_BLOCK, &block, mask);
	c->begun_ns = clock_now_ns();
	c->signals = signalfd(-1, &block, SFD_CLOEXEC);
	c->pid = calloc(c->count, sizeof(*c->pid));
	if (c->signals < 0 || !c->pid || pipe2(c->ready, O_CLOEXEC) < 0) {
		perror("postern clone");
		return -EMFILE;
	}
	return 0;
}

int cmd_clone(int argc, char **argv)
{
	struct clones c = { .signals = -1, .ready = { -1, -1 } };
	struct err err;
	sigset_t mask;

	if (clones_parse(&c, argc, argv) < 0)
		return CLI_USAGE;
	if (c.help) {
		fputs(help, stdout);
		return CLI_OK;
	}
	if (key_args_load(&c.key_args, &c.key, &err) < 0) {
		fprintf(stderr, "postern clone: %s\n", err.text);
		return CLI_FAILED;
	}
	if (clones_open(&c, &mask) < 0) {
		image_key_free(c.key);
		return CLI_FAILED;
	}
	look_at_host(&c);
	clones_fork(&c, &mask);
	clones_wait(&c);
	vm_host_free(c.host);
	free(c.pid);
	image_key_free(c.key);
	return c.failed ? CLI_FAILED : CLI_OK;
}

int cmd_share_keeper(int argc, char **argv)
{
	struct err err;

	if (share_keep_main(argc, argv, &err) < 0) {
		log_error("%s", err.text);
		return CLI_FAILED;
	}
	return CLI_OK;
}
