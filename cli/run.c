// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * run.c - `postern run`: puts the parts together, runs the loop, takes them
 * apart again in reverse.
 *
 * SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, which never
 * waits for a page or a peer; a second one, should the first not do, ends the
 * process from within the signal handler. All other threads block these
 * signals, so the handler runs on the main thread.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/mark.h"
#include "base/pidfile.h"
#include "cli/cli.h"
#include "cli/clone_mac.h"
#include "cli/descriptors.h"
#include "cli/disk_boot.h"
#include "cli/options.h"
#include "cli/overlays.h"
#include "cli/place.h"
#include "cli/run.h"
#include "control/gdb.h"
#include "control/qmp.h"
#include "control/rundir.h"
#include "control/share.h"
#include "machine/machine.h"
#include "migrate/migration.h"
#include "snapshot/snapshot.h"

/* Others may be removing the pid file. */
#define PID_TRIES 100

struct run {
	struct options options;
	struct loop *loop;
	struct vm_host *own_host; /* NULL: the machine opens it, or has another's */
	struct machine *machine;
	struct migration *migration;
	struct image_key *key;	/* of the image; the restore's once it is opened. NULL: none */
	struct restore *restore;	/* freed with snapshot, once there is one */
	struct snapshot *snapshot;
	struct share *share;		/* of the image's pages; NULL: none */
	struct overlays overlays; /* over the disks */
	struct clone_macs macs;
	bool start_failed;
	const struct run_started *started;
	struct qmp *qmp;
	struct gdb *gdb;
	struct rundir rundir;
	struct disk_boot disk_boot;
	struct err *open_err;		/* set when the image cannot be restored */
	bool opened;			/* the image is open */
	bool ended;			/* somebody wants it to end */
	struct err *boot_err;		/* set when the disk was looked at and has nothing */
	bool boot_found;	/* the disk was looked at and has one */
	uv_async_t end;		/* wakes the loop from the signal handler */
	bool end_open;
	int pid_fd;		/* of the pid file, which is ours while it is open; -1: none */
	bool misused;		/* what failed is an option's value */
};

/* A signal handler gets no context; so this is one of the few static variables. */
static struct {
	uv_async_t *end;
	volatile sig_atomic_t count;
	const struct memory *mem;	/* while there is a machine */
} signals;

/* ---- signals ---- */

static void on_end_signal(int sig)
{
	int saved_errno = errno;

	if (signals.count++) {
		chardev_restore_terminal();
		_exit(128 + sig);
	}
	/* uv_async_send is async-signal-safe (libuv's documentation says so). */
	uv_async_send(signals.end);
	errno = saved_errno;
}

/* In a signal handler: "text 0x1234\n" on standard error. */
static void say_address(const char *text, uint64_t address)
{
	char line[160];
	size_t n = strlen(text), digits = 1;

	memcpy(line, text, n);
	while (digits < 16 && address >> (4 * digits))
		digits++;
	while (digits--)
		line[n++] = "0123456789abcdef"[address >> (4 * digits) & 15];
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

/*
 * A page whose memory has failed, and which a thread of postern's own had to
 * touch. What a vCPU touches is the machine's affair.
 */
static void say_poisoned(const void *host)
{
	const struct memory_region *regions;
	unsigned int i, n = 0;

	if (signals.mem)
		regions = memory_regions(signals.mem, &n);
	for (i = 0; i < n; i++)
		if ((const uint8_t *)host >= regions[i].host &&
		    (const uint8_t *)host < regions[i].host + regions[i].pages * PAGE_BYTES)
			say_address(
				"postern: the host's memory has failed (poisoned by its kernel) behind guest physical address 0x",
				gfn_to_gpa(regions[i].first).v +
					(uint64_t)((const uint8_t *)host - regions[i].host));
	say_address("postern: the host's memory has failed (poisoned by its kernel) at 0x",
		    (uintptr_t)host);
}

/* A crash: say where, give the terminal back, then crash as if we had not been here. */
static void on_crash(int sig, siginfo_t *info, void *context)
{
	(void)context;
	chardev_restore_terminal();
	if (sig == SIGBUS && info->si_code == BUS_MCEERR_AR)
		say_poisoned(info->si_addr);
	else if ((sig == SIGBUS || sig == SIGSEGV) && info->si_code > 0)
		say_address(sig == SIGBUS ? "postern: bus error at 0x" :
					    "postern: segmentation fault at 0x",
			    (uintptr_t)info->si_addr);
	raise(sig);
}

static void run_on_end(uv_async_t *end)
{
	struct run *run = end->data;

	run->ended = true;
	if (run->machine)
		machine_shutdown(run->machine, false, "host-signal");
	else
		loop_stop(run->loop);
}

static int signals_open(struct run *run, struct err *err)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
	static const int crashes[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE };
	struct sigaction end = { .sa_handler = on_end_signal, .sa_flags = SA_RESTART };
	struct sigaction crash = { .sa_sigaction = on_crash,
				   .sa_flags = (int)SA_RESETHAND | SA_NODEFER | SA_SIGINFO };
	size_t i;
	int r;

	r = uv_async_init(loop_uv(run->loop), &run->end, run_on_end);
	if (r < 0)
		return err_errno(err, r, "event loop");
	run->end.data = run;
	run->end_open = true;
	signals.end = &run->end;
	for (i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		sigaction(ends[i], &end, NULL);
	for (i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &crash, NULL);
	return 0;
}

/* Signals that come from now on: one that comes after an orderly end has begun just ends. */
static void signals_close(struct run *run)
{
	signals.count = 1;
	if (run->end_open)
		uv_close((uv_handle_t *)&run->end, NULL);
	run->end_open = false;
}

/* ---- pid file ---- */

/* Before anything is touched that the other has as well: is it taken? */
static int pid_look(const struct run *run, struct err *err)
{
	const char *path = run->options.pid_file;
	pid_t owner = path ? pidfile_owner(path) : -ESRCH;

	if (owner < 0)
		return 0;
	return err_set(err, -EADDRINUSE, "--pid-file %s: process %d has it", path, (int)owner);
}

static int run_pid_write(struct run *run, struct err *err)
{
	const char *path = run->options.pid_file;
	unsigned int tries = PID_TRIES;
	pid_t owner;
	int r;

	if (!path)
		return 0;
	do
		r = pidfile_lock(path, 0644, &owner, err);
	while (r == -EAGAIN && --tries);
	if (r >= 0) {
		run->pid_fd = r;
		r = pidfile_write(r);
		if (!r)
			return 0;
		err_errno(err, r, "%s", path);
	}
	if (r == -EAGAIN)
		err_set(err, r, "%s: is being removed again and again", path);
	return err_prefix(err, r, "--pid-file");
}

static void pid_remove(struct run *run)
{
	pidfile_remove(run->pid_fd, run->options.pid_file);
	run->pid_fd = -1;
}

/* ---- set-up and end ---- */

/* An option's value that only its owner can judge. */
static int value_failed(struct run *run, const char *option, const char *value, struct err *err)
{
	run->misused = err->code == -EINVAL;
	return err_prefix(err, err->code, "--%s %s", option, value);
}

/* Read now, so that who starts it learns what is wrong with the file. */
static int trust_open(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	struct migration_trust trust;
	int r = migration_trust_read(&trust, o->secret_file, o->insecure, err);

	if (r < 0) {
		run->misused = r == -EINVAL || r == -EPERM;
		return err_prefix(err, r, "--secret-file");
	}
	migration_trust(run->migration, &trust);
	explicit_bzero(&trust, sizeof(trust));
	return 0;
}

static int migration_open(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	struct migration_params params;
	int r;

	r = migration_new(&run->migration, run->machine, err);
	if (r < 0)
		return r;
	migration_params_get(run->migration, &params);
	params.link_timeout_ms = o->link_timeout_ms;
	params.max_postcopy_bandwidth = o->bandwidth;
	r = migration_params_set(run->migration, &params, err);
	if (r < 0)
		return r;
	r = trust_open(run, err);
	if (r < 0)
		return r;
	if (o->incoming && strcmp(o->incoming, "defer"))
		r = migration_incoming(run->migration, o->incoming, NULL, err);
	return r < 0 ? value_failed(run, "incoming", o->incoming, err) : 0;
}

/* The sockets of a named machine. */
static int named_open(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	char spec[RUNDIR_PATH_MAX + 16];
	int r;

	snprintf(spec, sizeof(spec), "unix:%s/qmp", run->rundir.path);
	r = qmp_listen(run->qmp, spec, err);
	if (r < 0 || !o->gdb || strcmp(o->gdb, "auto") != 0)
		return r;
	snprintf(spec, sizeof(spec), "unix:%s/gdb", run->rundir.path);
	return gdb_new(&run->gdb, run->machine, spec, (int)o->gdb_page_timeout_ms, err);
}

static int control_open(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	unsigned int i;
	int r;

	r = snapshot_new(&run->snapshot, run->machine, run->restore, err);
	if (!r)
		r = qmp_new(&run->qmp, run->machine, run->migration, err);
	if (!r)
		qmp_set_snapshot(run->qmp, run->snapshot);
	if (!r && o->machine.name)
		r = named_open(run, err);
	if (r < 0)
		return r;
	for (i = 0; i < o->nqmp; i++) {
		r = qmp_listen(run->qmp, o->qmp[i], err);
		if (r < 0)
			return value_failed(run, "qmp", o->qmp[i], err);
	}
	if (!o->gdb || run->gdb)
		return 0;
	r = gdb_new(&run->gdb, run->machine, o->gdb, (int)o->gdb_page_timeout_ms, err);
	return r < 0 ? value_failed(run, "gdb", o->gdb, err) : 0;
}

/* ---- a kernel from a disk ---- */

static void first_found(void *arg, const struct boot_files *found, const struct err *err)
{
	struct run *run = arg;

	run->boot_found = found;
	if (err)
		*run->boot_err = *err;
	loop_stop(run->loop);
}

static void again_found(void *arg, const struct boot_files *found, const struct err *err)
{
	struct run *run = arg;

	machine_boot_found(run->machine, found, err);
	disk_boot_drop(&run->disk_boot);
}

static int find_again(void *arg, struct machine *machine, struct err *err)
{
	struct run *run = arg;

	run->disk_boot.cmdline = machine_boot(machine)->cmdline;
	run->disk_boot.append = machine_boot(machine)->append;
	return disk_boot_fetch(&run->disk_boot, again_found, run, err);
}

/* The loop runs until the kernel is there, or the process is to end: -EINTR then. */
static int first_find(struct run *run, struct err *err)
{
	int r;

	run->boot_err = err;
	r = disk_boot_fetch(&run->disk_boot, first_found, run, err);
	if (r < 0)
		return r;
	loop_run(run->loop);
	if (run->boot_found && !run->ended)
		return 0;
	return err->code ? err->code :
			   err_set(err, -EINTR, "ended while a kernel was taken out of %s",
				   run->options.boot_disk);
}

/* ---- a guest out of an image ---- */

static void image_opened(void *arg, const struct err *err)
{
	struct run *run = arg;

	run->opened = !err;
	if (err)
		*run->open_err = *err;
	loop_stop(run->loop);
}

/*
 * Whoever runs several has read it: a pipe can be read once. Whoever writes to it may be late, or
 * never come: so it is read while a signal still ends the process by itself.
 */
static int load_key(struct run *run, struct err *err)
{
	if (!run->started || !run->started->key)
		return key_args_load(&run->options.key, &run->key, err);
	run->key = image_key_copy(run->started->key);
	return run->key ? 0 : err_set(err, -ENOMEM, "no memory for a key");
}

/* The vCPUs will need it; if it fails, who needs it is told. */
static void ask_host(void *host)
{
	struct err err;

	vm_host_ask(host, &err);
}

static int image_begin(struct run *run, struct err *err)
{
	const struct store_options store = store_args_options(&run->options.store);
	char *place = place_in_full(run->options.restore);
	struct restore_options options = {
		.store = &store,
		.key = run->key,
		.allow_unencrypted = run->options.key.allow_unencrypted,
		.working_set = run->options.working_set,
		.meanwhile = run->own_host ? ask_host : NULL,
		.meanwhile_arg = run->own_host,
	};
	int r;

	if (place) {
		run->key = NULL;
		r = restore_open(&run->restore, run->loop, place, &options, image_opened, run, err);
	} else {
		r = err_set(err, -ENOMEM, "no memory for a path");
	}
	free(place);
	if (r < 0)
		run->misused = r == -EINVAL;
	return r < 0 ? err_prefix(err, r, "--restore") : 0;
}

/* The loop runs meanwhile: a signal ends the wait for a store. */
static int image_await(struct run *run, struct err *err)
{
	/* It may hold what was of no consequence, such as a share that had no keeper yet. */
	*err = (struct err){ 0 };
	run->open_err = err;
	run->opened = false;
	loop_run(run->loop);
	/* Both may have come in one turn of the loop, which stops once. */
	if (run->opened && !run->ended)
		return 0;
	if (!err->code)
		err_set(err, -EINTR, "ended while it was opened");
	return err_prefix(err, err->code, "--restore");
}

/*
 * A thread opens the image, and meanwhile KVM makes a VM. What is known of the image then is what
 * the machine is made from. What KVM is to be asked is needed by vCPUs, so that thread has until
 * there are memory slots to ask it.
 */
static int image_open_first(struct run *run, struct err *err)
{
	int r = 0;

	if (!(run->started && run->started->host))
		r = vm_host_open(&run->own_host, err);
	if (!r)
		r = image_begin(run, err);
	mark_time("image begun");
	if (!r && run->own_host)
		vm_host_prepare(run->own_host);
	mark_time("a VM");
	if (!r)
		r = image_await(run, err);
	mark_time("image");
	return r;
}

static int image_find_boot(void *arg, struct machine *machine, struct err *err)
{
	struct run *run = arg;

	(void)machine;
	return restore_boot_find(run->restore, err);
}

/* What others have brought of the image, and what they are to have of this machine's. */
static int share_open(struct run *run, struct machine_config *config, struct err *err)
{
	const struct image_id *id = restore_id(run->restore);
	int r;

	_Static_assert(sizeof(*id) == SHARE_IMAGE_BYTES, "an image's id");
	r = share_join(&run->share, run->options.share, id->bytes, config->memory_bytes,
		       err);
	if (r < 0)
		return err_prefix(err, r, "--share %s", run->options.share);
	config->ram_memfd = share_memfd(run->share);
	return 0;
}

static int image_configure(struct run *run, struct machine_config *config, struct err *err)
{
	int r = restore_machine(run->restore, config, err);

	if (!r && run->options.share)
		r = share_open(run, config, err);

	if (r < 0)
		return r;
	if (restore_has_boot(run->restore) && !run->options.machine.kernel) {
		config->append = run->options.append;
		config->boot_find = image_find_boot;
		config->boot_arg = run;
	}
	return 0;
}

static int overlays_open(struct run *run, struct virtio_options *virtio, struct err *err)
{
	const struct options *o = &run->options;
	const char *name = o->machine.name;

	if (!o->overlay)
		return 0;
	if (!name && run->started)
		name = run->started->overlay_name;
	return overlays_make(&run->overlays, o->overlay, name, virtio, err);
}

/* What is this machine's own of the devices. */
static int devices_own(struct run *run, struct virtio_options *virtio, struct err *err)
{
	int r = 0;

	if (run->started && run->started->mac_name)
		r = clone_macs_set(&run->macs, run->started->mac_name, virtio, err);
	return r ? r : overlays_open(run, virtio, err);
}

static int make_machine(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	struct machine_config config = o->machine;
	int r = run->restore ? image_configure(run, &config, err) : 0;

	config.host = run->started && run->started->host ? run->started->host : run->own_host;
	if (!r && o->boot_disk && !config.boot_find) {
		run->disk_boot.loop = run->loop;
		run->disk_boot.disk = o->boot_disk;
		run->disk_boot.cmdline = o->machine.cmdline;
		run->disk_boot.append = o->append;
		run->disk_boot.memory_bytes = o->machine.memory_bytes;
		config.append = o->append;
		config.boot_find = find_again;
		config.boot_arg = run;
		if (!o->incoming && !o->restore)
			r = first_find(run, err);
		config.found = &run->disk_boot.found;
	}
	if (!r)
		r = devices_own(run, &config.virtio, err);
	if (!r)
		r = machine_new(&run->machine, run->loop, &config, err);
	if (!r && run->share)
		r = share_guard(run->share, machine_memory(run->machine), err);
	if (r < 0 && run->boot_found)
		err_prefix(err, r, "from %s", o->boot_disk);
	disk_boot_drop(&run->disk_boot);
	return r;
}

static int load_image(struct run *run, struct err *err)
{
	const struct restore_terms terms = {
		.changed_disks = run->options.changed_disks,
		.below = run->overlays.below,
		.clock_realtime = run->options.clock_realtime,
	};
	int r = restore_await(run->restore, image_opened, run, err);

	if (r < 0)
		return err_prefix(err, r, "--restore");
	if (!r)
		r = image_await(run, err);
	mark_time("the rest of the image");
	return r < 0 ? r : restore_load(run->restore, run->machine, &terms, &run->options.fill, err);
}

static int restore_start(struct run *run, struct err *err)
{
	if (run->options.paused)
		machine_stop(run->machine, RUN_STATE_PAUSED, err);
	return restore_run(run->restore, err);
}

static int run_open(struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	int r;

	r = o->restore ? load_key(run, err) : 0;
	if (!r)
		r = loop_new(&run->loop, err);
	if (!r)
		r = signals_open(run, err);
	if (!r && o->machine.name) {
		r = rundir_take(&run->rundir, o->machine.name, err);
		if (r < 0)
			err_prefix(err, r, "--name %s", o->machine.name);
	}
	if (!r)
		r = pid_look(run, err);
	if (!r && o->restore)
		r = image_open_first(run, err);
	if (!r)
		r = make_machine(run, err);
	if (!r)
		signals.mem = machine_memory(run->machine);
	mark_time("machine");
	if (!r)
		r = migration_open(run, err);
	if (!r && o->restore)
		r = load_image(run, err);
	if (!r)
		r = control_open(run, err);
	mark_time("control");
	if (!r)
		r = run_pid_write(run, err);
	if (r < 0)
		return r;
	if (o->restore)
		r = restore_start(run, err);
	if (!r && run->started)
		run->started->fn(run->started->arg);
	if (o->restore)
		return r;
	return o->paused ? machine_stop(run->machine, RUN_STATE_PAUSED, err) :
			   machine_cont(run->machine, err);
}

static void run_close(struct run *run, int status)
{
	int stuck;

	gdb_free(run->gdb);
	qmp_free(run->qmp);
	migration_free(run->migration);
	if (run->snapshot)
		snapshot_free(run->snapshot);
	else
		restore_free(run->restore);
	image_key_free(run->key);
	signals.mem = NULL;
	share_stop(run->share);
	stuck = machine_free(run->machine);
	if (run->start_failed)
		overlays_remove(&run->overlays);
	overlays_fini(&run->overlays);
	clone_macs_fini(&run->macs);
	if (stuck < 0) {
		/* A thread is still inside; the end of the process is all that is left. */
		rundir_release(&run->rundir);
		pid_remove(run);
		_exit(CLI_FAILED);
	}
	vm_host_free(run->own_host);
	share_leave(run->share);
	disk_boot_fini(&run->disk_boot);
	signals_close(run);
	rundir_release(&run->rundir);
	pid_remove(run);
	/* exit() would wait for libuv's threads. */
	if (!loop_free(run->loop)) {
		fflush(NULL);
		_exit(status);
	}
}

/* Before any thread starts. --help makes no file. */
static int log_open(const struct run *run, struct err *err)
{
	const struct options *o = &run->options;
	int r;

	if (!*o->log_file || o->help)
		return 0;
	r = log_open_file(o->log_file, o->log_limit, err);
	return r < 0 ? err_prefix(err, r, "--log-file") : 0;
}

int cmd_run(int argc, char **argv)
{
	return run_main(argc, argv, NULL);
}

int run_main(int argc, char **argv, const struct run_started *started)
{
	struct run run = { .rundir.fd = -1, .pid_fd = -1, .started = started };
	struct err err = { 0 };
	int status = CLI_OK, r;

	heap_share();
	disk_boot_init(&run.disk_boot);
	r = options_parse(&run.options, argc, argv, &err);
	log_set_level(run.options.log_level);
	log_set_format(run.options.log_format);
	/* What was handed to us, a network or a migration, is for no program that we start. */
	if (!r)
		r = descriptors_withhold(STDERR_FILENO + 1, &err);
	if (!r)
		r = log_open(&run, &err);
	if (r < 0) {
		if (run.options.log_format == LOG_JSON)
			log_error("%s", err.text);
		else
			fprintf(stderr, "postern run: %s\n", err.text);
		options_fini(&run.options);
		return CLI_USAGE;
	}
	if (run.options.help) {
		fputs(options_help, stdout);
		options_fini(&run.options);
		return CLI_OK;
	}
	mark_time("options");
	if (run_open(&run, &err) < 0) {
		run.start_failed = true;
		/* The terminal first, so that the message looks right. */
		chardev_restore_terminal();
		log_error("%s", err.text);
		/* Whoever started it looks here first. */
		if (*run.options.log_file)
			fprintf(stderr, "postern run: %s\n", err.text);
		status = run.misused ? CLI_USAGE : CLI_FAILED;
	} else {
		loop_run(run.loop);
	}
	run_close(&run, status);
	options_fini(&run.options);
	return status;
}
