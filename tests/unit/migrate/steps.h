/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Steps that several tests of whole migrations take.
 */
#ifndef POSTERN_TESTS_MIGRATE_STEPS_H
#define POSTERN_TESTS_MIGRATE_STEPS_H

#include "world.h"

/* A world, or a test that is skipped. */
#define NEEDS(world) do { if (!world_new(world)) skip(); } while (0)

static inline struct migration_info query(const struct side *side)
{
	struct migration_info info;

	migration_query(side->migration, &info);
	return info;
}

static inline void until_completed(struct world *w)
{
	world_until(w, world_status(&w->from) == MIGRATION_COMPLETED &&
		    world_status(&w->to) == MIGRATION_COMPLETED);
	world_check_arrived(w);
}

/*
 * Bytes a second at which the memory takes a minute and a half: longer than any
 * test keeps a migration open, also on a busy machine.
 */
#define TRICKLE (256 << 10)

static inline void limit(struct world *w, uint64_t bytes_per_second)
{
	struct migration_params params;

	migration_params_get(w->from.migration, &params);
	params.max_postcopy_bandwidth = bytes_per_second;
	assert_int_equal(migration_params_set(w->from.migration, &params, NULL), 0);
}

static inline void until_active(struct world *w)
{
	world_until(w, world_status(&w->from) == MIGRATION_POSTCOPY_ACTIVE &&
		    world_status(&w->to) == MIGRATION_POSTCOPY_ACTIVE);
}

static inline void until_paused(struct world *w)
{
	world_until(w, world_status(&w->from) == MIGRATION_POSTCOPY_PAUSED &&
		    world_status(&w->to) == MIGRATION_POSTCOPY_PAUSED);
}

#endif
