// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "cli/snapshot.h"
#include "control/rundir.h"
#include "image/operations.h"
#include "memory/snapshot.h"

const char snapshot_help[] =
	"usage: postern snapshot [OPTION...] save STORE/NAME\n"
	"       postern snapshot [OPTION...] status|cancel\n"
	"       postern snapshot [OPTION...] info|verify|delete STORE/NAME\n"
	"       postern snapshot [OPTION...] list|gc STORE\n"
	"       postern snapshot [OPTION...] compact STORE/FROM STORE/TO\n"
	"       postern snapshot [OPTION...] import FILE STORE/NAME\n"
	"       postern snapshot [OPTION...] export STORE/NAME FILE\n"
	"\n"
	"of a machine that runs\n"
	"  save STORE/NAME       save a machine into an image, such as /var/lib/images/web1 or\n"
	"                        s3://bucket/prefix/web1; shows progress until the end. The guest stands still for\n"
	"                        milliseconds, and goes on while its memory is saved as it was then\n"
	"  status                how the machine's last save stands\n"
	"  cancel                end a save; nothing is left of its image\n"
	"\n"
	"of images, without a machine\n"
	"  info STORE/NAME       what an image is, and what it has\n"
	"  list STORE            the images of a store\n"
	"  verify STORE/NAME     read all of an image, and compare it with its checksums\n"
	"  compact STORE/FROM STORE/TO\n"
	"                        write an image anew, so that it needs no other one\n"
	"  delete STORE/NAME     delete an image, and what of it no other one needs\n"
	"  gc STORE              remove what no image of a store needs, such as what savers that died have left\n"
	"  import FILE STORE/NAME\n"
	"                        another VMM's memory file into an image of memory alone\n"
	"  export STORE/NAME FILE\n"
	"                        an image's memory into a new file for others\n"
	"\n"
	"options\n"
	"  -n, --name NAME       save, status, cancel: which machine; not needed where there is only one\n"
	"      --qmp ADDRESS     one without a name: its QMP socket, unix:PATH, tcp:HOST:PORT or PATH\n"
	"      --timeout SECONDS  how long to wait for a machine's answer, 1 to 3600 (10)\n"
	"      --incremental     save: write only what has changed since the machine was last saved, or restored\n"
	"      --parent NAME     save: the same, if that image is called so\n"
	"      --track           save: afterwards, notice what the guest writes, so that the next incremental save\n"
	"                        need not read all of memory\n"
	"      --pause           save: the guest stands still until its memory has been read\n"
	"      --buffer SIZE     save: for what the guest writes before it has been saved, 1M or more (64M)\n"
	"      --level N         save, compact, import: zstd's level, 1 to 19 (1)\n"
	"      --detach          save: do not wait for the end\n"
	"      --names           list: names alone, and no image is looked at\n"
	"      --threads N       verify, compact: so many at a time, 1 to 16 (2; of a remote store 8)\n"
	"      --dry-run         gc: remove nothing, only say what would go\n"
	"      --dead-after SECONDS  gc: savers of other hosts that began longer ago are taken for dead. Without it\n"
	"                        none is\n"
	"      --format FORMAT   import: raw, a sparse file of all memory, or mapped-ram, QEMU's migration to a file; export:\n"
	"                        raw, or elf, a core with the vCPUs' registers (raw)\n"
	"      --diff            export, raw: only what differs from the image's parent; the rest is holes\n"
	"      --over FILE       import, raw: a diff over the file; several go over each other\n"
	"      --ranges BASE:BYTES,...  import: where the file's bytes are in the guest, in order (0 and all)\n"
	"      --block NAME      import, mapped-ram: the RAM block (pc.ram)\n"
	"      --offset BYTES    import, mapped-ram: where QEMU's stream begins in the file (0)\n" STORE_WRITE_OPTIONS_HELP
		KEY_OPTIONS_HELP "  -j, --json            replies as they are, for programs\n"
	"  -h, --help            print this\n"
	"\n"
	"Exit status: 0 done; 1 the machine or the store refused, the save failed, the image is damaged; 2 bad usage; 3 no\n"
	"such machine, or no answer; 130 interrupted: a save goes on, all else has ended, and no image was lost.\n";

enum {
	OPT_QMP = 256,
	OPT_TIMEOUT,
	OPT_BUFFER,
	OPT_LEVEL,
	OPT_DETACH,
	OPT_NAMES,
	OPT_THREADS,
	OPT_DRY_RUN,
	OPT_DEAD_AFTER,
	OPT_INCREMENTAL,
	OPT_PARENT,
	OPT_TRACK,
	OPT_PAUSE,
	OPT_FORMAT,
	OPT_DIFF,
	OPT_OVER,
	OPT_RANGES,
	OPT_BLOCK,
	OPT_OFFSET,
};

/* Which commands take an option: bits of enum snapshot_command. */
#define BIT(command) (1u << (command))
#define OF_MACHINE (BIT(SNAPSHOT_SAVE) | BIT(SNAPSHOT_STATUS) | BIT(SNAPSHOT_CANCEL))
/* They read an image. */
#define OF_KEY \
	(BIT(SNAPSHOT_INFO) | BIT(SNAPSHOT_VERIFY) | BIT(SNAPSHOT_COMPACT) | BIT(SNAPSHOT_EXPORT))
#define KEY_TOO (BIT(SNAPSHOT_GC) | BIT(SNAPSHOT_IMPORT))
#define OF_STORE (~(BIT(SNAPSHOT_STATUS) | BIT(SNAPSHOT_CANCEL)))

static const struct snapshot_option {
	int option;
	const char *name;
	unsigned int of;
} option_commands[] = {
	{ 'n', "name", OF_MACHINE },
	{ OPT_QMP, "qmp", OF_MACHINE },
	{ OPT_TIMEOUT, "timeout", OF_MACHINE },
	{ OPT_BUFFER, "buffer", BIT(SNAPSHOT_SAVE) },
	{ OPT_LEVEL, "level", BIT(SNAPSHOT_SAVE) | BIT(SNAPSHOT_COMPACT) | BIT(SNAPSHOT_IMPORT) },
	{ OPT_DETACH, "detach", BIT(SNAPSHOT_SAVE) },
	{ OPT_INCREMENTAL, "incremental", BIT(SNAPSHOT_SAVE) },
	{ OPT_PARENT, "parent", BIT(SNAPSHOT_SAVE) },
	{ OPT_TRACK, "track", BIT(SNAPSHOT_SAVE) },
	{ OPT_PAUSE, "pause", BIT(SNAPSHOT_SAVE) },
	{ OPT_NAMES, "names", BIT(SNAPSHOT_LIST) },
	{ OPT_THREADS, "threads", BIT(SNAPSHOT_VERIFY) | BIT(SNAPSHOT_COMPACT) },
	{ OPT_DRY_RUN, "dry-run", BIT(SNAPSHOT_GC) },
	{ OPT_DEAD_AFTER, "dead-after", BIT(SNAPSHOT_GC) },
	{ OPT_FORMAT, "format", BIT(SNAPSHOT_IMPORT) | BIT(SNAPSHOT_EXPORT) },
	{ OPT_DIFF, "diff", BIT(SNAPSHOT_EXPORT) },
	{ OPT_OVER, "over", BIT(SNAPSHOT_IMPORT) },
	{ OPT_RANGES, "ranges", BIT(SNAPSHOT_IMPORT) },
	{ OPT_BLOCK, "block", BIT(SNAPSHOT_IMPORT) },
	{ OPT_OFFSET, "offset", BIT(SNAPSHOT_IMPORT) },
	{ OPT_STORE_CREDENTIALS, "store-credentials", OF_STORE },
	{ OPT_STORE_DEADLINE, "store-deadline", OF_STORE },
	{ OPT_KEY_FILE, "key-file", OF_KEY | KEY_TOO | BIT(SNAPSHOT_SAVE) },
	{ OPT_KEY_FD, "key-fd", OF_KEY | KEY_TOO | BIT(SNAPSHOT_SAVE) },
	{ OPT_ALLOW_UNENCRYPTED, "allow-unencrypted", OF_KEY },
};
#define NOPTIONS (sizeof(option_commands) / sizeof(option_commands[0]))

static const struct snapshot_word {
	const char *name;
	const char *place[2]; /* what it takes */
} snapshot_words[] = {
	[SNAPSHOT_SAVE] = { "save", { "STORE/NAME" } },
	[SNAPSHOT_STATUS] = { "status", { NULL } },
	[SNAPSHOT_CANCEL] = { "cancel", { NULL } },
	[SNAPSHOT_INFO] = { "info", { "STORE/NAME" } },
	[SNAPSHOT_LIST] = { "list", { "STORE" } },
	[SNAPSHOT_VERIFY] = { "verify", { "STORE/NAME" } },
	[SNAPSHOT_COMPACT] = { "compact", { "STORE/FROM", "STORE/TO" } },
	[SNAPSHOT_DELETE] = { "delete", { "STORE/NAME" } },
	[SNAPSHOT_GC] = { "gc", { "STORE" } },
	[SNAPSHOT_IMPORT] = { "import", { "FILE", "STORE/NAME" } },
	[SNAPSHOT_EXPORT] = { "export", { "STORE/NAME", "FILE" } },
};
#define NWORDS (sizeof(snapshot_words) / sizeof(snapshot_words[0]))

const char *snapshot_command_name(enum snapshot_command command)
{
	return snapshot_words[command].name;
}

static int snapshot_number(unsigned int *to, const char *option, const char *text, unsigned int max,
			   struct err *err)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || errno || *end || value < 1 || value > max)
		return err_set(err, -EINVAL, "--%s %s: a number from 1 to %u is allowed", option,
			       text, max);
	*to = (unsigned int)value;
	return 0;
}

static int take_name(struct snapshot_options *o, const char *name, struct err *err)
{
	o->ctl.name = name;
	return rundir_name_is_valid(name) ?
		       0 :
		       err_set(err, -EINVAL, "--name %s: no machine can have this name", name);
}

static int take_timeout(struct snapshot_options *o, const char *value, struct err *err)
{
	unsigned int seconds;
	int r = snapshot_number(&seconds, "timeout", value, 3600, err);

	if (!r)
		o->ctl.timeout_ms = seconds * 1000;
	return r;
}

static int take_format(struct snapshot_options *o, const char *value, struct err *err)
{
	static const char *const formats[] = {
		[SNAPSHOT_RAW] = "raw",
		[SNAPSHOT_MAPPED_RAM] = "mapped-ram",
		[SNAPSHOT_ELF] = "elf",
	};
	unsigned int i;

	for (i = 0; i < 3; i++)
		if (!strcmp(formats[i], value)) {
			o->format = (enum snapshot_format)i;
			return 0;
		}
	return err_set(err, -EINVAL,
		       "--format %.32s: raw, mapped-ram (import) and elf (export) are allowed",
		       value);
}

static int options_take_over(struct snapshot_options *o, const char *value, struct err *err)
{
	if (o->n_over == MEMORY_FILE_DIFFS_MAX)
		return err_set(err, -EINVAL, "--over: at most %u diffs", MEMORY_FILE_DIFFS_MAX);
	o->over[o->n_over++] = value;
	return 0;
}

static int take_range(struct snapshot_options *o, const char *text)
{
	char part[64], *colon;
	uint64_t base, bytes;

	if (strlen(text) >= sizeof(part) || o->n_ranges == MEMORY_REGIONS_MAX)
		return -EINVAL;
	strcpy(part, text);
	colon = strchr(part, ':');
	if (!colon)
		return -EINVAL;
	*colon = '\0';
	if (size_parse(&base, part) < 0 || size_parse(&bytes, colon + 1) < 0)
		return -EINVAL;
	o->ranges[o->n_ranges++] = (struct memory_range){ GPA(base), bytes };
	return 0;
}

static int take_ranges(struct snapshot_options *o, const char *value, struct err *err)
{
	char *copy = strdup(value), *rest = copy, *part;
	int r = copy ? 0 : -ENOMEM;

	o->n_ranges = 0;
	while (!r && (part = strsep(&rest, ",")))
		r = take_range(o, part);
	free(copy);
	return r ? err_set(err, -EINVAL,
			   "--ranges %.64s: BASE:BYTES,... are allowed, at most %d, such as "
			   "0:3G,4G:1G",
			   value, MEMORY_REGIONS_MAX) :
		   0;
}

static int take_offset(struct snapshot_options *o, const char *value, struct err *err)
{
	return size_parse(&o->offset, value) < 0 ?
		       err_set(err, -EINVAL, "--offset %.32s: a number of bytes is allowed",
			       value) :
		       0;
}

/* What --format decides about the others. */
static int check_format(const struct snapshot_options *o, struct err *err)
{
	bool import = o->command == SNAPSHOT_IMPORT;

	if (o->format == (import ? SNAPSHOT_ELF : SNAPSHOT_MAPPED_RAM))
		return err_set(err, -EINVAL, "--format: %s cannot be %s",
			       import ? "elf" : "mapped-ram", import ? "imported" : "exported");
	if (o->format != SNAPSHOT_RAW && (o->n_over || o->diff))
		return err_set(err, -EINVAL, "%s: only --format raw has diffs",
			       o->diff ? "--diff" : "--over");
	if (o->format != SNAPSHOT_MAPPED_RAM && (o->block || o->offset))
		return err_set(err, -EINVAL, "%s: only --format mapped-ram takes it",
			       o->block ? "--block" : "--offset");
	return 0;
}

/* Those of import and export. */
static int snapshot_take_file(struct snapshot_options *o, int option, const char *value,
			      struct err *err)
{
	switch (option) {
	case OPT_FORMAT:
		return take_format(o, value, err);
	case OPT_DIFF:
		o->diff = true;
		return 0;
	case OPT_OVER:
		return options_take_over(o, value, err);
	case OPT_RANGES:
		return take_ranges(o, value, err);
	case OPT_BLOCK:
		o->block = value;
		return 0;
	default:
		return take_offset(o, value, err);
	}
}

static int snapshot_options_take(struct snapshot_options *o, int option, const char *value,
				 struct err *err)
{
	if (store_args_knows(option))
		return store_args_take(&o->store, option, value, err);
	if (option >= OPT_FORMAT && option <= OPT_OFFSET)
		return snapshot_take_file(o, option, value, err);
	if (key_args_knows(option))
		return key_args_take(&o->key, option, value, err);
	switch (option) {
	case 'n':
		return take_name(o, value, err);
	case OPT_QMP:
		o->ctl.qmp = value;
		return 0;
	case OPT_TIMEOUT:
		return take_timeout(o, value, err);
	case OPT_BUFFER:
		if (size_parse(&o->buffer_bytes, value) < 0 ||
		    o->buffer_bytes < MEMORY_SNAPSHOT_BUFFER_MIN || o->buffer_bytes > INT64_MAX)
			return err_set(err, -EINVAL,
				       "--buffer %s: a size of 1M or more is expected, such as 512M",
				       value);
		return 0;
	case OPT_LEVEL:
		return snapshot_number(&o->level, "level", value, 19, err);
	case OPT_DETACH:
		o->ctl.detach = true;
		return 0;
	case OPT_INCREMENTAL:
		o->incremental = true;
		return 0;
	case OPT_PARENT:
		o->parent = value;
		return 0;
	case OPT_TRACK:
		o->track = true;
		return 0;
	case OPT_PAUSE:
		o->pause = true;
		return 0;
	case OPT_NAMES:
		o->ctl.names = true;
		return 0;
	case OPT_THREADS:
		return snapshot_number(&o->threads, "threads", value, IMAGE_THREADS_MAX, err);
	case OPT_DRY_RUN:
		o->dry_run = true;
		return 0;
	case OPT_DEAD_AFTER:
		return snapshot_number(&o->dead_after_s, "dead-after", value, 100000000, err);
	case 'j':
		o->ctl.json = true;
		return 0;
	default:
		o->ctl.help = true;
		return 0;
	}
}

static int take_places(struct snapshot_options *o, int argc, char **argv, struct err *err)
{
	const struct snapshot_word *word = &snapshot_words[o->command];
	int i;

	for (i = 0; i < 2 && word->place[i]; i++) {
		if (i >= argc)
			return err_set(err, -EINVAL, "%s: its %s is missing", word->name,
				       word->place[i]);
		o->place[i] = argv[i];
	}
	return argc > i ? err_set(err, -EINVAL, "%s: \"%s\" is too much", word->name, argv[i]) : 0;
}

static int snapshot_take_command(struct snapshot_options *o, unsigned int given, int argc,
				 char **argv, struct err *err)
{
	unsigned int i;

	if (!argc)
		return err_set(err, -EINVAL,
			       "a command is missing (postern snapshot --help has all)");
	for (i = 0; i < NWORDS && strcmp(snapshot_words[i].name, argv[0]); i++)
		;
	if (i == NWORDS)
		return err_set(err, -EINVAL,
			       "%s: no such command (postern snapshot --help has all)", argv[0]);
	o->command = (enum snapshot_command)i;
	for (i = 0; i < NOPTIONS; i++)
		if (given >> i & 1 && !(option_commands[i].of & BIT(o->command)))
			return err_set(err, -EINVAL, "--%s: %s does not take it",
				       option_commands[i].name, argv[0]);
	if (o->ctl.name && o->ctl.qmp)
		return err_set(err, -EINVAL, "--name and --qmp: only one of them is allowed");
	if (o->track && o->pause)
		return err_set(err, -EINVAL,
			       "--track and --pause: only one of them is allowed, since what is "
			       "written is tracked from a live save on");
	if (key_args_check(&o->key, err) < 0)
		return -EINVAL;
	return check_format(o, err) ?: take_places(o, argc - 1, argv + 1, err);
}

/* Its bit; 0: all commands take it. */
static unsigned int option_bit(int option)
{
	unsigned int i;

	for (i = 0; i < NOPTIONS; i++)
		if (option_commands[i].option == option)
			return 1u << i;
	return 0;
}

int snapshot_options_parse(struct snapshot_options *o, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "qmp", required_argument, NULL, OPT_QMP },
		{ "timeout", required_argument, NULL, OPT_TIMEOUT },
		{ "buffer", required_argument, NULL, OPT_BUFFER },
		{ "level", required_argument, NULL, OPT_LEVEL },
		STORE_WRITE_LONG_OPTIONS,
		KEY_LONG_OPTIONS,
		{ "detach", no_argument, NULL, OPT_DETACH },
		{ "incremental", no_argument, NULL, OPT_INCREMENTAL },
		{ "parent", required_argument, NULL, OPT_PARENT },
		{ "track", no_argument, NULL, OPT_TRACK },
		{ "pause", no_argument, NULL, OPT_PAUSE },
		{ "names", no_argument, NULL, OPT_NAMES },
		{ "threads", required_argument, NULL, OPT_THREADS },
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
		{ "dead-after", required_argument, NULL, OPT_DEAD_AFTER },
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "diff", no_argument, NULL, OPT_DIFF },
		{ "over", required_argument, NULL, OPT_OVER },
		{ "ranges", required_argument, NULL, OPT_RANGES },
		{ "block", required_argument, NULL, OPT_BLOCK },
		{ "offset", required_argument, NULL, OPT_OFFSET },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	unsigned int given = 0;
	int option, r;

	*o = (struct snapshot_options){ .ctl.timeout_ms = 10000 };
	opterr = 0;
	optind = 0;
	while ((option = getopt_long(argc, argv, ":n:jh", options, NULL)) != -1) {
		if (option == '?' || option == ':')
			return err_set(
				err, -EINVAL, "%s: %s", argv[optind - 1],
				option == ':' ?
					"its value is missing" :
					"no such option, or it takes no value (postern snapshot --help has all)");
		given |= option_bit(option);
		r = snapshot_options_take(o, option, optarg, err);
		if (r < 0)
			return r;
	}
	return o->ctl.help ? 0 : snapshot_take_command(o, given, argc - optind, argv + optind, err);
}
