// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Memory as a sink: where every source's pages end (page_source.h).
//
// What somebody waits for comes by fill, and is placed at once (fill.c). What nobody waits for
// comes by room and commit: its room is in a staging area (stage.c), from which whole huge pages
// are moved into the guest. An area is for one huge page at a time. What was committed waits in
// it for the rest of its huge page, and is placed
//
//   - when nothing of the huge page is missing any more, or somebody waits for one of its pages;
//   - when the thread that committed it goes on to another huge page;
//   - when nothing more was committed for a moment, by a thread of ours: a source needs no clock;
//   - when the source is detached.
//
// An area of which a room is out is placed page by page: whoever has the room is writing there.
// The lock guards the areas and what is noted of them; it is not held while pages are placed.
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/internal.h"
#include "memory/stage.h"

#define HOLD_BACK_NS (10 * NS_PER_MS)	/* how long pages wait for others of their huge page */
#define PATIENCE_NS NS_PER_SEC		/* and while one of these has a room */
#define AREAS_STUCK_MAX 8		/* of one thread: more cannot be placed than may wait */

struct memory_area {
	struct memory_area *next;
	struct memory_stage *stage;
	uint64_t huge;			/* which huge page it is for, unless it is idle */
	pthread_t filler;		/* who had a room last */
	int64_t touched_ns;		/* a room was taken, pages were committed or placed */
	bool placing;			/* without the lock; nobody else touches the area */
	bool dead;			/* nothing can be put there any more */
	unsigned int rooms;		/* how many are out */
	uint16_t room[HUGE_PAGES];	/* pages of the room that begins here */
};

static struct memory *memory_of(struct page_sink *sink)
{
	return (struct memory *)(void *)((char *)sink - offsetof(struct memory, sink));
}

/* ---- areas; all with the lock held ---- */

static bool area_is_empty(const struct memory_area *area)
{
	return !area->placing && memory_stage_is_empty(area->stage);
}

static bool area_is_idle(const struct memory_area *area)
{
	return area_is_empty(area) && !area->rooms;
}

/* Is one of these pages in a room that is out? */
static bool area_is_out(const struct memory_area *area, uint64_t at, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < at + n && area->rooms; i++)
		if (i + area->room[i] > at && area->room[i])
			return true;
	return false;
}

/* May these pages, of one huge page, go to where others of it are? */
static bool area_takes(const struct memory_area *area, gfn_t first, uint64_t n)
{
	return !area->placing && !area->dead && area->huge == first.v / HUGE_PAGES &&
	       !area_is_out(area, first.v % HUGE_PAGES, n) &&
	       memory_stage_takes(area->stage, first, n);
}

static void *keeper_main(void *arg);

/*
 * The thread below is there from the first area on: memory to which nothing is
 * committed has none.
 */
static int area_keeper_start(struct memory *mem)
{
	struct memory_rooms *rooms = &mem->rooms;
	int r = rooms->running || rooms->ended ? 0 : thread_start(&rooms->thread, keeper_main, mem);

	rooms->running = !r && !rooms->ended;
	return r;
}

static struct memory_area *area_new(struct memory *mem)
{
	struct memory_area *area = area_keeper_start(mem) < 0 ? NULL : calloc(1, sizeof(*area));

	if (area && memory_stage_new(&area->stage, mem, NULL) < 0) {
		free(area);
		return NULL;
	}
	if (area) {
		area->next = mem->rooms.areas;
		mem->rooms.areas = area;
	}
	return area;
}

static void area_free(struct memory *mem, struct memory_area *area)
{
	struct memory_area **at = &mem->rooms.areas;

	while (*at != area)
		at = &(*at)->next;
	*at = area->next;
	memory_stage_free(area->stage);
	free(area);
}

/* The area for these pages, of one huge page; NULL: no memory. */
static struct memory_area *area_for(struct memory *mem, gfn_t first, uint64_t n)
{
	struct memory_area *area, *idle = NULL;

	for (area = mem->rooms.areas; area; area = area->next)
		if (area_is_idle(area) && !area->dead)
			idle = area;
		else if (area_takes(area, first, n))
			break;
	if (!area)
		area = idle ? idle : area_new(mem);
	if (area) {
		area->huge = first.v / HUGE_PAGES;
		area->filler = pthread_self();
		area->touched_ns = clock_now_ns();
	}
	return area;
}

/*
 * Places what the area holds; the lock is given up meanwhile. 1, or a negative errno: what is not
 * PRESENT then is still held, to be tried again.
 */
static int area_place(struct memory *mem, struct memory_area *area)
{
	int64_t r;

	area->placing = true;
	pthread_mutex_unlock(&mem->rooms.lock);
	/* No room is given out or committed while it is being placed. */
	r = area->rooms ? memory_stage_place_apart(area->stage) : memory_stage_place(area->stage);
	pthread_mutex_lock(&mem->rooms.lock);
	area->placing = false;
	area->touched_ns = clock_now_ns();
	area->dead = r < 0 && memory_stage_is_empty(area->stage);
	pthread_cond_broadcast(&mem->rooms.placed);
	return r < 0 ? (int)r : 1;
}

/*
 * This thread goes on to another huge page: places what it is done with. What cannot be placed is
 * left to the thread below, since it is not these pages' fault, but for what would be so of any
 * page: -ENOMEM, or AREAS_STUCK_MAX of them.
 */
static int areas_leave(struct memory *mem, gfn_t gfn)
{
	struct memory_area *area;
	unsigned int stuck = 0;
	int r = 0;

	for (area = mem->rooms.areas; area; area = area->next) {
		if (area->huge == gfn.v / HUGE_PAGES || area->placing || area_is_empty(area) ||
		    area->rooms || !pthread_equal(area->filler, pthread_self()))
			continue;
		/* It stays in the list: nobody frees what holds pages, or did a moment ago. */
		r = area_place(mem, area);
		if (r == -ENOMEM || (r < 0 && ++stuck > AREAS_STUCK_MAX))
			return r;
	}
	return 0;
}

/*
 * Copies of these pages that are held already are placed first. So a page is in one area at most,
 * and a peer that sends one page again and again does not get an area each time.
 */
static int areas_make_way(struct memory *mem, gfn_t first, uint64_t n)
{
	struct memory_area *area = mem->rooms.areas;
	int r = 0;

	while (area && r >= 0) {
		if (area->huge != first.v / HUGE_PAGES || area_is_idle(area) ||
		    (!area->placing && memory_stage_takes(area->stage, first, n))) {
			area = area->next;
			continue;
		}
		if (area->placing)
			pthread_cond_wait(&mem->rooms.placed, &mem->rooms.lock);
		else
			r = area_place(mem, area);
		area = mem->rooms.areas;
	}
	return r < 0 ? r : 0;
}

/* ---- the thread that places what was held back for long enough ---- */

/* Is it the only one? Then it is kept for the pages to come. */
static bool area_is_last(const struct memory *mem, const struct memory_area *area)
{
	return mem->rooms.areas == area && !area->next;
}

/* An area whose time has come, or NULL; *wake_ns gets when to look again. */
static struct memory_area *area_overdue(struct memory *mem, int64_t now, int64_t *wake_ns)
{
	struct memory_area *area;

	*wake_ns = INT64_MAX;
	for (area = mem->rooms.areas; area; area = area->next) {
		if (area->placing ||
		    (area_is_empty(area) && (area->rooms || area_is_last(mem, area))))
			continue;
		if (area->touched_ns + (area->rooms ? PATIENCE_NS : HOLD_BACK_NS) <= now)
			break;
		/* A clock's tick while there is anything: so a commit need not wake us. */
		*wake_ns = now + HOLD_BACK_NS;
	}
	return area;
}

static void *keeper_main(void *arg)
{
	struct memory *mem = arg;
	struct memory_rooms *rooms = &mem->rooms;
	struct memory_area *area;
	int r;

	pthread_setname_np(pthread_self(), "stage");
	thread_is_bulk();
	pthread_mutex_lock(&rooms->lock);
	while (rooms->running) {
		area = area_overdue(mem, clock_now_ns(), &rooms->wake_ns);
		if (area && area_is_idle(area)) {
			area_free(mem, area);
		} else if (area) {
			r = area_place(mem, area);
			if (r < 0)
				log_warn("pages that have come cannot be placed yet: errno %d", -r);
		} else {
			cond_wait(&rooms->held, &rooms->lock, rooms->wake_ns);
		}
	}
	pthread_mutex_unlock(&rooms->lock);
	return NULL;
}

/* ---- room and commit ---- */

static int64_t sink_room(struct page_sink *sink, gfn_t first, uint64_t n, void **data)
{
	struct memory *mem = memory_of(sink);
	struct memory_area *area = NULL;
	unsigned int region;
	uint64_t offset, at = first.v % HUGE_PAGES;
	int64_t r;

	n = n < HUGE_PAGES - at ? n : HUGE_PAGES - at;
	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	memory_begin(mem, region, offset);
	pthread_mutex_lock(&mem->rooms.lock);
	r = areas_leave(mem, first);
	if (!r)
		r = areas_make_way(mem, first, n);
	if (!r)
		area = area_for(mem, first, n);
	if (area) {
		area->room[at] = (uint16_t)n;
		area->rooms++;
		*data = memory_stage_at(area->stage, first);
	}
	pthread_mutex_unlock(&mem->rooms.lock);
	return r < 0 ? r : area ? (int64_t)n : -ENOMEM;
}

/* These are whole; the lock is held. 1: place them now, 0: they are held back. */
static int area_add(struct memory *mem, struct memory_area *area, gfn_t first, uint64_t n,
		    bool zero)
{
	int r = memory_stage_add(area->stage, first, n, zero);

	area->touched_ns = clock_now_ns();
	if (r < 0 || memory_stage_is_due(area->stage))
		return r < 0 ? r : 1;
	if (mem->rooms.wake_ns == INT64_MAX)
		pthread_cond_signal(&mem->rooms.held);
	return 0;
}

/* Zeros of one huge page. If that is all of it they are not moved: they cost no memory now. */
static int64_t commit_zeros(struct memory *mem, gfn_t first, uint64_t n)
{
	struct memory_area *area = NULL;
	int r;

	if (n == HUGE_PAGES)
		return memory_fill(mem, first, n, NULL);
	pthread_mutex_lock(&mem->rooms.lock);
	r = areas_leave(mem, first);
	if (!r)
		r = areas_make_way(mem, first, n);
	if (!r) {
		area = area_for(mem, first, n);
		r = area ? area_add(mem, area, first, n, true) : -ENOMEM;
	}
	if (r > 0)
		r = area_place(mem, area);
	pthread_mutex_unlock(&mem->rooms.lock);
	return r > 0 ? (int64_t)n : r;
}

static int64_t commit_all_zeros(struct memory *mem, gfn_t first, uint64_t n)
{
	uint64_t i, part, offset;
	unsigned int region;
	int64_t r, done = 0;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	for (i = 0; i < n; i += part) {
		part = HUGE_PAGES - (first.v + i) % HUGE_PAGES;
		part = part < n - i ? part : n - i;
		memory_begin(mem, region, offset + i);
		r = commit_zeros(mem, GFN(first.v + i), part);
		if (r < 0)
			return r;
		done += r;
	}
	return done;
}

/* Whose room this is, if it is one of page `first`, and has n pages. */
static struct memory_area *area_of_room(struct memory *mem, gfn_t first, uint64_t n,
					const void *data)
{
	struct memory_area *area;

	for (area = mem->rooms.areas; area; area = area->next)
		if (memory_stage_at(area->stage, first) == data)
			break;
	if (!area || area->huge != first.v / HUGE_PAGES || !area->room[first.v % HUGE_PAGES] ||
	    n > area->room[first.v % HUGE_PAGES])
		return NULL;
	return area;
}

static int64_t sink_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct memory *mem = memory_of(sink);
	struct memory_area *area;
	int r = -EINVAL;

	if (!data)
		return commit_all_zeros(mem, first, n);
	pthread_mutex_lock(&mem->rooms.lock);
	area = area_of_room(mem, first, n, data);
	while (area && area->placing)
		pthread_cond_wait(&mem->rooms.placed, &mem->rooms.lock);
	if (area) {
		area->room[first.v % HUGE_PAGES] = 0;
		area->rooms--;
		r = n ? area_add(mem, area, first, n, false) : 0;
	}
	if (r > 0)
		r = area_place(mem, area);
	pthread_mutex_unlock(&mem->rooms.lock);
	return r > 0 ? (int64_t)n : r;
}

/* ---- life ---- */

void memory_rooms_init(struct memory *mem)
{
	pthread_mutex_init(&mem->rooms.lock, NULL);
	cond_init(&mem->rooms.held);
	cond_init(&mem->rooms.placed);
}

/* One that holds something, or is being placed; else one that is idle; NULL: all are out. */
static struct memory_area *area_to_flush(struct memory *mem)
{
	struct memory_area *area, *idle = NULL;

	for (area = mem->rooms.areas; area && area_is_empty(area); area = area->next)
		idle = area_is_idle(area) ? area : idle;
	return area ? area : idle;
}

void memory_rooms_flush(struct memory *mem)
{
	struct memory_area *area;

	pthread_mutex_lock(&mem->rooms.lock);
	while ((area = area_to_flush(mem)))
		if (area->placing)
			pthread_cond_wait(&mem->rooms.placed, &mem->rooms.lock);
		else if (area_is_idle(area))
			area_free(mem, area);
		else if (area_place(mem, area) < 0)
			/* Whoever comes next brings them. */
			memory_stage_drop(area->stage);
	pthread_mutex_unlock(&mem->rooms.lock);
}

/* One of this huge page that is being placed, or NULL. */
static struct memory_area *area_placing(struct memory *mem, gfn_t gfn)
{
	struct memory_area *area = mem->rooms.areas;

	while (area && (area->huge != gfn.v / HUGE_PAGES || !area->placing))
		area = area->next;
	return area;
}

void memory_rooms_forget(struct memory *mem, gfn_t first, uint64_t n, struct wakes *forgotten)
{
	struct memory_area *area;

	pthread_mutex_lock(&mem->rooms.lock);
	while (area_placing(mem, first))
		pthread_cond_wait(&mem->rooms.placed, &mem->rooms.lock);
	for (area = mem->rooms.areas; area; area = area->next)
		if (area->huge == first.v / HUGE_PAGES)
			memory_stage_forget(area->stage, first, n, forgotten);
	pthread_mutex_unlock(&mem->rooms.lock);
}

/* One that has a copy of this page, of a huge page that is not being placed; NULL: none has. */
static struct memory_area *area_with(struct memory *mem, gfn_t gfn)
{
	struct memory_area *area = mem->rooms.areas;

	while (area &&
	       (area->huge != gfn.v / HUGE_PAGES || memory_stage_takes(area->stage, gfn, 1)))
		area = area->next;
	return area;
}

bool memory_rooms_place(struct memory *mem, gfn_t gfn)
{
	struct memory_area *area;

	pthread_mutex_lock(&mem->rooms.lock);
	while (area_placing(mem, gfn))
		pthread_cond_wait(&mem->rooms.placed, &mem->rooms.lock);
	area = area_with(mem, gfn);
	if (area)
		area_place(mem, area);	/* or the stage's thread, when it tries again */
	pthread_mutex_unlock(&mem->rooms.lock);
	return area;
}

void memory_rooms_end(struct memory *mem)
{
	bool was;

	pthread_mutex_lock(&mem->rooms.lock);
	was = mem->rooms.running;
	mem->rooms.running = false;
	mem->rooms.ended = true;
	pthread_cond_signal(&mem->rooms.held);
	pthread_mutex_unlock(&mem->rooms.lock);
	if (was)
		pthread_join(mem->rooms.thread, NULL);
}

void memory_rooms_fini(struct memory *mem)
{
	while (mem->rooms.areas)
		area_free(mem, mem->rooms.areas);
	pthread_cond_destroy(&mem->rooms.placed);
	pthread_cond_destroy(&mem->rooms.held);
	pthread_mutex_destroy(&mem->rooms.lock);
}

/* ---- as a sink ---- */

static int64_t sink_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return memory_fill(memory_of(sink), first, n, data);
}

static int sink_lose(struct page_sink *sink, gfn_t gfn)
{
	return memory_lose(memory_of(sink), gfn);
}

const struct page_sink_ops memory_sink_ops = {
	.name = "memory",
	.fill = sink_fill,
	.lose = sink_lose,
	.room = sink_room,
	.commit = sink_commit,
};

struct page_sink *memory_sink(struct memory *mem)
{
	return &mem->sink;
}
