// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/size.h"
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "control/rundir.h"

const char options_help[] =
	"usage: postern run --kernel FILE [OPTION...]\n"
	"       postern run --disk FILE [OPTION...]\n"
	"       postern run --incoming URI [OPTION...]\n"
	"       postern run --restore STORE/NAME [OPTION...]\n"
	"\n"
	"machine\n"
	"      --kernel FILE         bzImage, ELF vmlinux, or the bare guest's ELF; without it, what the first disk holds\n"
	"      --initrd FILE         initial RAM disk\n"
	"      --cmdline TEXT        the kernel's command line; from a disk: instead of console=ttyS0 root=... rw\n"
	"      --append TEXT         more of it\n"
	"  -c, --cpus N              vCPUs, 1 to 128 (1)\n"
	"  -m, --memory SIZE         RAM, 16M to 1T, a multiple of 2M (512M)\n"
	"      --name NAME           what postern ctl knows it by: QMP and (with --gdb auto) gdb in a directory of its own\n"
	"      --serial CHARDEV      null, stdio, pty[:LINK], file:PATH[,limit=SIZE], unix:PATH (stdio);\n"
	"                            at its limit the file becomes PATH.1; 0: none (16M)\n"
	"      --disk FILE|URI[,format=raw|qcow2][,readonly][,serial=TEXT][,reconnect=SECONDS][,quiesce=SECONDS]\n"
	"            [,backing=FILE]...[,data-file=FILE]\n"
	"                            a virtio disk in a file or block device, or at nbd://HOST[:PORT][/EXPORT],\n"
	"                            nbd+unix:///[EXPORT]?socket=PATH; up to 8 (raw; reconnect: for ever)\n"
	"      --overlay DIR         disks stay as they are: what is written goes into a new qcow2 file in DIR for each of them,\n"
	"                            [NAME-]diskN.qcow2, which is yours to remove afterwards\n"
	"      --net tap=NAME|passt[=SOCKET]|fd=N[,mac=XX:XX:XX:XX:XX:XX][,forward=tcp|udp:[ADDRESS/]HOSTPORT[:GUESTPORT]]\n"
	"            [,dns=ADDRESS][,host-loopback]\n"
	"                            a virtio network device; up to 8; forward, dns, host-loopback: with a passt of postern's own;\n"
	"                            forward: repeatable, at 127.0.0.1 unless ADDRESS says otherwise, * for every one\n"
	"      --rng                 a virtio entropy device\n"
	"      --console CHARDEV     a virtio console, /dev/hvc0: as --serial, which is then null when this one takes stdio\n"
	"      --balloon             a virtio balloon, which QMP's balloon command sets, and reports of free pages\n"
	"      --vsock cid=N,socket=PATH  virtio sockets: the guest is N, and reached at PATH, and reaches port P at PATH_P\n"
	"      --no-reboot           end when the guest reboots\n"
	"      --dump-guest-core     core dumps of this process have the guest's RAM\n"
	"  -S, --paused              do not start the guest yet\n"
	"\n"
	"control\n"
	"      --qmp SPEC            QEMU machine protocol at unix:PATH or tcp:HOST:PORT; may be given several times\n"
	"      --gdb SPEC            gdb stub at tcp:HOST:PORT or unix:PATH; auto: where --name says\n"
	"      --gdb-page-timeout MS  how long the debugger waits for a missing page (200)\n"
	"\n"
	"late memory\n"
	"      --incoming URI        wait for a migration at tcp:HOST:PORT, unix:PATH or fd:N; \"defer\": QMP tells where\n"
	"      --restore STORE/NAME  run the guest of an image (postern snapshot save); its memory comes while it runs\n"
	"      --share NAME          share the image's pages with all machines here that are given the same NAME\n"
	"      --fill FILL           what nobody waits for: on, off, or bytes a second; suffixes K, M, G, T (on)\n"
	"      --working-set WHAT    what the guest touches first: on (recorded, and fetched ahead), off, record, replay (on)\n" STORE_OPTIONS_HELP
		KEY_OPTIONS_HELP
	"      --changed-disks       restore although disks are not as they were when the guest was saved\n"
	"      --clock-realtime      the guest's clocks show the time since it was saved, rather than go on where they stood\n"
	"      --secret-file FILE    migrations, in and out: the other side has to prove that it has this file's content, too\n"
	"      --insecure            migrations over TCP without a secret: trust everybody who can reach the port\n"
	"      --way-out WAY         how a vCPU leaves its wait for a page: auto, kernel or eject (auto)\n"
	"      --link-timeout MS     a peer not heard of for so long is gone, 100 to 600000 (5000)\n"
	"      --bandwidth BYTES     a second of bulk pages, 0: no limit (0); suffixes K, M, G, T\n"
	"\n"
	"process\n"
	"      --log-level LEVEL     error, warn, info or debug (warn)\n"
	"      --log-format FORMAT   text, or json: one object a line (text)\n"
	"      --log-file FILE[,limit=SIZE]\n"
	"                            append the log to FILE instead of standard error; at its limit it\n"
	"                            becomes FILE.1; 0: none (16M)\n"
	"      --config FILE         options from a JSON file (docs/config.md); the command line goes over it\n"
	"      --pid-file FILE       write the process id there, once all is set up\n"
	"  -h, --help                print this\n"
	"\n"
	"On a terminal, Ctrl-A x ends, Ctrl-A h helps. SIGTERM and SIGINT end in order; a second one at once.\n";

enum {
	OPT_KERNEL = 256,
	OPT_INITRD,
	OPT_CMDLINE,
	OPT_NAME,
	OPT_SERIAL,
	OPT_QMP,
	OPT_GDB,
	OPT_GDB_PAGE_TIMEOUT,
	OPT_INCOMING,
	OPT_WAY_OUT,
	OPT_NO_REBOOT,
	OPT_LINK_TIMEOUT,
	OPT_BANDWIDTH,
	OPT_LOG_LEVEL,
	OPT_LOG_FORMAT,
	OPT_LOG_FILE,
	OPT_PID_FILE,
	OPT_CONFIG,
	OPT_DISK,
	OPT_NET,
	OPT_RNG,
	OPT_CONSOLE,
	OPT_BALLOON,
	OPT_VSOCK,
	OPT_APPEND,
	OPT_SECRET_FILE,
	OPT_INSECURE,
	OPT_DUMP_GUEST_CORE,
	OPT_RESTORE,
	OPT_SHARE,
	OPT_FILL,
	OPT_WORKING_SET,
	OPT_CHANGED_DISKS,
	OPT_OVERLAY,
	OPT_CLOCK_REALTIME,
};

static const struct option long_options[] = {
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ "initrd", required_argument, NULL, OPT_INITRD },
	{ "append", required_argument, NULL, OPT_APPEND },
	{ "cmdline", required_argument, NULL, OPT_CMDLINE },
	{ "cpus", required_argument, NULL, 'c' },
	{ "memory", required_argument, NULL, 'm' },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "serial", required_argument, NULL, OPT_SERIAL },
	{ "qmp", required_argument, NULL, OPT_QMP },
	{ "gdb", required_argument, NULL, OPT_GDB },
	{ "gdb-page-timeout", required_argument, NULL, OPT_GDB_PAGE_TIMEOUT },
	{ "incoming", required_argument, NULL, OPT_INCOMING },
	{ "restore", required_argument, NULL, OPT_RESTORE },
	{ "share", required_argument, NULL, OPT_SHARE },
	{ "fill", required_argument, NULL, OPT_FILL },
	{ "working-set", required_argument, NULL, OPT_WORKING_SET },
	{ "changed-disks", no_argument, NULL, OPT_CHANGED_DISKS },
	{ "clock-realtime", no_argument, NULL, OPT_CLOCK_REALTIME },
	STORE_LONG_OPTIONS,
	KEY_LONG_OPTIONS,
	{ "secret-file", required_argument, NULL, OPT_SECRET_FILE },
	{ "insecure", no_argument, NULL, OPT_INSECURE },
	{ "way-out", required_argument, NULL, OPT_WAY_OUT },
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "overlay", required_argument, NULL, OPT_OVERLAY },
	{ "net", required_argument, NULL, OPT_NET },
	{ "rng", no_argument, NULL, OPT_RNG },
	{ "console", required_argument, NULL, OPT_CONSOLE },
	{ "balloon", no_argument, NULL, OPT_BALLOON },
	{ "vsock", required_argument, NULL, OPT_VSOCK },
	{ "no-reboot", no_argument, NULL, OPT_NO_REBOOT },
	{ "dump-guest-core", no_argument, NULL, OPT_DUMP_GUEST_CORE },
	{ "paused", no_argument, NULL, 'S' },
	{ "link-timeout", required_argument, NULL, OPT_LINK_TIMEOUT },
	{ "bandwidth", required_argument, NULL, OPT_BANDWIDTH },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "log-format", required_argument, NULL, OPT_LOG_FORMAT },
	{ "log-file", required_argument, NULL, OPT_LOG_FILE },
	{ "pid-file", required_argument, NULL, OPT_PID_FILE },
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

/* Each option but config and help: docs/config.md. */
static const struct config_key config_keys[] = {
	{ "kernel", CONFIG_TEXT, OPT_KERNEL },
	{ "initrd", CONFIG_TEXT, OPT_INITRD },
	{ "append", CONFIG_TEXT, OPT_APPEND },
	{ "cmdline", CONFIG_TEXT, OPT_CMDLINE },
	{ "cpus", CONFIG_NUMBER, 'c' },
	{ "memory", CONFIG_SIZE, 'm' },
	{ "name", CONFIG_TEXT, OPT_NAME },
	{ "serial", CONFIG_TEXT, OPT_SERIAL },
	{ "disk", CONFIG_LIST, OPT_DISK },
	{ "overlay", CONFIG_TEXT, OPT_OVERLAY },
	{ "net", CONFIG_LIST, OPT_NET },
	{ "rng", CONFIG_FLAG, OPT_RNG },
	{ "console", CONFIG_TEXT, OPT_CONSOLE },
	{ "balloon", CONFIG_FLAG, OPT_BALLOON },
	{ "vsock", CONFIG_TEXT, OPT_VSOCK },
	{ "qmp", CONFIG_LIST, OPT_QMP },
	{ "gdb", CONFIG_TEXT, OPT_GDB },
	{ "gdb-page-timeout", CONFIG_NUMBER, OPT_GDB_PAGE_TIMEOUT },
	{ "incoming", CONFIG_TEXT, OPT_INCOMING },
	{ "restore", CONFIG_TEXT, OPT_RESTORE },
	{ "share", CONFIG_TEXT, OPT_SHARE },
	{ "fill", CONFIG_TEXT, OPT_FILL },
	{ "working-set", CONFIG_TEXT, OPT_WORKING_SET },
	{ "changed-disks", CONFIG_FLAG, OPT_CHANGED_DISKS },
	{ "clock-realtime", CONFIG_FLAG, OPT_CLOCK_REALTIME },
	{ "store-credentials", CONFIG_TEXT, OPT_STORE_CREDENTIALS },
	{ "store-deadline", CONFIG_NUMBER, OPT_STORE_DEADLINE },
	{ "store-cache", CONFIG_TEXT, OPT_STORE_CACHE },
	{ "second-store", CONFIG_TEXT, OPT_SECOND_STORE },
	{ "second-store-after", CONFIG_NUMBER, OPT_SECOND_STORE_AFTER },
	{ "key-file", CONFIG_TEXT, OPT_KEY_FILE },
	{ "key-fd", CONFIG_NUMBER, OPT_KEY_FD },
	{ "allow-unencrypted", CONFIG_FLAG, OPT_ALLOW_UNENCRYPTED },
	{ "secret-file", CONFIG_TEXT, OPT_SECRET_FILE },
	{ "insecure", CONFIG_FLAG, OPT_INSECURE },
	{ "way-out", CONFIG_TEXT, OPT_WAY_OUT },
	{ "no-reboot", CONFIG_FLAG, OPT_NO_REBOOT },
	{ "dump-guest-core", CONFIG_FLAG, OPT_DUMP_GUEST_CORE },
	{ "paused", CONFIG_FLAG, 'S' },
	{ "link-timeout", CONFIG_NUMBER, OPT_LINK_TIMEOUT },
	{ "bandwidth", CONFIG_SIZE, OPT_BANDWIDTH },
	{ "log-level", CONFIG_TEXT, OPT_LOG_LEVEL },
	{ "log-format", CONFIG_TEXT, OPT_LOG_FORMAT },
	{ "log-file", CONFIG_TEXT, OPT_LOG_FILE },
	{ "pid-file", CONFIG_TEXT, OPT_PID_FILE },
	{ 0 },
};

static int options_parse_number(unsigned int *to, const char *option, const char *text,
				unsigned int min, unsigned int max, struct err *err)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || errno || *end || value < min || value > max)
		return err_set(err, -EINVAL, "--%s %s: a number from %u to %u is allowed", option,
			       text, min, max);
	*to = (unsigned int)value;
	return 0;
}

/* Index of `text` among n words, or -EINVAL and an error with all of them. */
static int parse_word(const char *option, const char *text, const char *const *words, int n,
		      const char *all, struct err *err)
{
	int i;

	for (i = 0; i < n; i++)
		if (!strcmp(text, words[i]))
			return i;
	return err_set(err, -EINVAL, "--%s %s: allowed are %s", option, text, all);
}

static int parse_memory(struct options *o, const char *text, struct err *err)
{
	uint64_t bytes;

	if (size_parse(&bytes, text) < 0 || bytes < ARCH_RAM_MIN || bytes > ARCH_RAM_MAX ||
	    bytes % HUGE_BYTES)
		return err_set(err, -EINVAL,
			       "--memory %s: a size from 16M to 1T, in steps of 2M, is allowed (such as 512M or 2G)", text);
	o->machine.memory_bytes = bytes;
	o->memory_given = true;
	return 0;
}

static int parse_way_out(struct options *o, const char *text, struct err *err)
{
	static const char *const words[] = { "auto", "kernel", "eject" };
	static const enum way_out ways[] = { WAY_OUT_AUTO, WAY_OUT_KERNEL, WAY_OUT_EJECT };
	int i = parse_word("way-out", text, words, 3, "auto, kernel and eject", err);

	if (i < 0)
		return i;
	o->machine.way_out = ways[i];
	return 0;
}

static int parse_log_level(struct options *o, const char *text, struct err *err)
{
	static const char *const words[] = { "error", "warn", "info", "debug", "warning" };
	static const enum log_level levels[] = { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG,
						 LOG_WARN };
	int i = parse_word("log-level", text, words, 5, "error, warn, info and debug", err);

	if (i < 0)
		return i;
	o->log_level = levels[i];
	return 0;
}

static int parse_log_format(struct options *o, const char *text, struct err *err)
{
	static const char *const words[] = { "text", "json" };
	static const enum log_format formats[] = { LOG_TEXT, LOG_JSON };
	int i = parse_word("log-format", text, words, 2, "text and json", err);

	if (i < 0)
		return i;
	o->log_format = formats[i];
	return 0;
}

static int parse_serial(struct options *o, const char *text, struct err *err)
{
	int r = chardev_parse(&o->machine.serial, text, err);

	o->serial_given = true;
	return r < 0 ? err_prefix(err, r, "--serial") : 0;
}

static int parse_log_file(struct options *o, const char *text, struct err *err)
{
	int r = size_parse_limited(o->log_file, sizeof(o->log_file), &o->log_limit, text, err);

	return r < 0 ? err_prefix(err, r, "--log-file") : 0;
}

static int parse_bandwidth(struct options *o, const char *text, struct err *err)
{
	if (size_parse(&o->bandwidth, text) < 0)
		return err_set(err, -EINVAL,
			       "--bandwidth %s: bytes a second are allowed, with K, M, G or T (such as 200M), or 0 for no limit",
			       text);
	return 0;
}

int options_parse_fill(struct worker_fill *fill, const char *text)
{
	*fill = (struct worker_fill){ .off = !strcmp(text, "off") };
	if (fill->off || !strcmp(text, "on"))
		return 0;
	return size_parse(&fill->rate, text) < 0 || !fill->rate ? -EINVAL : 0;
}

static int parse_fill(struct options *o, const char *text, struct err *err)
{
	o->fill_given = true;
	if (options_parse_fill(&o->fill, text) < 0)
		return err_set(err, -EINVAL,
			       "--fill %s: on, off, or bytes a second with K, M, G or T "
			       "(such as 50M) are allowed",
			       text);
	return 0;
}

static int parse_working_set(struct options *o, const char *text, struct err *err)
{
	o->working_set_given = true;
	if (replay_options_parse(&o->working_set, text) < 0)
		return err_set(err, -EINVAL,
			       "--working-set %s: on, off, record or replay are allowed", text);
	return 0;
}

static int add_qmp(struct options *o, const char *text, struct err *err)
{
	if (o->nqmp == OPTIONS_QMP_MAX)
		return err_set(err, -EINVAL, "--qmp %s: at most %d are allowed", text,
			       OPTIONS_QMP_MAX);
	o->qmp[o->nqmp++] = text;
	return 0;
}

/* Of those, what is about images and disks. */
static void take_plain_image(struct options *o, int option, const char *value)
{
	switch (option) {
	case OPT_RESTORE:
		o->restore = value;
		break;
	case OPT_SHARE:
		o->share = value;
		break;
	case OPT_OVERLAY:
		o->overlay = value;
		break;
	case OPT_CHANGED_DISKS:
		o->changed_disks = true;
		break;
	case OPT_CLOCK_REALTIME:
		o->clock_realtime = true;
		break;
	}
}

/* Options that take a string as it is, or none. */
static void take_plain(struct options *o, int option, const char *value)
{
	switch (option) {
	case OPT_KERNEL:
		o->machine.kernel = value;
		break;
	case OPT_INITRD:
		o->machine.initrd = value;
		break;
	case OPT_CMDLINE:
		o->machine.cmdline = value;
		break;
	case OPT_APPEND:
		o->append = value;
		break;
	case OPT_NAME:
		o->machine.name = value;
		break;
	case OPT_GDB:
		o->gdb = value;
		break;
	case OPT_INCOMING:
		o->incoming = value;
		o->machine.starts_inmigrate = true;
		o->machine.ram_is_late = true;
		o->machine.disks_elsewhere = true;
		o->machine.loads_no_kernel = true;
		break;
	case OPT_SECRET_FILE:
		o->secret_file = value;
		break;
	case OPT_INSECURE:
		o->insecure = true;
		break;
	case OPT_NO_REBOOT:
		o->machine.no_reboot = true;
		break;
	case OPT_DUMP_GUEST_CORE:
		o->machine.dump_guest_core = true;
		break;
	case OPT_PID_FILE:
		o->pid_file = value;
		break;
	case 'S':
		o->paused = true;
		break;
	case 'h':
		o->help = true;
		break;
	default:
		take_plain_image(o, option, value);
	}
}

static int options_take(struct options *o, int option, const char *value, struct err *err)
{
	if (store_args_knows(option))
		return store_args_take(&o->store, option, value, err);
	if (key_args_knows(option))
		return key_args_take(&o->key, option, value, err);
	switch (option) {
	case 'c':
		o->cpus_given = true;
		return options_parse_number(&o->machine.cpus, "cpus", value, 1, VM_VCPUS_MAX, err);
	case 'm':
		return parse_memory(o, value, err);
	case OPT_FILL:
		return parse_fill(o, value, err);
	case OPT_WORKING_SET:
		return parse_working_set(o, value, err);
	case OPT_SERIAL:
		return parse_serial(o, value, err);
	case OPT_QMP:
		return add_qmp(o, value, err);
	case OPT_DISK:
		return virtio_options_add(&o->machine.virtio, "disk", value, err);
	case OPT_NET:
		return virtio_options_add(&o->machine.virtio, "net", value, err);
	case OPT_RNG:
		return virtio_options_add(&o->machine.virtio, "rng", "", err);
	case OPT_BALLOON:
		return virtio_options_add(&o->machine.virtio, "balloon", "", err);
	case OPT_VSOCK:
		return virtio_options_add(&o->machine.virtio, "vsock", value, err);
	case OPT_CONSOLE:
		o->console_stdio = !strcmp(value, "stdio");
		return virtio_options_add(&o->machine.virtio, "console", value, err);
	case OPT_GDB_PAGE_TIMEOUT:
		return options_parse_number(&o->gdb_page_timeout_ms, "gdb-page-timeout", value, 0,
					    600000, err);
	case OPT_WAY_OUT:
		return parse_way_out(o, value, err);
	case OPT_LINK_TIMEOUT:
		return options_parse_number(&o->link_timeout_ms, "link-timeout", value, 100, 600000,
					    err);
	case OPT_BANDWIDTH:
		return parse_bandwidth(o, value, err);
	case OPT_LOG_LEVEL:
		return parse_log_level(o, value, err);
	case OPT_LOG_FORMAT:
		return parse_log_format(o, value, err);
	case OPT_LOG_FILE:
		return parse_log_file(o, value, err);
	default:
		take_plain(o, option, value);
		return 0;
	}
}

static int take_configured(void *arg, int option, const char *value, struct err *err)
{
	struct options *o = arg;

	o->qmp_configured |= option == OPT_QMP;
	return options_take(o, option, value, err);
}

/*
 * One walk through argv. The first looks for --config alone, so that what argv
 * says goes over the file.
 */
static int options_walk(struct options *o, int argc, char **argv, bool first, struct err *err)
{
	int option, r = 0;

	opterr = 0;
	optind = 0;	/* glibc: begins anew, also its memory of words that it has moved */
	while (!r && (option = getopt_long(argc, argv, ":c:m:Sh", long_options, NULL)) != -1) {
		if (option == '?')
			return err_set(
				err, -EINVAL,
				"%s: no such option, or it takes no value (postern run --help has all)",
				argv[optind - 1]);
		if (option == ':')
			return err_set(err, -EINVAL, "%s: its value is missing", argv[optind - 1]);
		if (first && option == OPT_CONFIG) {
			if (o->config.root)
				return err_set(err, -EINVAL,
					       "--config %s: only one file is allowed", optarg);
			r = config_load(&o->config, optarg, config_keys, take_configured, o, err);
		}
		if (first || option == OPT_CONFIG)
			continue;
		if (option == OPT_QMP && o->qmp_configured) {
			o->qmp_configured = false;
			o->nqmp = 0;
		}
		r = options_take(o, option, optarg, err);
	}
	return r;
}

static const char *first_disk(const struct virtio_options *options)
{
	unsigned int i;

	for (i = 0; i < options->n; i++)
		if (!strcmp(options->option[i].type->option, "disk"))
			return options->option[i].text;
	return NULL;
}

static int check_restore(const struct options *o, struct err *err)
{
	if (o->restore && o->incoming)
		return err_set(err, -EINVAL,
			       "--restore and --incoming: only one of them is allowed");
	if (!o->restore && (o->fill_given || o->changed_disks || o->clock_realtime || o->share ||
			    o->store.given || o->key.given || o->working_set_given))
		return err_set(err, -EINVAL, "%s: needs --restore",
			       o->fill_given	 ? "--fill" :
			       o->share		 ? "--share" :
			       o->changed_disks	 ? "--changed-disks" :
			       o->clock_realtime ? "--clock-realtime" :
			       o->store.given	 ? o->store.given :
			       o->key.given	 ? o->key.given :
						   "--working-set");
	if (store_args_check(&o->store, err) < 0 || key_args_check(&o->key, err) < 0)
		return -EINVAL;
	if (o->share && !rundir_name_is_valid(o->share))
		return err_set(err, -EINVAL,
			       "--share %s: a name has letters, digits, '.', '_', '-' and '+', "
			       "and begins with none of '.' and '-'",
			       o->share);
	return 0;
}

static int check_overlay(const struct options *o, struct err *err)
{
	if (o->overlay && o->incoming)
		return err_set(
			err, -EINVAL,
			"--overlay and --incoming: only one of them is allowed, since a guest "
			"that migrates has its disks with it");
	if (o->overlay && !first_disk(&o->machine.virtio))
		return err_set(err, -EINVAL, "--overlay: needs --disk");
	if (o->overlay && !*o->overlay)
		return err_set(err, -EINVAL, "--overlay: the directory's name is missing");
	return 0;
}

static int options_check(const struct options *o, struct err *err)
{
	if (o->help)
		return 0;
	if (!o->machine.kernel && !o->boot_disk && !o->incoming && !o->restore)
		return err_set(err, -EINVAL,
			       "--kernel FILE is missing (or --disk FILE with a system on it, "
			       "--incoming URI or --restore STORE/NAME)");
	if (check_restore(o, err) < 0)
		return -EINVAL;
	if (check_overlay(o, err) < 0)
		return -EINVAL;
	if (o->machine.initrd && !o->machine.kernel)
		return err_set(err, -EINVAL, "--initrd %s: needs --kernel", o->machine.initrd);
	if (o->machine.name && !rundir_name_is_valid(o->machine.name))
		return err_set(
			err, -EINVAL,
			"--name: 1 to %u letters, digits, '.', '_', '-' and '+' are allowed, the first "
			"none of '.' and '-'",
			RUNDIR_NAME_MAX);
	if (o->console_stdio && o->machine.serial.type == CHARDEV_STDIO)
		return err_set(
			err, -EINVAL,
			"--console stdio and --serial stdio: only one of them can have standard input and output");
	if (o->secret_file && o->insecure)
		return err_set(err, -EINVAL,
			       "--secret-file and --insecure: only one of them is allowed");
	if (o->gdb && !strcmp(o->gdb, "auto") && !o->machine.name)
		return err_set(err, -EINVAL, "--gdb auto: needs --name");
	return 0;
}

/* Where the kernel is, and all of its command line. */
static int conclude(struct options *o, struct err *err)
{
	/* Others bring it as well: each of them all of it would be too much. */
	if (o->share && !o->fill_given)
		o->fill.off = true;
	/* The image says, unless the options do. */
	if (o->restore && !o->cpus_given)
		o->machine.cpus = 0;
	if (o->restore && !o->memory_given)
		o->machine.memory_bytes = 0;
	if (!o->machine.kernel)
		o->boot_disk = first_disk(&o->machine.virtio);
	if (!o->append || o->boot_disk)
		return 0;
	if (asprintf(&o->line, "%s%s%s", o->machine.cmdline ? o->machine.cmdline : "",
		     o->machine.cmdline ? " " : "", o->append) < 0) {
		o->line = NULL;
		return err_set(err, -ENOMEM, "no memory for the command line");
	}
	o->machine.cmdline = o->line;
	return 0;
}

int options_parse(struct options *o, int argc, char **argv, struct err *err)
{
	int r;

	*o = (struct options){
		.machine = {
			.cpus = 1,
			.memory_bytes = (uint64_t)512 << 20,
			.way_out = WAY_OUT_AUTO,
			.serial = { .type = CHARDEV_STDIO },
		},
		.gdb_page_timeout_ms = 200,
		.link_timeout_ms = 5000,
		.log_level = LOG_WARN,
		.working_set = { .record = true, .replay = true },
	};
	r = options_walk(o, argc, argv, true, err);
	if (!r)
		r = options_walk(o, argc, argv, false, err);
	if (r < 0)
		return r;
	if (optind < argc)
		return err_set(err, -EINVAL, "\"%s\": only options are allowed", argv[optind]);
	if (o->console_stdio && !o->serial_given)
		o->machine.serial.type = CHARDEV_NULL;
	r = conclude(o, err);
	return r ? r : options_check(o, err);
}

void options_fini(struct options *o)
{
	config_fini(&o->config);
	free(o->line);
	o->line = NULL;
}
