// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The lanes, and whose turn it is. Whoever begins an exchange puts it into its lane's `begun` under
 * the lock and wakes the thread that drives the lane; all else is that one's alone: the queue, the
 * slots (an easy handle each, which is kept, and so are the connections, by the multi handle), and
 * libcurl.
 *
 * A lane has its own thread because a thread that moves much has used its share of a busy host's
 * CPUs when something urgent comes, and waits with it for its next turn. But the urgent lane, when
 * nothing is under way there, is driven by whoever is about to wait for what he begins (helper.h):
 * so a single fault wakes nobody, and waits for nobody's turn. Once he has what he waited for, the
 * lane's thread goes on with what others have begun meanwhile.
 *
 * An exchange that nobody wants any more is ended at once, wherever it is. libcurl would wait for
 * the resolver then, for as long as that takes, unless it is told not to (CURLOPT_QUICK_EXIT).
 */
#include "store/web.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/thread.h"
#include "store/helper.h"
#include "store/web_internal.h"

#define IDLE_MS 60000
/* For what was begun to tidy up, such as the end of an upload. */
#define LAST_NS (3 * NS_PER_SEC)

enum { BULK, URGENT, LANES };

/*
 * Who drives a lane. IDLE, nothing is under way there: whoever begins an exchange makes it OWN, or
 * LENT. OWN, its thread: until nothing is left. LENT, a thread that waits: until it has what it
 * wants; then OWN if anything is left.
 */
enum lane_driver { LANE_IDLE, LANE_OWN, LANE_LENT };

struct web_queue {
	struct web_exchange *first, **end;
};

struct web_slot {
	CURL *easy;			/* NULL until it is first used */
	struct web_exchange *x;		/* NULL: free */
};

struct web_lane {
	struct web *web;
	bool urgent, started;
	CURLM *multi;
	pthread_t thread;
	_Atomic bool look;
	pthread_mutex_t lock;		/* begun, driver, stopping */
	pthread_cond_t changed;		/* driver, stopping; for its thread */
	struct web_queue begun;
	enum lane_driver driver;
	bool stopping;
	/* the driver's */
	struct web_queue waiting;
	unsigned int running, at_once;
	struct web_slot slots[WEB_URGENT_MAX];
};

struct web {
	const struct curl_lib *lib;
	char *ca_file;
	unsigned int patience_ms;
	_Atomic unsigned int urgent;	/* exchanges begun and not done */
	_Atomic bool held_back;		/* some of the bulk wait until urgent is 0, or may be about to */
	struct web_lane lane[LANES];
};

static void web_queue_init(struct web_queue *queue)
{
	queue->first = NULL;
	queue->end = &queue->first;
}

static void web_queue_push(struct web_queue *queue, struct web_exchange *x)
{
	x->next = NULL;
	*queue->end = x;
	queue->end = &x->next;
}

static struct web_exchange *web_queue_pop(struct web_queue *queue)
{
	struct web_exchange *x = queue->first;

	if (x) {
		queue->first = x->next;
		if (!queue->first)
			queue->end = &queue->first;
	}
	return x;
}

static bool is_unwanted(struct web_exchange *x)
{
	return x->unwanted && x->unwanted(x);
}

static void lane_wake(struct web_lane *lane)
{
	lane->web->lib->curl_multi_wakeup(lane->multi);
}

/* The last urgent one makes room for others, if there are any. */
static void lane_done(struct web_lane *lane, struct web_exchange *x)
{
	struct web *web = lane->web;

	if (lane->urgent && atomic_fetch_sub(&web->urgent, 1) == 1 &&
	    atomic_exchange(&web->held_back, false))
		lane_wake(&web->lane[BULK]);
	x->done(x);
}

static void lane_cancelled(struct web_lane *lane, struct web_exchange *x)
{
	x->result = err_set(&x->err, -ECANCELED, "cancelled");
	lane_done(lane, x);
}

/* ---- one exchange ---- */

static struct web_slot *slot_take(struct web_lane *lane)
{
	struct web_slot *slot = lane->slots;

	while (slot->x)
		slot++;
	if (!slot->easy)
		slot->easy = lane->web->lib->curl_easy_init();
	return slot->easy ? slot : NULL;
}

static struct web_exchange *slot_put(struct web_lane *lane, struct web_slot *slot)
{
	struct web_exchange *x = slot->x;

	lane->web->lib->curl_multi_remove_handle(lane->multi, slot->easy);
	lane->running--;
	slot->x = NULL;
	return x;
}

/* Ends one that runs, with what libcurl said of it. */
static void slot_end(struct web_lane *lane, struct web_slot *slot, CURLcode code)
{
	struct web_exchange *x = slot->x;

	web_transfer_end(lane->web->lib, slot->easy, x, code);
	slot_put(lane, slot);
	lane_done(lane, x);
}

static void slot_cancel(struct web_lane *lane, struct web_slot *slot)
{
	lane_cancelled(lane, slot_put(lane, slot));
}

static int slot_start(struct web_lane *lane, struct web_slot *slot, struct web_exchange *x)
{
	const struct curl_lib *lib = lane->web->lib;
	struct web_settings settings = { lane->web->ca_file, lane->web->patience_ms };
	int r = web_transfer_begin(lib, slot->easy, x, &settings);

	if (r < 0)
		return r;
	lib->curl_easy_setopt(slot->easy, CURLOPT_PRIVATE, (void *)slot);
	if (lib->curl_multi_add_handle(lane->multi, slot->easy))
		return err_set(&x->err, -ENOMEM, "no memory for a transfer");
	slot->x = x;
	lane->running++;
	return 0;
}

static void exchange_start(struct web_lane *lane, struct web_exchange *x)
{
	struct web_slot *slot;
	int r;

	if (is_unwanted(x)) {
		lane_cancelled(lane, x);
		return;
	}
	slot = slot_take(lane);
	r = slot ? slot_start(lane, slot, x) :
		   err_set(&x->err, -ENOMEM, "no memory for a transfer");
	if (r < 0) {
		x->result = r;
		lane_done(lane, x);
	}
}

/* ---- whoever drives a lane ---- */

/* Whose turn it is; NULL: nobody's. */
static struct web_exchange *lane_next(struct web_lane *lane)
{
	struct web_exchange **link = &lane->waiting.first, *x;
	struct web *web = lane->web;
	bool beside;

	if (lane->running >= lane->at_once)
		return NULL;
	/* Before the look: the last urgent one is not seen by it, or sees this (lane_done). */
	if (!lane->urgent)
		atomic_store(&web->held_back, true);
	beside = !lane->urgent && atomic_load(&web->urgent);
	while (beside && lane->running >= WEB_BULK_BESIDE && *link && !(*link)->soon)
		link = &(*link)->next;
	x = *link;
	if (x) {
		*link = x->next;
		if (!*link)
			lane->waiting.end = link;
	}
	if (!lane->urgent && (x || !lane->waiting.first))
		atomic_store(&web->held_back, false);
	return x;
}

static void start_waiting(struct web_lane *lane)
{
	struct web_exchange *x;

	while ((x = lane_next(lane)))
		exchange_start(lane, x);
}

/* Takes what was begun; false: the client is to end. */
static bool take_begun(struct web_lane *lane)
{
	struct web_exchange *x;
	bool stopping;

	pthread_mutex_lock(&lane->lock);
	while ((x = web_queue_pop(&lane->begun)))
		web_queue_push(&lane->waiting, x);
	stopping = lane->stopping;
	pthread_mutex_unlock(&lane->lock);
	return !stopping;
}

/* Ends what nobody wants, or everything. */
static void end_unwanted(struct web_lane *lane, bool all)
{
	struct web_queue queue = lane->waiting;
	struct web_exchange *x;
	unsigned int i;

	if (!queue.first)
		web_queue_init(&queue);
	web_queue_init(&lane->waiting);
	while ((x = web_queue_pop(&queue))) {
		if (all || is_unwanted(x))
			lane_cancelled(lane, x);
		else
			web_queue_push(&lane->waiting, x);
	}
	for (i = 0; i < lane->at_once; i++)
		if (lane->slots[i].x && (all || is_unwanted(lane->slots[i].x)))
			slot_cancel(lane, &lane->slots[i]);
}

static void lane_reap(struct web_lane *lane)
{
	const struct curl_lib *lib = lane->web->lib;
	struct web_slot *slot;
	CURLMsg *message;
	int left;

	while ((message = lib->curl_multi_info_read(lane->multi, &left))) {
		if (message->msg != CURLMSG_DONE)
			continue;
		lib->curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&slot);
		slot_end(lane, slot, message->data.result);
	}
}

/* libcurl itself is at an end, of memory most likely: what runs fails, and may be tried again. */
static void fail_running(struct web_lane *lane, CURLMcode code)
{
	unsigned int i;

	log_warn("a store's transfers failed: libcurl: %s",
		 lane->web->lib->curl_multi_strerror(code));
	for (i = 0; i < lane->at_once; i++)
		if (lane->slots[i].x)
			slot_end(lane, &lane->slots[i], CURLE_OUT_OF_MEMORY);
}

static bool has_work(const struct web_lane *lane)
{
	return lane->running || lane->waiting.first;
}

/* helper: does not wait once that has enough. */
static void lane_turn(struct web_lane *lane, const struct store_helper *helper, int wait_ms)
{
	const struct curl_lib *lib = lane->web->lib;
	CURLMcode code;
	int running;

	start_waiting(lane);
	code = lib->curl_multi_perform(lane->multi, &running);
	if (code)
		fail_running(lane, code);
	lane_reap(lane);
	/* What has ended made room, or was no transfer at all. */
	start_waiting(lane);
	if (!lane->urgent)
		thread_give_way();
	if (has_work(lane) && !(helper && atomic_load(&helper->enough)))
		lib->curl_multi_poll(lane->multi, NULL, 0, wait_ms, NULL);
}

/* Until nothing is left, or the client ends, or the helper has enough. */
static void lane_drive(struct web_lane *lane, const struct store_helper *helper)
{
	while (take_begun(lane) && has_work(lane) && !(helper && atomic_load(&helper->enough))) {
		if (atomic_exchange(&lane->look, false))
			end_unwanted(lane, false);
		lane_turn(lane, helper, IDLE_MS);
	}
}

/*
 * Its driver leaves: whose is it now? Its thread is woken only if it has something to do: the page
 * that was waited for is not placed yet, and that thread would be in its way. With the lock.
 */
static void lane_leave(struct web_lane *lane)
{
	lane->driver = lane->begun.first || has_work(lane) ? LANE_OWN : LANE_IDLE;
	if (lane->driver == LANE_OWN || lane->stopping)
		pthread_cond_signal(&lane->changed);
}

static void lane_help(struct store_helper *helper)
{
	struct web_lane *lane = helper->arg;

	lane_drive(lane, helper);
	pthread_mutex_lock(&lane->lock);
	lane_leave(lane);
	pthread_mutex_unlock(&lane->lock);
}

static void lane_wake_helper(struct store_helper *helper)
{
	lane_wake(helper->arg);
}

/* Until it is the thread's; false: the client is to end. With the lock. */
static bool lane_wait(struct web_lane *lane)
{
	while (lane->driver == LANE_LENT || (lane->driver == LANE_IDLE && !lane->stopping))
		pthread_cond_wait(&lane->changed, &lane->lock);
	return !lane->stopping;
}

static void *lane_main(void *arg)
{
	struct web_lane *lane = arg;
	int64_t until;

	pthread_setname_np(pthread_self(), lane->urgent ? "web-urgent" : "web-bulk");
	if (lane->urgent)
		thread_is_urgent();
	else
		thread_is_bulk();
	pthread_mutex_lock(&lane->lock);
	while (lane_wait(lane)) {
		pthread_mutex_unlock(&lane->lock);
		lane_drive(lane, NULL);
		pthread_mutex_lock(&lane->lock);
		lane_leave(lane);
	}
	lane->driver = LANE_OWN;
	pthread_mutex_unlock(&lane->lock);
	take_begun(lane);
	for (until = clock_now_ns() + LAST_NS; has_work(lane) && clock_now_ns() < until;) {
		lane_turn(lane, NULL, 100);
		take_begun(lane);
	}
	/* Whoever is told may begin another: that is ended, too. */
	while (has_work(lane)) {
		end_unwanted(lane, true);
		take_begun(lane);
	}
	return NULL;
}

/* The lane has something to do: by whom? True: by somebody who is to be woken. With the lock. */
static bool lane_call(struct web_lane *lane)
{
	struct store_helper *helper = lane->urgent ? store_helper_here() : NULL;

	if (lane->driver != LANE_IDLE)
		return true;
	if (helper && !helper->help) {
		lane->driver = LANE_LENT;
		helper->arg = lane;
		helper->wake = lane_wake_helper;
		helper->help = lane_help;
		return false;
	}
	lane->driver = LANE_OWN;
	pthread_cond_signal(&lane->changed);
	return false;
}

void web_begin(struct web *web, struct web_exchange *x)
{
	struct web_lane *lane = &web->lane[x->urgent ? URGENT : BULK];
	bool wake;

	x->web = web;
	if (x->urgent)
		atomic_fetch_add(&web->urgent, 1);
	pthread_mutex_lock(&lane->lock);
	web_queue_push(&lane->begun, x);
	wake = lane_call(lane);
	pthread_mutex_unlock(&lane->lock);
	if (wake)
		lane_wake(lane);
}

void web_look(struct web *web)
{
	unsigned int i;

	for (i = 0; i < LANES; i++) {
		atomic_store(&web->lane[i].look, true);
		lane_wake(&web->lane[i]);
	}
}

/* ---- its life ---- */

static int lane_init(struct web_lane *lane, struct web *web, bool urgent)
{
	lane->urgent = urgent;
	lane->at_once = urgent ? WEB_URGENT_MAX : WEB_BULK_MAX;
	web_queue_init(&lane->begun);
	web_queue_init(&lane->waiting);
	lane->multi = web->lib->curl_multi_init();
	if (!lane->multi)
		return -ENOMEM;
	web->lib->curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, (long)lane->at_once);
	return 0;
}

static void lane_fini(struct web_lane *lane)
{
	const struct curl_lib *lib = lane->web->lib;
	unsigned int i;

	for (i = 0; i < lane->at_once; i++)
		if (lane->slots[i].easy)
			lib->curl_easy_cleanup(lane->slots[i].easy);
	if (lane->multi)
		lib->curl_multi_cleanup(lane->multi);
	pthread_cond_destroy(&lane->changed);
	pthread_mutex_destroy(&lane->lock);
}

static int lane_start(struct web_lane *lane)
{
	int r = thread_start(&lane->thread, lane_main, lane);

	lane->started = !r;
	return r;
}

static void lane_stop(struct web_lane *lane)
{
	if (!lane->started)
		return;
	pthread_mutex_lock(&lane->lock);
	lane->stopping = true;
	pthread_cond_signal(&lane->changed);
	pthread_mutex_unlock(&lane->lock);
	lane_wake(lane);
	pthread_join(lane->thread, NULL);
}

static int web_set_up(struct web *web, const struct web_config *config)
{
	int r;

	web->patience_ms = config->patience_ms;
	web->lane[BULK].web = web->lane[URGENT].web = web;
	pthread_mutex_init(&web->lane[BULK].lock, NULL);
	pthread_mutex_init(&web->lane[URGENT].lock, NULL);
	cond_init(&web->lane[BULK].changed);
	cond_init(&web->lane[URGENT].changed);
	r = lane_init(&web->lane[BULK], web, false);
	if (!r)
		r = lane_init(&web->lane[URGENT], web, true);
	if (r < 0)
		return r;
	web->ca_file = config->ca_file ? strdup(config->ca_file) : NULL;
	if (config->ca_file && !web->ca_file)
		return -ENOMEM;
	r = lane_start(&web->lane[BULK]);
	return r ? r : lane_start(&web->lane[URGENT]);
}

int web_new(struct web **out, const struct web_config *config, struct err *err)
{
	const struct curl_lib *lib;
	struct web *web;
	int r = curl_lib_load(&lib, err);

	if (r < 0)
		return r;
	web = calloc(1, sizeof(*web));
	if (!web)
		return err_set(err, -ENOMEM, "no memory for a store");
	web->lib = lib;
	r = web_set_up(web, config);
	if (r < 0) {
		web_free(web);
		return err_errno(err, r, "cannot start a store's client");
	}
	*out = web;
	return 0;
}

/* The urgent lane first: what it ends may begin something in the other. */
void web_free(struct web *web)
{
	if (!web)
		return;
	lane_stop(&web->lane[URGENT]);
	lane_stop(&web->lane[BULK]);
	lane_fini(&web->lane[URGENT]);
	lane_fini(&web->lane[BULK]);
	free(web->ca_file);
	free(web);
}
