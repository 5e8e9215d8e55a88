// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The migration object: the public functions, its status and its figures. One object serves a machine for its life: first, where the
 * machine was started so, as a destination, and then as a source.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "base/log.h"
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
	for (i = 0; i < m->nlisteners; i++)
		m->listener[i].status(m->listener[i].arg, status);
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

void migration_drop_link(struct migration *m, const char *reason)
{
	if (!m->link)
		return;
	link_cut(m->link, reason);
	if (m->sender)
		sender_stop(m->sender);
	if (m->peer) {
		peer_stop(m->peer);
		memory_detach(machine_memory(m->machine));
	}
	link_free(m->link);
	m->link = NULL;
	m->awaited = AWAITED_NOTHING;
}

/* The shape's strings and ranges are allocated; migration_drop_shape frees them. Without memory the shape lacks them. */
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

static uint64_t moved_bytes(const struct migration *m)
{
	struct sender_stats sent = { 0 };
	struct peer_stats got = { 0 };

	if (m->incoming && m->peer)
		peer_stats(m->peer, &got);
	else if (m->sender)
		sender_stats(m->sender, &sent);
	return m->incoming ? got.bytes : sent.bytes;
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
	awaited_check(m);
}

static void query_pages(struct migration *m, struct migration_info *info)
{
	struct sender_stats sent;
	struct peer_stats got;

	info->ram_total_bytes = memory_pages(machine_memory(m->machine)) * PAGE_BYTES;
	if (m->incoming) {
		peer_stats(m->peer, &got);
		info->ram_remaining_bytes = recover_count_missing(m) * PAGE_BYTES;
		info->ram_sent_bytes = got.bytes;
		info->pages_normal = got.pages_normal;
		info->pages_zero = got.pages_zero;
		info->pages_urgent = got.pages_urgent;
	} else if (m->sender) {
		sender_stats(m->sender, &sent);
		info->ram_remaining_bytes = m->out == OUT_DONE ? 0 : sent.unsent * PAGE_BYTES;
		info->ram_sent_bytes = sent.bytes;
		info->pages_normal = sent.pages_normal;
		info->pages_zero = sent.pages_zero;
		info->pages_urgent = sent.pages_urgent;
	} else {
		info->ram_remaining_bytes = info->ram_total_bytes;
	}
}

/*
 * Paused after the decision, and yet not in POSTMIGRATE: an operator has taken the guest back by force, knowing that the
 * destination is dead. That migration is over.
 */
static bool is_reclaimed(const struct migration *m)
{
	return !m->incoming && m->status == MIGRATION_POSTCOPY_PAUSED &&
	       machine_state(m->machine) != RUN_STATE_POSTMIGRATE;
}

void migration_query(struct migration *m, struct migration_info *info)
{
	int64_t now = clock_now_ns();

	*info = (struct migration_info){
		.status = m->status,
		.incoming = m->incoming,
		.recoveries = m->recoveries,
		.reclaimed = is_reclaimed(m),
		.bytes_per_second = m->bytes_per_second,
	};
	memcpy(info->error, m->error, sizeof(info->error));
	if (m->status == MIGRATION_NONE)
		return;
	query_pages(m, info);
	if (m->started_ns)
		info->total_ms = ((m->ended_ns ? m->ended_ns : now) - m->started_ns) / NS_PER_MS;
	if (m->hello_ns)
		info->setup_ms = (m->hello_ns - m->started_ns) / NS_PER_MS;
	if (m->paused_ns && m->ran_ns)
		info->downtime_ms = (m->ran_ns - m->paused_ns) / NS_PER_MS;
}

/* ---- life ---- */

static void on_memory_complete(void *arg)
{
	struct migration *m = arg;

	if (m->incoming)
		incoming_memory_complete(m);
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
	boot_receiver_init(&m->boot_receiver);
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
	m->machine_listener = (struct machine_listener){ .memory_complete = on_memory_complete, .arg = m };
	machine_listen(machine, &m->machine_listener);
	*out = m;
	return 0;
}

static void on_sample_closed(uv_handle_t *handle)
{
	free(handle);
}

void migration_free(struct migration *m)
{
	if (!m)
		return;
	machine_unlisten(m->machine, &m->machine_listener);
	migration_drop_link(m, m->out == OUT_DONE || m->in == IN_DONE ? NULL : "postern ends there");
	connector_free(m->connector);
	boot_sender_free(m->boot_sender);
	boot_receiver_fini(&m->boot_receiver);
	listener_free(m->listener_socket);
	sender_free(m->sender);
	peer_free(m->peer);
	uv_timer_stop(m->sample);
	uv_close((uv_handle_t *)m->sample, on_sample_closed);
	explicit_bzero(&m->started_with, sizeof(m->started_with));
	explicit_bzero(&m->trust, sizeof(m->trust));
	free(m);
}

void migration_listen(struct migration *m, const struct migration_listener *listener)
{
	if (m->nlisteners < MIGRATION_LISTENERS_MAX)
		m->listener[m->nlisteners++] = *listener;
	else
		log_error("migration: more than %d listeners", MIGRATION_LISTENERS_MAX);
}

/* ---- commands ---- */

void migration_trust(struct migration *m, const struct migration_trust *trust)
{
	m->started_with = *trust;
}

static bool is_active_source(const struct migration *m)
{
	return !m->incoming && m->out != OUT_IDLE && m->out != OUT_DONE;
}

/* Where a command names a peer, and with what trust: its own, or else the given one. */
static int parse_peer(const char *text, bool listening, const struct migration_trust *trust,
		      const struct migration_trust *other, struct uri *uri, struct migration_trust *out, struct err *err)
{
	int r = uri_parse(uri, text, err);

	*out = trust ? *trust : *other;
	return r < 0 ? r : trust_check(out, uri, listening, err);
}

/* Connections that come with the URI are made at once: the trust is theirs by then. */
static int listen_with(struct migration *m, const struct migration_trust *its,
		       const struct uri *uri, const char *text, struct err *err)
{
	struct migration_trust old = m->trust;
	int r;

	m->trust = *its;
	r = incoming_listen(m, uri, text, err);
	if (r < 0)
		m->trust = old;
	else
		trust_warn(its, uri);
	explicit_bzero(&old, sizeof(old));
	return r;
}

int migration_incoming(struct migration *m, const char *text, const struct migration_trust *trust, struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (!machine_config(m->machine)->starts_inmigrate)
		return err_set(err, -EINVAL, "this machine was not started to take a guest over");
	if (m->in != IN_IDLE || is_active_source(m))
		return err_set(err, -EBUSY, "there is a migration already (%s)",
			       migration_status_name(m->status));
	r = parse_peer(text, true, trust, &m->started_with, &uri, &its, err);
	if (!r && !m->peer)
		r = peer_new(&m->peer, machine_memory(m->machine), err);
	if (!r)
		r = listen_with(m, &its, &uri, text, err);
	if (r < 0)
		return r;
	m->incoming = true;
	m->in = IN_LISTEN;
	migration_set_status(m, MIGRATION_SETUP);
	return 0;
}

/* What came here may go on to elsewhere once all of it is here. */
static void leave_incoming(struct migration *m)
{
	if (!m->incoming)
		return;
	listener_free(m->listener_socket);
	m->listener_socket = NULL;
	m->in = IN_DONE;
}

static int resume(struct migration *m, const char *text, const struct migration_trust *trust, struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (m->incoming)
		return err_set(err, -EINVAL, "a migration is resumed at its source; here it is migrate-recover");
	if (m->status != MIGRATION_POSTCOPY_PAUSED)
		return err_set(err, -EINVAL, "only a postcopy that is paused can be resumed, this is %s",
			       migration_status_name(m->status));
	if (is_reclaimed(m))
		return err_set(err, -EPERM, "the guest was reclaimed and runs here: resuming the migration would let it run "
				       "twice");
	r = parse_peer(text, false, trust, &m->trust, &uri, &its, err);
	if (!r)
		r = outgoing_resume(m, &uri, &its, err);
	return r;
}

int migration_outgoing(struct migration *m, const char *text, bool is_resume, const struct migration_trust *trust,
		       struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (is_resume)
		return resume(m, text, trust, err);
	r = parse_peer(text, false, trust, &m->started_with, &uri, &its, err);
	if (r < 0)
		return r;
	if (is_reclaimed(m))
		outgoing_forget(m);
	if (is_active_source(m) || m->link)
		return err_set(err, -EBUSY, "there is a migration already (%s)",
			       migration_status_name(m->status));
	r = outgoing_start(m, &uri, &its, err);
	if (!r)
		leave_incoming(m);
	return r;
}

int migration_recover(struct migration *m, const char *text, const struct migration_trust *trust, struct err *err)
{
	struct migration_trust its;
	struct uri uri;
	int r;

	if (!m->incoming)
		return err_set(err, -EINVAL, "migrate-recover is for the destination; at the source it is migrate with resume");
	if (m->link || (m->in != IN_PREPARED && m->in != IN_RUNNING && m->in != IN_COMPLETE))
		return err_set(err, -EINVAL, "only a postcopy that is paused can be recovered, this is %s",
			       migration_status_name(m->status));
	r = parse_peer(text, true, trust, &m->trust, &uri, &its, err);
	return r < 0 ? r : listen_with(m, &its, &uri, text, err);
}

int migration_reclaim(struct migration *m, struct err *err)
{
	int r;

	if (m->incoming || m->status != MIGRATION_POSTCOPY_PAUSED)
		return err_set(err, -EINVAL, "only the source of a migration that is postcopy-paused can reclaim its "
					     "guest; this is %s of one that is %s",
			       m->incoming ? "the destination" : "the source", migration_status_name(m->status));
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
	err_set(&why, -ECANCELED, "paused by a migrate-pause at the %s", m->incoming ? "destination" : "source");
	if (m->incoming)
		incoming_lost(m, &why);
	else
		outgoing_lost(m, &why, false);
	return 0;
}

int migration_cancel(struct migration *m, struct err *err)
{
	struct err why;

	if (m->incoming)
		return err_set(err, -EINVAL, "a migration is cancelled at its source");
	if (!is_active_source(m))
		return 0;
	if (m->out >= OUT_DECIDED)
		return err_set(err, -EINVAL,
			       "too late to cancel: the guest runs, or will run, at the destination");
	err_set(&why, -ECANCELED, "cancelled at the source");
	migration_set_status(m, MIGRATION_CANCELLING);
	outgoing_lost(m, &why, true);
	return 0;
}

void migration_params_get(struct migration *m, struct migration_params *params)
{
	*params = m->params;
}

int migration_params_set(struct migration *m, const struct migration_params *params, struct err *err)
{
	if (params->link_timeout_ms < LINK_TIMEOUT_MIN_MS || params->link_timeout_ms > LINK_TIMEOUT_MAX_MS)
		return err_set(err, -EINVAL, "the link timeout must be %u to %u ms, not %u", LINK_TIMEOUT_MIN_MS,
			       LINK_TIMEOUT_MAX_MS, params->link_timeout_ms);
	if (m->link && params->link_timeout_ms != m->params.link_timeout_ms)
		link_set_timeout(m->link, params->link_timeout_ms);
	if (m->listener_socket)
		listener_set_timeout(m->listener_socket, handshake_timeout_ms(params->link_timeout_ms));
	m->params = *params;
	if (m->sender)
		sender_limit(m->sender, params->max_postcopy_bandwidth);
	return 0;
}
