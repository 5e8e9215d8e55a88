// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * image.c - `postern image debian`: a disk with a Debian on it, made by Debian's own tools. What is done stands in
 * recipe/debian.sh, whose text is in here; this checks what it is given, runs it in a process group of its own, shows how far it
 * is, and leaves nothing behind when it fails or is interrupted.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/options.h"

#define SIZE_MIN (UINT64_C(400) << 20)
#define SIZE_MAX_BYTES (UINT64_C(16) << 40)
#define BLOCK_BYTES 4096u	/* ext4's */
#define KEY_BYTES_MAX 65536
#define PASSWORD_BYTES_MAX 512
#define TAIL_BYTES 4096
/* Those that were asked to end get as long to tidy up. */
#define PATIENCE_MS 20000
/* For what is killed to go, and for what the recipe leaves running to let go of its output. */
#define LINGER_MS 3000

static const char recipe[] =
#include "cli/recipes.h"
	;

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

struct image {
	const char *name;	/* the file, as it was called */
	char *out;		/* ... and a path that no program takes for an option or a host */
	char *packages;		/* by blanks */
	char *key;
	char size[24];		/* as mke2fs takes it */
	char *password;
	const char *suite, *hostname, *mirror;
	bool help;
	/* Directories that are removed at the end; NULL: not made yet. */
	char *top;		/* beside the file, with the next in it, and mostly the third */
	char *work;
	char *tmp;		/* where mmdebstrap unpacks */
};

/* ---- options ---- */

static bool is_made_of(const char *text, const char *more)
{
	const char *at;

	for (at = text; *at; at++)
		if (!(*at >= 'a' && *at <= 'z') && !(*at >= 'A' && *at <= 'Z') && !isdigit((unsigned char)*at) && !strchr(more, *at))
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
	if (!n || strlen(image->key) != n || strstr(image->key, "PRIVATE KEY") || !strpbrk(image->key, " "))
		return err_set(err, -EINVAL, "--ssh-key %s: that is not a file of public keys, such as ~/.ssh/id_ed25519.pub", path);
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
	if (!n || n > PASSWORD_BYTES_MAX || strlen(image->password) != n || strpbrk(image->password, "\n\r"))
		return err_set(err, -EINVAL, "--root-password-file %s: it has to hold one line of 1 to %d bytes", path, PASSWORD_BYTES_MAX);
	return 0;
}

static int size_take(struct image *image, const char *text, struct err *err)
{
	uint64_t bytes;

	if (size_parse(&bytes, text) < 0 || bytes < SIZE_MIN || bytes > SIZE_MAX_BYTES)
		return err_set(err, -EINVAL, "--size %s: from 400M to 16T is allowed", text);
	if (bytes % BLOCK_BYTES)
		return err_set(err, -EINVAL, "--size %s: a multiple of 4K is allowed; the next is %" PRIu64 "K", text,
			       (bytes / BLOCK_BYTES + 1) * (BLOCK_BYTES / 1024));
	/* A bare number is KiB there. */
	snprintf(image->size, sizeof(image->size), "%" PRIu64 "K", bytes / 1024);
	return 0;
}

static int word_take(const char **to, const char *option, const char *text, const char *more, struct err *err)
{
	if (!is_made_of(text, more) || strlen(text) > 200)
		return err_set(err, -EINVAL, "--%s %s: letters, digits and any of \"%s\" are allowed", option, text, more);
	*to = text;
	return 0;
}

static int take(struct image *image, int option, const char *value, struct err *err)
{
	switch (option) {
	case 's':
		return size_take(image, value, err);
	case 'u':
		return word_take(&image->suite, "suite", value, "-", err);
	case 'p':
		return package_add(image, value, err);
	case 'w':
		return password_read(image, value, err);
	case 'W':
		return err_set(err, -EINVAL, "--root-password: everybody can see a command line: --root-password-file FILE, or - for standard "
			       "input");
	case 'k':
		return key_read(image, value, err);
	case 'n':
		return word_take(&image->hostname, "hostname", value, "-.", err);
	case 'm':
		return word_take(&image->mirror, "mirror", value, "-.:/+~_%@[]", err);
	default:
		image->help = true;
		return 0;
	}
}

static int parse(struct image *image, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "size", required_argument, NULL, 's' },      { "suite", required_argument, NULL, 'u' },
		{ "package", required_argument, NULL, 'p' },   { "root-password-file", required_argument, NULL, 'w' },
		{ "root-password", required_argument, NULL, 'W' },
		{ "ssh-key", required_argument, NULL, 'k' },   { "hostname", required_argument, NULL, 'n' },
		{ "mirror", required_argument, NULL, 'm' },    { "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option, r = 0;

	opterr = 0;
	while (!r && (option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (option == '?' || option == ':')
			return err_set(err, -EINVAL, "%s: %s", argv[optind - 1],
				       option == ':' ? "its value is missing" : "no such option (postern image --help has all)");
		r = take(image, option, optarg, err);
	}
	if (r < 0 || image->help)
		return r;
	if (argc - optind != 2 || strcmp(argv[optind], "debian") != 0)
		return err_set(err, -EINVAL, "\"debian\" and a file are wanted: postern image debian FILE");
	image->name = argv[optind + 1];
	if (asprintf(&image->out, "%s%s", *image->name == '/' ? "" : "./", image->name) < 0)
		image->out = NULL;
	return image->out ? 0 : err_set(err, -ENOMEM, "no memory");
}

/* ---- what has to be there ---- */

static bool program_is_there(const char *name)
{
	char path[512];
	const char *at = getenv("PATH"), *end;

	for (; at && *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, ':');
		snprintf(path, sizeof(path), "%.*s/%s", (int)(end - at), at, name);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

static int programs_check(struct err *err)
{
	static const struct {
		const char *name, *package;
		bool only_users;	/* not needed by root */
	} programs[] = {
		{ "mmdebstrap", "mmdebstrap", false }, { "mke2fs", "e2fsprogs", false }, { "apt-get", "apt", false },
		{ "tar", "tar", false }, { "fakeroot", "fakeroot", true },
		{ "newuidmap", "uidmap", true },
	};
	char missing[200] = "";
	size_t i;

	for (i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
		if (!program_is_there(programs[i].name) && (geteuid() || !programs[i].only_users))
			snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), " %s", programs[i].package);
	return *missing ? err_set(err, -ENOENT, "this machine lacks packages: apt-get install%s", missing) : 0;
}

/* May anybody pass through this absolute path? */
static bool is_open_to_all(const char *path)
{
	char *part = strdup(path), *slash = part;
	struct stat st;
	bool yes = part;

	while (yes && slash) {
		yes = !stat(*part ? part : "/", &st) && st.st_mode & S_IXOTH;
		slash = strrchr(part, '/');
		if (slash)
			*slash = '\0';
	}
	free(part);
	return yes;
}

static char *directory_make(const char *in, const char *name, mode_t mode)
{
	char *path;

	if (asprintf(&path, "%s/%s", in, name) < 0)
		return NULL;
	/* Whatever the umask is. */
	if ((strstr(name, "XXXXXX") ? mkdtemp(path) == NULL : mkdir(path, mode) < 0) || chmod(path, mode) < 0) {
		free(path);
		return NULL;
	}
	return path;
}

/*
 * The file may be in a directory that is its user's alone. Then others, apt's own user and those of a user namespace, do not get to
 * what is unpacked there.
 */
static char *tmp_make(const char *top)
{
	const char *given = getenv("TMPDIR");
	char *whole = realpath(top, NULL), *tmp;

	if (!whole)
		return NULL;
	if (is_open_to_all(whole))
		tmp = directory_make(whole, "tmp", 0755);
	else
		tmp = directory_make(given && *given == '/' && is_open_to_all(given) ? given : "/tmp", "postern-image.XXXXXX", 0755);
	free(whole);
	return tmp;
}

/* The work goes on beside the file, where there has to be room anyway. */
static int work_make(struct image *image, struct err *err)
{
	struct stat st;

	if (!lstat(image->out, &st))
		return err_set(err, -EEXIST, "%s: is there already", image->name);
	if (asprintf(&image->top, "%s.XXXXXX", image->out) < 0)
		image->top = NULL;
	if (!image->top)
		return err_set(err, -ENOMEM, "no memory");
	if (!mkdtemp(image->top)) {
		err_errno(err, -errno, "%s", image->name);
		free(image->top);
		image->top = NULL;
		return err->code;
	}
	if (chmod(image->top, 0711) < 0)
		return err_errno(err, -errno, "%s", image->top);
	image->work = directory_make(image->top, "work", 0700);
	image->tmp = image->work ? tmp_make(image->top) : NULL;
	return image->tmp ? 0 : err_errno(err, -errno, "a directory for what is unpacked");
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)st, (void)kind, (void)where;
	return remove(path) && errno != ENOENT ? -1 : 0;
}

static int tree_remove(const char *path)
{
	return nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT ? -errno : 0;
}

/* What was unpacked in a user namespace belongs to others than its user, but may be removed in one. */
static void tmp_clear(const char *tmp)
{
	char *words[] = { "mmdebstrap", "--unshare-helper", "env", "--chdir=/", "rm", "-rf", "--one-file-system", (char *)tmp, NULL };
	posix_spawn_file_actions_t files;
	pid_t pid;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, 0, 2);
	if (!posix_spawnp(&pid, words[0], &files, NULL, words, environ))
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	posix_spawn_file_actions_destroy(&files);
}

static void work_remove(struct image *image)
{
	char **all[] = { &image->tmp, &image->work, &image->top };
	size_t i;
	int r;

	if (image->tmp && tree_remove(image->tmp) < 0 && geteuid())
		tmp_clear(image->tmp);
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		r = *all[i] ? tree_remove(*all[i]) : 0;
		if (r < 0)
			fprintf(stderr, "postern image: %s cannot be removed: %s\n", *all[i], strerror(-r));
		free(*all[i]);
		*all[i] = NULL;
	}
}

/* ---- the run ---- */

struct progress {
	bool terminal;
	int64_t start_ns;
	char step[80];
	char line[200];		/* the one that is being received */
	size_t len;
	char tail[TAIL_BYTES + 1];	/* the last that was said */
};

static void progress_show(const struct progress *p, const char *detail)
{
	unsigned int s = (unsigned int)((clock_now_ns() - p->start_ns) / 1000000000u);

	if (p->terminal)
		fprintf(stderr, "\r\033[K%3u s  %s%s%.50s", s, p->step, *detail ? ": " : "", detail);
}

static void progress_line(struct progress *p)
{
	size_t len, old = strlen(p->tail);
	char *at;

	p->line[p->len] = '\0';
	for (at = p->line; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = ' ';
	len = p->len;
	p->len = 0;
	if (!strncmp(p->line, "== ", 3)) {
		snprintf(p->step, sizeof(p->step), "%.79s", p->line + 3);
		if (!p->terminal)
			fprintf(stderr, "%s\n", p->step);
		progress_show(p, "");
		return;
	}
	if (old + len + 1 > TAIL_BYTES) {
		memmove(p->tail, p->tail + TAIL_BYTES / 2, old - TAIL_BYTES / 2 + 1);
		old = strlen(p->tail);
	}
	memcpy(p->tail + old, p->line, len);
	strcpy(p->tail + old + len, "\n");
	progress_show(p, strncmp(p->line, "I: ", 3) ? p->line : p->line + 3);
}

static void progress_take(struct progress *p, const char *data, size_t len)
{
	for (; len; len--, data++) {
		if (*data == '\n' || *data == '\r')
			progress_line(p);
		else if (p->len < sizeof(p->line) - 1)
			p->line[p->len++] = *data;
	}
}

static int environment_set(const struct image *image)
{
	const struct {
		const char *name, *value;
	} all[] = {
		{ "IMAGE_OUT", image->out }, { "IMAGE_WORK", image->work }, { "IMAGE_SIZE", image->size },
		{ "IMAGE_SUITE", image->suite }, { "IMAGE_PACKAGES", image->packages }, { "IMAGE_HOSTNAME", image->hostname },
		{ "IMAGE_PASSWORD", image->password }, { "IMAGE_KEY", image->key }, { "IMAGE_MIRROR", image->mirror },
		{ "TMPDIR", image->tmp },
	};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (setenv(all[i].name, all[i].value ? all[i].value : "", 1))
			return -errno;
	return 0;
}

/* In a process group of its own, so that all of it can be ended. */
static int spawn(pid_t *pid, int output, struct err *err)
{
	char *words[] = { "sh", "-c", (char *)recipe, "postern-image", NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, output, 1);
	posix_spawn_file_actions_adddup2(&files, output, 2);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	r = posix_spawn(pid, "/bin/sh", &files, &attr, words, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return r ? err_errno(err, -r, "/bin/sh") : 0;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	/* It is reaped later: until then nobody else has its number, nor its group's. */
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid;
}

/*
 * Until the recipe has ended, and all who can write to the pipe; the latter only for a while, since a server that a package has started
 * may have it. Ends early when it was interrupted, and they have had their time. Returns the signal, or 0.
 */
static int follow(struct progress *p, pid_t pid, int pipe_fd, int signal_fd)
{
	struct pollfd fds[] = { { .fd = pipe_fd, .events = POLLIN }, { .fd = signal_fd, .events = POLLIN } };
	struct signalfd_siginfo info;
	int64_t end_ns = INT64_MAX, last_ns = INT64_MAX;
	int sig = 0;
	char data[4096];
	ssize_t n;

	for (;;) {
		if (poll(fds, 2, 500) < 0 && errno != EINTR)
			break;
		if (fds[1].revents && read(signal_fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD) {
			if (sig)	/* the second one */
				end_ns = 0;
			else
				end_ns = clock_now_ns() + PATIENCE_MS * INT64_C(1000000);
			sig = (int)info.ssi_signo;
			kill(-pid, SIGTERM);
		}
		if (last_ns == INT64_MAX && has_ended(pid))
			last_ns = clock_now_ns() + LINGER_MS * INT64_C(1000000);
		if (clock_now_ns() >= end_ns || clock_now_ns() >= last_ns || (fds[0].fd < 0 && last_ns != INT64_MAX))
			break;
		if (!fds[0].revents) {
			progress_show(p, "");
			continue;
		}
		n = read(pipe_fd, data, sizeof(data));
		if (n <= 0)
			fds[0].fd = -1;
		else
			progress_take(p, data, (size_t)n);
		fds[0].revents = 0;
	}
	return sig;
}

/* Kills whose parent this process is, or has become. */
static void children_kill(void)
{
	char path[300], stat[300], *at;
	struct dirent *entry;
	DIR *all = opendir("/proc");
	FILE *file;
	int parent;

	while (all && (entry = readdir(all))) {
		if (!isdigit((unsigned char)*entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		at = fgets(stat, sizeof(stat), file) ? strrchr(stat, ')') : NULL;
		fclose(file);
		if (at && sscanf(at, ") %*c %d", &parent) == 1 && parent == getpid())
			kill(atoi(entry->d_name), SIGKILL);
	}
	if (all)
		closedir(all);
}

/*
 * What the recipe has started goes with it, also what has left its process group: what it wrote is about to be removed. Those whose parents
 * end become children of this process. Returns the recipe's status, or -1.
 */
static int all_end(pid_t pid)
{
	int64_t end_ns = clock_now_ns() + LINGER_MS * INT64_C(1000000);
	const struct timespec moment = { .tv_nsec = 10000000 };
	int status, result = -1;
	bool reaped = false;
	pid_t who;

	for (;;) {
		if (!reaped)
			kill(-pid, SIGKILL);
		children_kill();
		while ((who = waitpid(-1, &status, WNOHANG)) > 0)
			if (who == pid) {
				result = status;
				reaped = true;
			}
		if (who < 0 && errno != EINTR)
			return result;
		if (clock_now_ns() >= end_ns)
			break;
		nanosleep(&moment, NULL);
	}
	fputs("postern image: a process that it has started does not end\n", stderr);
	return result;
}

static int run(struct progress *p, sigset_t *signals, struct err *err)
{
	int fds[2], signal_fd, sig, status;
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal_fd = signalfd(-1, signals, SFD_CLOEXEC);
	if (signal_fd < 0 || pipe2(fds, O_CLOEXEC) < 0) {
		err_errno(err, -errno, "pipe");
		close(signal_fd);
		return err->code;
	}
	if (spawn(&pid, fds[1], err) < 0) {
		close(fds[1]);
		goto out;
	}
	close(fds[1]);
	sig = follow(p, pid, fds[0], signal_fd);
	status = all_end(pid);
	/* When it was interrupted too late, the image is there. */
	if (status && sig)
		err_set(err, -EINTR, "interrupted");
	else if (status)
		err_set(err, -EIO, "it failed; what it said stands above");
out:
	close(fds[0]);
	close(signal_fd);
	return err->code;
}

static int make(struct image *image, struct err *err)
{
	struct progress progress = { .terminal = isatty(STDERR_FILENO), .start_ns = clock_now_ns() };
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
	r = programs_check(err);
	if (!r)
		r = work_make(image, err);
	if (!r && environment_set(image) < 0)
		r = err_set(err, -ENOMEM, "no memory");
	if (!r)
		r = run(&progress, &signals, err);
	if (progress.terminal)
		fputs("\r\033[K", stderr);
	work_remove(image);
	if (r == -EIO)
		fputs(progress.tail, stderr);
	if (!r && stat(image->out, &st) < 0)
		r = err_errno(err, -errno, "%s", image->name);
	if (!r)
		printf("%s: %lld MiB, of which %lld are in use; start it by: postern run -m 512M --disk %s\n", image->name,
		       (long long)st.st_size >> 20, (long long)st.st_blocks * 512 >> 20, image->name);
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
	} else if (make(&image, &err) < 0) {
		fprintf(stderr, "postern image: %s\n", err.text);
		status = CLI_FAILED;
	}
	free(image.out);
	free(image.packages);
	free(image.key);
	free(image.password);
	return status;
}
