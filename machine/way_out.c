// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * way_out.c - finds out how a vCPU of this host leaves its wait for a page,
 * while the machine already starts: the probe is a small machine of its own,
 * and makes and frees a VM (kvm/probe.h).
 *
 * Until it is known a vCPU is ejected, which works on every kernel and costs a
 * bit more. Where the probe fails that stays so, and the log says why.
 */
#include "machine/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "kvm/probe.h"

/*
 * The guest's first moments are its own: there are few CPUs, and KVM's locks. Until then there is
 * no thread either, which the machine's own start would pay for.
 */
#define WAY_OUT_DELAY_MS 30

static void *way_out_main(void *arg)
{
	struct machine *m = arg;
	enum way_out way;
	struct err err;
	int64_t us;

	pthread_setname_np(pthread_self(), "way-out");
	if (probe_way_out(&way, &us, &err) < 0) {
		log_warn("finding the way out of a wait for a page: %s: vCPUs are ejected",
			 err.text);
		return NULL;
	}
	log_info("way out of a wait for a page: %s, %" PRId64 " us",
		 way == WAY_OUT_KERNEL ? "kernel" : "eject", us);
	memory_set_way_out(m->mem, way);
	return NULL;
}

static void way_out_begin(uv_timer_t *timer)
{
	struct machine *m = timer->data;
	int r = thread_start(&m->way.thread, way_out_main, m);

	m->way.runs = !r;
	if (r < 0)
		log_warn("finding the way out of a wait for a page: %s: vCPUs are ejected",
			 strerror(-r));
}

int machine_way_out_find(struct machine *m, struct err *err)
{
	if (m->config.way_out != WAY_OUT_AUTO || !m->config.ram_is_late)
		return 0;
	m->way.later = malloc(sizeof(*m->way.later));
	if (!m->way.later)
		return err_set(err, -ENOMEM, "no memory for the machine");
	uv_timer_init(loop_uv(m->loop), m->way.later);
	m->way.later->data = m;
	/* From now, not from when the loop last looked: it may not have run yet. */
	uv_update_time(loop_uv(m->loop));
	uv_timer_start(m->way.later, way_out_begin, WAY_OUT_DELAY_MS, 0);
	/* It keeps no loop alive by itself. */
	uv_unref((uv_handle_t *)m->way.later);
	return 0;
}

void machine_way_out_end(struct machine *m)
{
	if (m->way.later)
		loop_close((uv_handle_t *)m->way.later, m->way.later);
	m->way.later = NULL;
	if (m->way.runs)
		pthread_join(m->way.thread, NULL);
	m->way.runs = false;
}
