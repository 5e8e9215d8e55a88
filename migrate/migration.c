// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The face of a migration: the public functions, its status and its figures. One
 * object serves a machine for its life: first, where the machine was started so,
 * as a destination, and then as a source.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "migrate/internal.h"

#define LINK_TIMEOUT_MS 10000u
#define LINK_TIMEOUT_MIN_MS 100u
#define LINK_TIMEOUT_MAX_MS 600000u
#define DOWNTIME_LIMIT_MS 300u
#define MAX_BANDWIDTH (UINT64_C(128) << 20)
#define SAMPLE_MS 1000

const char *migration_status_name(enum migration_status status)
{
	static const char *const names[] = {
		[MIGRATION_NONE] = "none",
		[MIGRATION_SETUP] = "setup",
		[MIGRATION_CANCELLING] = "cancelling",
		[MIGRATION_CANCELLED] = "cancelled",
		[MIGRATION_DEVICE] = "device",
		[MIGRATION_POSTCOPY_ACTIVE] = "postcopy-active",
		[MIGRATION_POSTCOPY_PAUSED] = "postcopy-paused",
		[MIGRATION_POSTCOPY_RECOVER] = "postcopy-recover",
		[MIGRATION_COMPLETED] = "completed",
		[MIGRATION_FAILED] = "failed",
	};

	return names[status];
}

void migration_set_status(struct migration *m, enum migration_status status)
{
	unsigned int i;

	if (m->status == status)
		return;
	m->status = status;
	log_info("migration: %s", migration_status_name(status));
	for (i = 0; i < m->nobservers; i++)
		m->observer[i].status(m->observer[i].arg, status);
}

void migration_note(struct migration *m, const struct err *err)
{
	snprintf(m->error, sizeof(m->error), "%s", err->text);
	log_warn("migration: %s", err->text);
}

void migration_note_advice(struct migration *m, const struct err *err, const char *advice)
{
	struct err whole;

	err_set(&whole, err->code, "%s; %s", err->text, advice);
	migration_note(m, &whole);
}

void migration_begin(struct migration *m, bool is_incoming)
{
	m->is_incoming = is_incoming;
	m->error[0] = 0;
	m->sampled_bytes = m->bytes_per_second = 0;
}

/*
 * The shape's strings and ranges are allocated; migration_drop_shape frees
 * them. Without memory the shape lacks them.
 */
void migration_fill_shape(struct migration *m, Postern__Wire__Shape *shape)
{
	const struct memory_region *regions;
	Postern__Wire__Range *ranges;
	struct utsname name;
	unsigned int i, n;

	regions = memory_regions(machine_memory(m->machine), &n);
	shape->arch = strdup(uname(&name) < 0 ? "unknown" : name.machine);
	shape->cpus = machine_config(m->machine)->cpus;
	shape->page_bytes = (uint32_t)PAGE_BYTES;
	shape->ranges = calloc(MEMORY_REGIONS_MAX, sizeof(*shape->ranges));
	ranges = calloc(MEMORY_REGIONS_MAX, sizeof(*ranges));
	if (!shape->arch || !shape->ranges || !ranges)
		abort();	/* a few hundred bytes, as loop_post */
	for (i = 0; i < n; i++) {
		postern__wire__range__init(&ranges[i]);
		ranges[i].start = gfn_to_gpa(regions[i].first).v;
		ranges[i].len_bytes = regions[i].pages * PAGE_BYTES;
		shape->ranges[i] = &ranges[i];
	}
	/* The array itself hangs on the first pointer; without any it would leak. */
	if (!n)
		free(ranges);
	shape->n_ranges = n;
}

void migration_drop_shape(Postern__Wire__Shape *shape)
{
	if (shape->n_ranges)
		free(shape->ranges[0]);
	free(shape->ranges);
	free(shape->arch);
}

/* ---- figures ---- */

static const struct session *session_of(const struct migration *m)
{
	return m->is_incoming ? &m->incoming.session : &m->outgoing.session;
}

static uint64_t moved_bytes(const struct migration *m)
{
	struct sender_stats sent = { 0 };
	struct wire_source_stats got = { 0 };

	if (m->is_incoming) {
		wire_source_stats(m->incoming.wire_source, &got);
		return got.bytes;
	}
	if (m->outgoing.sender)
		sender_stats(m->outgoing.sender, &sent);
	return sent.bytes;
}

static void on_sample(uv_timer_t *timer)
{
	struct migration *m = timer->data;
	uint64_t bytes = moved_bytes(m);
	int64_t now = clock_now_ns(), elapsed = now - m->sampled_ns;

	if (elapsed > 0 && bytes >= m->sampled_bytes)
		m->bytes_per_second = (uint64_t)((unsigned __int128)(bytes - m->sampled_bytes) *
						 (uint64_t)NS_PER_SEC / (uint64_t)elapsed);
	m->sampled_bytes = bytes;
	m->sampled_ns = now;
	if (m->is_incoming)
		awaited_check_incoming(&m->incoming);
	else
		awaited_check_outgoing(&m->outgoing);
}

static void query_incoming(struct migration *m, struct migration_info *info)
{
	struct wire_source_stats got;

	wire_source_stats(m->incoming.wire_source, &got);
	info->ram_remaining_bytes = recover_count_missing(m) * PAGE_BYTES;
	info->ram_sent_bytes = got.bytes;
	info->pages_normal = got.pages_normal;
	info->pages_zero = got.pages_zero;
	info->pages_urgent = got.pages_urgent;
}

static void query_outgoing(const struct outgoing *o, struct migration_info *info)
{
	struct sender_stats sent;

	info->ram_remaining_bytes = info->ram_total_bytes;
	if (!o->sender)
		return;
	sender_stats(o->sender, &sent);
	info->ram_remaining_bytes = o->phase == OUT_DONE ? 0 : sent.unsent * PAGE_BYTES;
	info->ram_sent_bytes = sent.bytes;
	info->pages_normal = sent.pages_normal;
	info->pages_zero = sent.pages_zero;
	info->pages_urgent = sent.pages_urgent;
}

static void query_times(const struct session *session, struct migration_info *info)
{
	int64_t end = session->ended_ns ? session->ended_ns : clock_now_ns();

	if (session->started_ns)
		info->total_ms = (end - session->started_ns) / NS_PER_MS;
	if (session->hello_ns)
		info->setup_ms = (session->hello_ns - session->started_ns) / NS_PER_MS;
	if (session->paused_ns && session->ran_ns)
		info->downtime_ms = (session->ran_ns - session->paused_ns) / NS_PER_MS;
}

/*
 * Paused after the decision, and yet not in POSTMIGRATE: an operator has taken
 * the guest back by force, knowing that the destination is dead. That migration
 * is over.
 */
static bool is_reclaimed(const struct migration *m)
{
	return !m->is_incoming && m->status == MIGRATION_POSTCOPY_PAUSED &&
	       machine_state(m->machine) != RUN_STATE_POSTMIGRATE;
}

void migration_query(struct migration *m, struct migration_info *info)
{
	*info = (struct migration_info){
		.status = m->status,
		.incoming = m->is_incoming,
		.recoveries = session_of(m)->recoveries,
		.reclaimed = is_reclaimed(m),
		.bytes_per_second = m->bytes_per_second,
	};
	memcpy(info->error, m->error, sizeof(info->error));
	if (m->status == MIGRATION_NONE)
		return;
	info->ram_total_bytes = memory_pages(machine_memory(m->machine)) * PAGE_BYTES;
	if (m->is_incoming)
		query_incoming(m, info);
	else
		query_outgoing(&m->outgoing, info);
	query_times(session_of(m), info);
}

/* ---- life ---- */

static void on_memory_complete(void *arg)
{
	struct migration *m = arg;

	if (m->is_incoming)
		incoming_memory_complete(&m->incoming);
}

int migration_new(struct migration **out, struct machine *machine, struct err *err)
{
	struct migration *m = calloc(1, sizeof(*m));
	int r;

	if (!m || !(m->sample = calloc(1, sizeof(*m->sample)))) {
		free(m);
		return err_set(err, -ENOMEM, "no memory for the migration");
	}
	m->machine = machine;
	m->outgoing.m = m->incoming.m = m;
	boot_receiver_init(&m->incoming.boot_receiver);
	m->loop = machine_loop(machine);
	m->params = (struct migration_params){
		.link_timeout_ms = LINK_TIMEOUT_MS,
		.downtime_limit_ms = DOWNTIME_LIMIT_MS,
		.max_bandwidth = MAX_BANDWIDTH,
	};
	r = uv_timer_init(loop_uv(m->loop), m->sample);
	if (r < 0) {
		free(m->sample);
		free(m);
		return err_errno(err, r, "timer");
	}
	m->sample->data = m;
	/* It keeps no loop alive by itself. */
	uv_unref((uv_handle_t *)m->sample);
	uv_timer_start(m->sample, on_sample, SAMPLE_MS, SAMPLE_MS);
	m->sampled_ns = clock_now_ns();
	m->machine_observer =
		(struct machine_observer){ .memory_complete = on_memory_complete, .arg = m };
	machine_observe(machine, &m->machine_observer);
	*out = m;
	return 0;
}

void migration_free(struct migration *m)
{
	if (!m)
		return;
	machine_unobserve(m->machine, &m->machine_observer);
	outgoing_fini(&m->outgoing);
	incoming_fini(&m->incoming);
	uv_timer_stop(m->sample);
	loop_close((uv_handle_t *)m->sample, m->sample);
	explicit_bzero(&m->started_with, sizeof(m->started_with));
	free(m);
}

void migration_observe(struct migration *m, const struct migration_observer *observer)
{
	if (m->nobservers < MIGRATION_OBSERVERS_MAX)
		m->observer[m->nobservers++] = *observer;
	else
		log_error("migration: more than %d observers", MIGRATION_OBSERVERS_MAX);
}

/* ---- commands ---- */

void migration_trust(struct migration *m, const struct migration_trust *trust)
{
	m->started_with = *trust;
}

/* Where a command names a peer, and with what trust: its own, or else the given one. */
static int parse_peer(const char *text, bool listening, const struct migration_trust *trust,
		      const struct migration_trust *other, struct uri *uri,
		      struct migration_trust *out, struct err *err)
{
	int r = uri_parse(uri, text, err);

	*out = trust ? *trust : *other;
	return r < 0 ? r : trust_check(out, uri, listening, err);
}

int migration_incoming(struct migration *m, const char *text, const struct migration_trust *trust,
		       struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (!machine_config(m->machine)->starts_inmigrate)
		return err_set(err, -EINVAL, "this machine was not started to take a guest over");
	if (m->incoming.phase != IN_IDLE || outgoing_is_active(&m->outgoing))
		return err_set(err, -EBUSY, "there is a migration already (%s)",
			       migration_status_name(m->status));
	r = parse_peer(text, true, trust, &m->started_with, &uri, &its, err);
	return r < 0 ? r : incoming_start(&m->incoming, &uri, text, &its, err);
}

static int migration_resume(struct migration *m, const char *text,
			    const struct migration_trust *trust, struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (m->is_incoming)
		return err_set(err, -EINVAL,
			       "a migration is resumed at its source; here it is migrate-recover");
	if (m->status != MIGRATION_POSTCOPY_PAUSED)
		return err_set(err, -EINVAL,
			       "only a postcopy that is paused can be resumed, this is %s",
			       migration_status_name(m->status));
	if (is_reclaimed(m))
		return err_set(
			err, -EPERM,
			"the guest was reclaimed and runs here: resuming the migration would let it run "
			"twice");
	r = parse_peer(text, false, trust, &m->outgoing.session.trust, &uri, &its, err);
	return r < 0 ? r : outgoing_resume(&m->outgoing, &uri, &its, err);
}

int migration_outgoing(struct migration *m, const char *text, bool is_resume,
		       const struct migration_trust *trust, struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (is_resume)
		return migration_resume(m, text, trust, err);
	r = parse_peer(text, false, trust, &m->started_with, &uri, &its, err);
	if (r < 0)
		return r;
	if (is_reclaimed(m))
		outgoing_forget(&m->outgoing);
	if (outgoing_is_active(&m->outgoing) || session_of(m)->link)
		return err_set(err, -EBUSY, "there is a migration already (%s)",
			       migration_status_name(m->status));
	r = outgoing_start(&m->outgoing, &uri, &its, err);
	/* What came here may go on to elsewhere once all of it is here. */
	if (!r)
		incoming_leave(&m->incoming);
	return r;
}

int migration_recover(struct migration *m, const char *text, const struct migration_trust *trust,
		      struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (!m->is_incoming)
		return err_set(
			err, -EINVAL,
			"migrate-recover is for the destination; at the source it is migrate with resume");
	if (m->incoming.session.link || !incoming_is_prepared(&m->incoming))
		return err_set(err, -EINVAL,
			       "only a postcopy that is paused can be recovered, this is %s",
			       migration_status_name(m->status));
	r = parse_peer(text, true, trust, &m->incoming.session.trust, &uri, &its, err);
	return r < 0 ? r : incoming_listen(&m->incoming, &uri, text, &its, err);
}

int migration_reclaim(struct migration *m, struct err *err)
{
	int r;

	if (m->is_incoming || m->status != MIGRATION_POSTCOPY_PAUSED)
		return err_set(
			err, -EINVAL,
			"only the source of a migration that is postcopy-paused can reclaim its "
			"guest; this is %s of one that is %s",
			m->is_incoming ? "the destination" : "the source",
			migration_status_name(m->status));
	if (is_reclaimed(m))
		return err_set(err, -EALREADY, "the guest has been reclaimed already");
	r = machine_leave_migrate(m->machine, true, err);
	if (r < 0)
		return r;
	log_warn("the guest was reclaimed: it runs here, and must not run at the destination");
	return 0;
}

int migration_pause(struct migration *m, struct err *err)
{
	struct err why;

	if (m->status != MIGRATION_POSTCOPY_ACTIVE && m->status != MIGRATION_POSTCOPY_RECOVER)
		return err_set(err, -EINVAL, "only an active postcopy can be paused, this is %s",
			       migration_status_name(m->status));
	err_set(&why, -ECANCELED, "paused by a migrate-pause at the %s",
		m->is_incoming ? "destination" : "source");
	if (m->is_incoming)
		incoming_lost(&m->incoming, &why);
	else
		outgoing_lost(&m->outgoing, &why, false);
	return 0;
}

int migration_cancel(struct migration *m, struct err *err)
{
	struct err why;

	if (m->is_incoming)
		return err_set(err, -EINVAL, "a migration is cancelled at its source");
	if (!outgoing_is_active(&m->outgoing))
		return 0;
	if (m->outgoing.phase >= OUT_DECIDED)
		return err_set(err, -EINVAL,
			       "too late to cancel: the guest runs, or will run, at the destination");
	err_set(&why, -ECANCELED, "cancelled at the source");
	migration_set_status(m, MIGRATION_CANCELLING);
	outgoing_lost(&m->outgoing, &why, true);
	return 0;
}

void migration_params_get(struct migration *m, struct migration_params *params)
{
	*params = m->params;
}

int migration_params_set(struct migration *m, const struct migration_params *params,
			 struct err *err)
{
	if (params->link_timeout_ms < LINK_TIMEOUT_MIN_MS ||
	    params->link_timeout_ms > LINK_TIMEOUT_MAX_MS)
		return err_set(err, -EINVAL, "the link timeout must be %u to %u ms, not %u",
			       LINK_TIMEOUT_MIN_MS, LINK_TIMEOUT_MAX_MS, params->link_timeout_ms);
	if (session_of(m)->link && params->link_timeout_ms != m->params.link_timeout_ms)
		link_set_timeout(session_of(m)->link, params->link_timeout_ms);
	if (m->incoming.listener)
		listener_set_timeout(m->incoming.listener,
				     handshake_timeout_ms(params->link_timeout_ms));
	m->params = *params;
	if (m->outgoing.sender)
		sender_limit(m->outgoing.sender, params->max_postcopy_bandwidth);
	return 0;
}
