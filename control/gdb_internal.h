/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of the gdb stub share. All on the main thread, but the
 * worker's half of gdb_memory.c.
 *
 *   gdb.c           the socket, the session: attach, detach, input and output
 *   gdb_command.c   packets and their replies
 *   gdb_run.c       run control: continue, step, interrupt, stop replies
 *   gdb_break.c     breakpoints and watchpoints
 *   gdb_memory.c    guest memory, by a worker that may wait for pages
 *   gdb_monitor.c   "monitor" commands, what a vCPU waits for
 */
#ifndef POSTERN_CONTROL_GDB_INTERNAL_H
#define POSTERN_CONTROL_GDB_INTERNAL_H

#include "arch/arch.h"
#include "control/gdb.h"
#include "control/gdb_break.h"
#include "control/gdb_memory.h"
#include "control/gdb_packet.h"
#include "control/server.h"

#define GDB_OUTPUT_MAX ((size_t)1 << 20)	/* queued for a client that does not read; beyond it, it is dropped */
#define GDB_PENDING_MAX ((size_t)64 << 10)	/* input kept while a memory access is under way */

/* gdb's numbers of signals (GDB manual, include/gdb/signals.def). */
enum gdb_signal {
	GDB_SIGINT = 2,
	GDB_SIGQUIT = 3,
	GDB_SIGTRAP = 5,
	GDB_SIGABRT = 6,
	GDB_SIGIO = 23,
	GDB_SIGXCPU = 24,
};

struct gdb_client {
	struct gdb *gdb;		/* NULL: closed */
	union server_stream stream;
	uv_idle_t more;			/* active: pending is for the next turn */
	unsigned int handles;		/* of these two, those that the loop has */
	int64_t turn_end_ns;
	uint64_t turn_ms;		/* the loop's time when the turn began */
	struct gdb_packet in;
	struct buf pending;		/* input that has to wait for the job, or for the next turn */
	struct buf last;		/* the last frame sent, for a '-' */
	struct gdb_job *job;		/* a memory access under way: its reply comes later */
	bool no_ack, swbreak, hwbreak;
	bool detached;			/* said D: the machine is no longer this session's, and nothing is carried out */
	bool acked;			/* ... and has the reply */
	bool running;			/* gdb waits for a stop reply */
	bool leave_running;		/* what to leave behind at detach */
	unsigned int thread;		/* vCPU that g, m and so on mean */
	int cont_thread;		/* Hc: vCPU, or -1 for all */
	char bytes[4096];
};

/* What a vCPU waited for when the debugger stopped it; the stop has ended the wait. */
struct gdb_waited {
	bool waited;
	gpa_t gpa;
	int64_t ms;
};

struct gdb {
	struct machine *machine;
	struct memory *mem;
	struct vm *vm;
	uv_loop_t *uv;
	struct server *server;
	struct gdb_client *client;	/* NULL: nobody is attached */
	struct gdb_client *stranger;	/* who is connected and has said nothing yet; NULL while somebody is attached */
	struct gdb_refused *refused;	/* who came second */
	struct machine_observer observer;
	struct gdb_worker *worker;
	int page_timeout_ms;
	struct gdb_breaks breaks;
	struct arch_debug debug[VM_VCPUS_MAX];	/* as last set on each vCPU */
	struct gdb_waited waited[VM_VCPUS_MAX];
	bool debug_from_running;	/* RUN_STATE_DEBUG was entered from RUNNING */
	char missing[256];		/* why the last memory access failed */
};

/* ---- gdb.c ---- */
void gdb_reply(struct gdb_client *client, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void gdb_reply_bytes(struct gdb_client *client, const void *payload, size_t len);
/* The job's reply is sent: input that waited for it is taken. */
void gdb_client_job_done(struct gdb_client *client);
/* Ends the session; the memory goes when the loop has run. */
void gdb_client_close(struct gdb_client *client);

/* ---- gdb_command.c ---- */
/* Carries out one packet: `text` has len bytes and a 0 behind them. */
void gdb_command(struct gdb_client *client, const char *text, size_t len);

/* ---- gdb_run.c ---- */
void gdb_run_attach(struct gdb_client *client);
/* Takes breakpoints out, and leaves the machine as it is to be left. */
void gdb_run_detach(struct gdb_client *client);
void gdb_run_interrupt(struct gdb_client *client);
/* action: for each vCPU 'c', 's' or 0 (stays parked). Replies, now or when the machine stops. */
void gdb_run_resume(struct gdb_client *client, const char action[VM_VCPUS_MAX]);
/*
 * Breakpoints, watchpoints and steps (action: of which vCPUs, or NULL) as they
 * are to be for the next run. -EBUSY: not all vCPUs are parked; -EINVAL:
 * nothing that the hardware can do.
 */
int gdb_run_set_debug(struct gdb *gdb, const char action[VM_VCPUS_MAX], struct err *err);
/* Is every vCPU parked, and stays so until this thread lets one run? */
bool gdb_all_parked(const struct gdb *gdb);
/* The stop reply that '?' asks for, once all has stopped. */
void gdb_run_report(struct gdb_client *client);
/* Observers of the machine. */
void gdb_run_on_state(void *arg, enum run_state old, enum run_state now);
void gdb_run_on_debug(void *arg, struct vcpu *vcpu);

/* ---- gdb_monitor.c ---- */
/* qRcmd: hex is the command. */
void gdb_monitor(struct gdb_client *client, const char *hex);
/* Notes which vCPUs wait for pages: before they are parked, which ends their waits. */
void gdb_note_waits(struct gdb *gdb);
/* What vCPU `index` does, as text for "info threads". */
void gdb_thread_text(struct gdb *gdb, unsigned int index, char *text, size_t bytes);

#endif
