// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_timers.c - what is looked at later: the next attempt at a connection (or
 * the end of this one), what has ended without the server, what is in doubt.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/loop.h"
#include "device/disk/nbd_internal.h"

static void on_retry(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	if (nbd->h)
		nbd_link_lost(nbd, "the server does not answer");
	else if (!nbd->origin.ours || nbd->held)
		nbd_link_start(nbd);
}

static void on_soon(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	if (nbd_link_waited_enough(nbd))
		nbd_jobs_fail(nbd, -EIO);
	nbd_link_look(nbd);
}

static void on_doubt(uv_timer_t *timer)
{
	struct nbd *nbd = timer->data;

	nbd_doubt_look(nbd);
	nbd_link_look(nbd);
}

void nbd_link_retry(struct nbd *nbd, unsigned int ms)
{
	uv_timer_start(&nbd->timers->retry, on_retry, ms, 0);
}

void nbd_link_soon(struct nbd *nbd)
{
	uv_timer_start(&nbd->timers->soon, on_soon, 0, 0);
}

void nbd_link_doubt_timer(struct nbd *nbd, int64_t ms)
{
	if (!nbd->timers)
		return;
	if (ms > 0)
		uv_timer_start(&nbd->timers->doubt, on_doubt, (uint64_t)ms, 0);
	else
		uv_timer_stop(&nbd->timers->doubt);
}

int nbd_timers_new(struct nbd *nbd, struct err *err)
{
	uv_loop_t *uv = loop_uv(nbd->disk.env.loop);
	struct nbd_timers *timers = calloc(1, sizeof(*timers));
	uv_timer_t *each[] = { timers ? &timers->retry : NULL, timers ? &timers->soon : NULL,
			       timers ? &timers->doubt : NULL };
	unsigned int i;

	if (!timers)
		return err_set(err, -ENOMEM, "no memory for a disk");
	for (i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
		uv_timer_init(uv, each[i]);
		each[i]->data = nbd;
		timers->handles++;
	}
	nbd->timers = timers;
	return 0;
}

void nbd_timers_close(struct nbd_timers *timers)
{
	loop_close_one_of((uv_handle_t *)&timers->retry, &timers->handles);
	loop_close_one_of((uv_handle_t *)&timers->soon, &timers->handles);
	loop_close_one_of((uv_handle_t *)&timers->doubt, &timers->handles);
}
