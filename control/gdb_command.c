// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Packets and their replies (GDB manual, E.2 Packets and E.4 General Query
// Packets). A vCPU is thread index + 1. What is asked of a vCPU that runs is an
// error (EBUSY, "E10"): QMP may have let it run a moment ago.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "control/gdb_internal.h"

#define READ_MAX (GDB_PACKET_MAX / 2)	/* bytes whose hex fills a packet */
#define THREAD_ANY 0
#define THREAD_ALL (-1)

static void command_reply_error(struct gdb_client *client, int r)
{
	/*
	 * A page that does not come is, to gdb, memory that cannot be read;
	 * "monitor missing" tells the difference.
	 */
	if (r == -ETIMEDOUT || r == -EAGAIN || r == -EINTR)
		r = -EFAULT;
	gdb_reply(client, "E%02x", (unsigned int)-r & 0xff);
}

static void reply_result(struct gdb_client *client, int r)
{
	if (r < 0)
		command_reply_error(client, r);
	else
		gdb_reply(client, "OK");
}

/* Appends to *out and sends it, or closes the session when there is no memory. */
static void reply_hex(struct gdb_client *client, const void *data, size_t len)
{
	struct buf out = { 0 };

	if (gdb_hex_append(&out, data, len) < 0)
		gdb_client_close(client);
	else
		gdb_reply_bytes(client, out.data, out.len);
	buf_fini(&out);
}

/* The vCPU that g, m and so on mean, to be released, or NULL while it runs. */
static struct vcpu_parked *command_hold(struct gdb_client *client)
{
	return vcpu_hold(vm_vcpu(client->gdb->vm, client->thread), NULL);
}

/* A thread-id: hex, or -1. False: malformed. */
static bool parse_thread(const char **text, int *thread)
{
	uint64_t id;

	if (!strncmp(*text, "-1", 2)) {
		*text += 2;
		*thread = THREAD_ALL;
		return true;
	}
	if (!gdb_hex_number(text, &id) || id > VM_VCPUS_MAX)
		return false;
	*thread = (int)id;
	return true;
}

static bool thread_exists(const struct gdb *gdb, int thread)
{
	return thread > 0 && (unsigned int)thread <= vm_vcpus(gdb->vm);
}

/* ---- registers ---- */

/*
 * Reads all registers of the current vCPU, which is held then, until put_regs;
 * NULL: the error was replied.
 */
static uint8_t *get_regs(struct gdb_client *client, struct vcpu_parked **vcpu)
{
	uint8_t *regs;
	int r = -ENOMEM;

	*vcpu = command_hold(client);
	if (!*vcpu) {
		command_reply_error(client, -EBUSY);
		return NULL;
	}
	regs = calloc(1, arch_gdb_regs_bytes());
	if (regs)
		r = arch_gdb_read_regs(*vcpu, regs, NULL);
	if (r == 0)
		return regs;
	vcpu_release(*vcpu);
	command_reply_error(client, r);
	free(regs);
	return NULL;
}

static void put_regs(struct vcpu_parked *vcpu, uint8_t *regs)
{
	vcpu_release(vcpu);
	free(regs);
}

static void cmd_read_regs(struct gdb_client *client, const char *args, size_t len)
{
	struct vcpu_parked *vcpu;
	uint8_t *regs = get_regs(client, &vcpu);

	(void)args;
	(void)len;
	if (!regs)
		return;
	reply_hex(client, regs, arch_gdb_regs_bytes());
	put_regs(vcpu, regs);
}

static void cmd_write_regs(struct gdb_client *client, const char *args, size_t len)
{
	struct vcpu_parked *vcpu;
	uint8_t *regs = get_regs(client, &vcpu);

	if (!regs)
		return;
	/* Fewer than all is fine: the others keep their values. */
	if (len > 2 * arch_gdb_regs_bytes() || len % 2 || !gdb_hex_decode(args, regs, len / 2))
		command_reply_error(client, -EINVAL);
	else
		reply_result(client, arch_gdb_write_regs(vcpu, regs, NULL));
	put_regs(vcpu, regs);
}

static void cmd_read_reg(struct gdb_client *client, const char *args, size_t len)
{
	size_t offset, bytes;
	struct vcpu_parked *vcpu;
	uint64_t number;
	uint8_t *regs;

	(void)len;
	if (!gdb_hex_number_to(&args, &number, '\0') || number > UINT16_MAX ||
	    !arch_gdb_reg((unsigned int)number, &offset, &bytes)) {
		command_reply_error(client, -EINVAL);
		return;
	}
	regs = get_regs(client, &vcpu);
	if (!regs)
		return;
	reply_hex(client, regs + offset, bytes);
	put_regs(vcpu, regs);
}

static void cmd_write_reg(struct gdb_client *client, const char *args, size_t len)
{
	size_t offset, bytes;
	struct vcpu_parked *vcpu;
	uint64_t number;
	uint8_t *regs;

	(void)len;
	if (!gdb_hex_number_to(&args, &number, '=') || number > UINT16_MAX ||
	    !arch_gdb_reg((unsigned int)number, &offset, &bytes) || strlen(args) != 2 * bytes) {
		command_reply_error(client, -EINVAL);
		return;
	}
	regs = get_regs(client, &vcpu);
	if (!regs)
		return;
	if (!gdb_hex_decode(args, regs + offset, bytes))
		command_reply_error(client, -EINVAL);
	else
		reply_result(client, arch_gdb_write_regs(vcpu, regs, NULL));
	put_regs(vcpu, regs);
}

/* ---- memory ---- */

/*
 * Its memory travels, has, or is being saved: what is written here would reach
 * the guest elsewhere, or half of it.
 */
static bool guest_is_away(const struct gdb *gdb)
{
	enum run_state state = machine_state(gdb->machine);

	return state == RUN_STATE_FINISH_MIGRATE || state == RUN_STATE_POSTMIGRATE ||
	       state == RUN_STATE_SAVE_VM;
}

/* Remembers for "monitor missing" why an access ended early. */
static void explain(struct gdb *gdb, const struct gdb_job *job)
{
	uint64_t gva = job->gva.v + job->done;
	char where[64];

	if (job->stage == GDB_JOB_TRANSLATE)
		snprintf(where, sizeof(where), "a page of the page tables for 0x%" PRIx64, gva);
	else
		snprintf(where, sizeof(where), "0x%" PRIx64 ", page 0x%" PRIx64 ",", gva,
			 job->failed.v & ~(PAGE_BYTES - 1));
	switch (job->result) {
	case -EFAULT:
		if (job->stage == GDB_JOB_TRANSLATE)
			snprintf(gdb->missing, sizeof(gdb->missing), "0x%" PRIx64 " is not mapped", gva);
		else
			snprintf(gdb->missing, sizeof(gdb->missing), "%s is not RAM", where);
		break;
	case -ETIMEDOUT:
		snprintf(gdb->missing, sizeof(gdb->missing), "%s has not come within %d ms",
			 where, gdb->page_timeout_ms);
		break;
	case -EIO:
		snprintf(gdb->missing, sizeof(gdb->missing), "%s is lost: the source does not have it", where);
		break;
	default:
		snprintf(gdb->missing, sizeof(gdb->missing), "%s: %s", where, strerror(-job->result));
	}
}

/* Starts an access by the current vCPU's page tables; the job is owned from here. */
static void start_job(struct gdb_client *client, struct gdb_job *job,
		      void (*complete)(void *arg, struct gdb_job *job))
{
	struct vcpu_parked *vcpu = command_hold(client);
	int r = vcpu ? arch_mmu_get(vcpu, &job->mmu, NULL) : -EBUSY;

	if (vcpu)
		vcpu_release(vcpu);
	if (r < 0) {
		free(job);
		command_reply_error(client, r);
		return;
	}
	job->complete = complete;
	job->arg = client;
	job->deadline_ns = clock_now_ns() + client->gdb->page_timeout_ms * NS_PER_MS;
	client->job = job;
	gdb_job_start(client->gdb->worker, job);
}

/* What all completions begin with. */
static struct gdb_client *finish_job(void *arg, const struct gdb_job *job)
{
	struct gdb_client *client = arg;

	if (job->result < 0)
		explain(client->gdb, job);
	return client;
}

static void on_read_done(void *arg, struct gdb_job *job)
{
	struct gdb_client *client = finish_job(arg, job);
	uint8_t *data = job->data;
	unsigned int i;

	for (i = 0; i < job->pieces; data += job->piece[i++].len)
		gdb_breaks_mask(&client->gdb->breaks, job->piece[i].gpa, data, job->piece[i].len);
	/* What came before a missing page may be returned alone. */
	if (job->done) {
		reply_hex(client, job->data, job->done);
	} else {
		command_reply_error(client, job->result);
	}
	gdb_client_job_done(client);
}

static void cmd_read_memory(struct gdb_client *client, const char *args, size_t len)
{
	uint64_t gva, n;
	struct gdb_job *job;

	(void)len;
	if (!gdb_hex_number_to(&args, &gva, ',') || !gdb_hex_number_to(&args, &n, '\0')) {
		command_reply_error(client, -EINVAL);
		return;
	}
	if (!n) {
		gdb_reply(client, "%s", "");
		return;
	}
	job = gdb_job_new(n < READ_MAX ? n : READ_MAX);
	if (!job) {
		command_reply_error(client, -ENOMEM);
		return;
	}
	job->gva = GVA(gva);
	start_job(client, job, on_read_done);
}

static void on_write_done(void *arg, struct gdb_job *job)
{
	struct gdb_client *client = finish_job(arg, job);

	gdb_breaks_written(&client->gdb->breaks, job->piece, job->pieces);
	reply_result(client, job->result);
	gdb_client_job_done(client);
}

/* Both forms of writing: `binary` has `bytes` data bytes, otherwise they are hex. */
static void write_memory(struct gdb_client *client, const char *args, size_t len, bool binary)
{
	const char *start = args;
	uint64_t gva, n;
	struct gdb_job *job;
	size_t have;

	if (!gdb_hex_number_to(&args, &gva, ',') || !gdb_hex_number_to(&args, &n, ':')) {
		command_reply_error(client, -EINVAL);
		return;
	}
	have = len - (size_t)(args - start);
	if (n > GDB_PACKET_MAX || have != (binary ? n : 2 * n)) {
		command_reply_error(client, -EINVAL);
		return;
	}
	if (!n) {
		gdb_reply(client, "OK");
		return;
	}
	if (guest_is_away(client->gdb)) {
		command_reply_error(client, -EBUSY);
		return;
	}
	job = gdb_job_new(n);
	if (!job) {
		command_reply_error(client, -ENOMEM);
		return;
	}
	job->gva = GVA(gva);
	job->write = true;
	if (binary) {
		memcpy(job->data, args, n);
	} else if (!gdb_hex_decode(args, job->data, n)) {
		free(job);
		command_reply_error(client, -EINVAL);
		return;
	}
	start_job(client, job, on_write_done);
}

static void cmd_write_memory(struct gdb_client *client, const char *args, size_t len)
{
	write_memory(client, args, len, false);
}

static void cmd_write_binary(struct gdb_client *client, const char *args, size_t len)
{
	write_memory(client, args, len, true);
}

/* ---- breakpoints ---- */

/* The page is there and its address known: now the instruction can be written. */
static void on_break_read(void *arg, struct gdb_job *job)
{
	struct gdb_client *client = finish_job(arg, job);
	struct gdb *gdb = client->gdb;
	int r = job->result;

	if (r == 0 && gpa_offset(job->piece[0].gpa) + job->len > PAGE_BYTES)
		r = -EINVAL;
	if (r == 0 && guest_is_away(gdb))
		r = -EBUSY;
	if (r == 0)
		r = gdb_breaks_set(&gdb->breaks, gdb->mem, job->gva, job->piece[0].gpa);
	reply_result(client, r);
	gdb_client_job_done(client);
}

static void set_soft(struct gdb_client *client, uint64_t gva)
{
	struct gdb_job *job;
	size_t len;

	arch_breakpoint(&len);
	job = gdb_job_new(len);
	if (!job) {
		command_reply_error(client, -ENOMEM);
		return;
	}
	job->gva = GVA(gva);
	start_job(client, job, on_break_read);
}

static int change_watch(struct gdb *gdb, const struct arch_watch *watch, bool set)
{
	int r = set ? gdb_breaks_watch(&gdb->breaks, watch) : gdb_breaks_unwatch(&gdb->breaks, watch);

	if (r < 0)
		return r;
	/* A list that the hardware cannot do is refused at the first vCPU. */
	r = gdb_run_set_debug(gdb, NULL, NULL);
	if (r < 0 && set) {
		gdb_breaks_unwatch(&gdb->breaks, watch);
		gdb_run_set_debug(gdb, NULL, NULL);
	}
	return r;
}

/* z and Z: TYPE,ADDR,KIND */
static void change_break(struct gdb_client *client, const char *args, bool set)
{
	static const enum arch_watch_type types[] = { ARCH_WATCH_EXEC, ARCH_WATCH_EXEC, ARCH_WATCH_WRITE,
						      ARCH_WATCH_READ, ARCH_WATCH_ACCESS };
	struct gdb *gdb = client->gdb;
	uint64_t type, gva, kind;
	struct arch_watch watch;
	char *conditions = strchr(args, ';');

	if (conditions)
		*conditions = '\0';
	if (!gdb_hex_number_to(&args, &type, ',') || !gdb_hex_number_to(&args, &gva, ',') ||
	    !gdb_hex_number_to(&args, &kind, '\0')) {
		command_reply_error(client, -EINVAL);
		return;
	}
	if (type >= sizeof(types) / sizeof(types[0])) {
		gdb_reply(client, "%s", "");
		return;
	}
	/* Before anything is changed: they are for all vCPUs. */
	if (!gdb_all_parked(gdb)) {
		command_reply_error(client, -EBUSY);
		return;
	}
	if (type == 0 && set) {
		set_soft(client, gva);
		return;
	}
	if (type == 0) {
		reply_result(client, gdb_breaks_remove(&gdb->breaks, gdb->mem, GVA(gva)));
		return;
	}
	watch = (struct arch_watch){
		.type = types[type],
		.gva = GVA(gva),
		.len = type == 1 ? 1 : kind > 8 ? 0 : (unsigned int)kind,
	};
	reply_result(client, watch.len ? change_watch(gdb, &watch, set) : -EINVAL);
}

static void cmd_set_break(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	change_break(client, args, true);
}

static void cmd_remove_break(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	change_break(client, args, false);
}

/* ---- run control ---- */

static void resume_one(struct gdb_client *client, char action)
{
	char actions[VM_VCPUS_MAX] = { 0 };
	unsigned int i;

	for (i = 0; i < vm_vcpus(client->gdb->vm); i++)
		if (action == 'c' && client->cont_thread < 0)
			actions[i] = 'c';
	if (client->cont_thread >= 0)
		actions[client->cont_thread] = action;
	else if (action == 's')
		actions[client->thread] = 's';
	gdb_run_resume(client, actions);
}

/*
 * c, s: with an address, gdb has not sent them for decades, since it writes the
 * register instead.
 */
static void cmd_continue(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	if (*args)
		command_reply_error(client, -EINVAL);
	else
		resume_one(client, 'c');
}

static void cmd_step(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	if (*args)
		command_reply_error(client, -EINVAL);
	else
		resume_one(client, 's');
}

/* C, S: a machine takes no signals; the number is dropped. */
static void cmd_continue_signal(struct gdb_client *client, const char *args, size_t len)
{
	uint64_t signal;

	(void)len;
	if (gdb_hex_number_to(&args, &signal, '\0'))
		resume_one(client, 'c');
	else
		command_reply_error(client, -EINVAL);
}

static void cmd_step_signal(struct gdb_client *client, const char *args, size_t len)
{
	uint64_t signal;

	(void)len;
	if (gdb_hex_number_to(&args, &signal, '\0'))
		resume_one(client, 's');
	else
		command_reply_error(client, -EINVAL);
}

/* One ";action[:thread]" of vCont, for the vCPUs that no earlier one named. */
static bool parse_action(const struct gdb *gdb, const char **text, char actions[VM_VCPUS_MAX])
{
	char action = **text;
	int thread = THREAD_ALL;
	uint64_t signal;
	unsigned int i;

	if (!action || !strchr("cCsSt", action))
		return false;
	(*text)++;
	if ((action == 'C' || action == 'S') && !gdb_hex_number(text, &signal))
		return false;
	if (**text == ':') {
		(*text)++;
		if (!parse_thread(text, &thread) || (thread != THREAD_ALL && !thread_exists(gdb, thread)))
			return false;
	}
	if (action == 'C' || action == 'S')
		action = (char)(action - 'A' + 'a');
	for (i = 0; i < vm_vcpus(gdb->vm); i++)
		if (!actions[i] && (thread == THREAD_ALL || (unsigned int)thread == i + 1))
			actions[i] = action;
	return true;
}

static void cmd_vcont(struct gdb_client *client, const char *args, size_t len)
{
	char actions[VM_VCPUS_MAX] = { 0 };
	unsigned int i, n = 0;

	(void)len;
	while (*args == ';') {
		args++;
		if (!parse_action(client->gdb, &args, actions)) {
			command_reply_error(client, -EINVAL);
			return;
		}
	}
	for (i = 0; i < VM_VCPUS_MAX; i++) {
		if (actions[i] == 't')
			actions[i] = 0;
		n += actions[i] != 0;
	}
	if (*args || !n)
		command_reply_error(client, -EINVAL);
	else
		gdb_run_resume(client, actions);
}

static void cmd_vcont_query(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_reply(client, "vCont;c;C;s;S;t");
}

static void cmd_why(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_run_report(client);
}

static void cmd_detach(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_run_detach(client);
	client->detached = true;
	gdb_reply(client, "OK");
}

static void cmd_kill(struct gdb_client *client, const char *args, size_t len)
{
	struct machine *machine = client->gdb->machine;

	(void)len;
	if (*args == ';')
		gdb_reply(client, "OK");
	machine_shutdown(machine, false, "host-ui");
}

/* ---- threads ---- */

static void cmd_set_thread(struct gdb_client *client, const char *args, size_t len)
{
	const char *text = args + 1;
	int thread;

	(void)len;
	if (!*args || !parse_thread(&text, &thread) || *text || (*args != 'g' && *args != 'c') ||
	    (thread > 0 && !thread_exists(client->gdb, thread))) {
		command_reply_error(client, -EINVAL);
		return;
	}
	if (*args == 'c')
		client->cont_thread = thread > 0 ? thread - 1 : -1;
	else if (thread > 0)
		client->thread = (unsigned int)thread - 1;
	gdb_reply(client, "OK");
}

static void cmd_thread_alive(struct gdb_client *client, const char *args, size_t len)
{
	int thread;

	(void)len;
	reply_result(client, parse_thread(&args, &thread) && !*args && thread_exists(client->gdb, thread) ?
				     0 : -EINVAL);
}

static void cmd_first_threads(struct gdb_client *client, const char *args, size_t len)
{
	char text[8 * VM_VCPUS_MAX];
	unsigned int i;
	int n = 0;

	(void)args;
	(void)len;
	for (i = 0; i < vm_vcpus(client->gdb->vm); i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%c%x", i ? ',' : 'm', i + 1);
	gdb_reply(client, "%s", text);
}

static void cmd_more_threads(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_reply(client, "l");
}

static void cmd_thread_text(struct gdb_client *client, const char *args, size_t len)
{
	char text[128];
	int thread;

	(void)len;
	if (!parse_thread(&args, &thread) || *args || !thread_exists(client->gdb, thread)) {
		command_reply_error(client, -EINVAL);
		return;
	}
	gdb_thread_text(client->gdb, (unsigned int)thread - 1, text, sizeof(text));
	reply_hex(client, text, strlen(text));
}

static void cmd_current_thread(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_reply(client, "QC%x", client->thread + 1);
}

/* ---- other queries ---- */

static void cmd_supported(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	client->swbreak = strstr(args, "swbreak+") != NULL;
	client->hwbreak = strstr(args, "hwbreak+") != NULL;
	gdb_reply(client,
		  "PacketSize=%zx;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+",
		  GDB_PACKET_MAX);
}

static void cmd_attached(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_reply(client, "1");
}

static void cmd_no_ack(struct gdb_client *client, const char *args, size_t len)
{
	(void)args;
	(void)len;
	gdb_reply(client, "OK");
	client->no_ack = true;
}

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void cmd_features(struct gdb_client *client, const char *args, size_t len)
{
	static const char annex[] = "target.xml:";
	const char *xml = arch_gdb_xml();
	uint64_t offset, n, left;
	struct buf out = { 0 };

	(void)len;
	if (strncmp(args, annex, sizeof(annex) - 1) != 0) {
		gdb_reply(client, "E00");
		return;
	}
	args += sizeof(annex) - 1;
	if (!gdb_hex_number_to(&args, &offset, ',') || !gdb_hex_number_to(&args, &n, '\0') ||
	    offset > strlen(xml)) {
		command_reply_error(client, -EINVAL);
		return;
	}
	left = strlen(xml) - offset;
	if (n > GDB_PACKET_MAX / 2)
		n = GDB_PACKET_MAX / 2;
	if (buf_append(&out, n < left ? "m" : "l", 1) < 0 ||
	    buf_append(&out, xml + offset, n < left ? n : left) < 0)
		command_reply_error(client, -ENOMEM);
	else
		gdb_reply_bytes(client, out.data, out.len);
	buf_fini(&out);
}

static void cmd_monitor(struct gdb_client *client, const char *args, size_t len)
{
	(void)len;
	gdb_monitor(client, args);
}

/* ---- which packet is it ---- */

enum match {
	MATCH_ALL,	/* the whole packet is the name */
	MATCH_START,	/* the arguments follow the name at once */
};

static const struct packet {
	const char *name;
	enum match match;
	void (*run)(struct gdb_client *client, const char *args, size_t len);
} packets[] = {
	{ "?", MATCH_ALL, cmd_why },
	{ "g", MATCH_ALL, cmd_read_regs },
	{ "G", MATCH_START, cmd_write_regs },
	{ "p", MATCH_START, cmd_read_reg },
	{ "P", MATCH_START, cmd_write_reg },
	{ "m", MATCH_START, cmd_read_memory },
	{ "M", MATCH_START, cmd_write_memory },
	{ "X", MATCH_START, cmd_write_binary },
	{ "Z", MATCH_START, cmd_set_break },
	{ "z", MATCH_START, cmd_remove_break },
	{ "c", MATCH_START, cmd_continue },
	{ "s", MATCH_START, cmd_step },
	{ "C", MATCH_START, cmd_continue_signal },
	{ "S", MATCH_START, cmd_step_signal },
	{ "vCont?", MATCH_ALL, cmd_vcont_query },
	{ "vCont;", MATCH_START, NULL },	/* see gdb_command: its ';' belongs to the arguments */
	{ "vKill", MATCH_START, cmd_kill },
	{ "k", MATCH_ALL, cmd_kill },
	{ "D", MATCH_START, cmd_detach },
	{ "H", MATCH_START, cmd_set_thread },
	{ "T", MATCH_START, cmd_thread_alive },
	{ "qfThreadInfo", MATCH_ALL, cmd_first_threads },
	{ "qsThreadInfo", MATCH_ALL, cmd_more_threads },
	{ "qThreadExtraInfo,", MATCH_START, cmd_thread_text },
	{ "qC", MATCH_ALL, cmd_current_thread },
	{ "qSupported", MATCH_START, cmd_supported },
	{ "qAttached", MATCH_START, cmd_attached },
	{ "qXfer:features:read:", MATCH_START, cmd_features },
	{ "QStartNoAckMode", MATCH_ALL, cmd_no_ack },
	{ "qRcmd,", MATCH_START, cmd_monitor },
};

void gdb_command(struct gdb_client *client, const char *text, size_t len)
{
	const struct packet *packet;
	size_t n;

	for (packet = packets; packet < packets + sizeof(packets) / sizeof(packets[0]); packet++) {
		n = strlen(packet->name);
		if (strncmp(text, packet->name, n) != 0 || (packet->match == MATCH_ALL && len != n))
			continue;
		if (packet->run)
			packet->run(client, text + n, len - n);
		else
			cmd_vcont(client, text + n - 1, len - n + 1);
		return;
	}
	gdb_reply(client, "%s", "");
}
