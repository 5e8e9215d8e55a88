/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * `postern top`'s picture of a machine, as lines of text. As in ctl_text.h,
 * nothing of what a machine said is trusted. Pure but for the stream.
 */
#ifndef POSTERN_CLI_TOP_TEXT_H
#define POSTERN_CLI_TOP_TEXT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

/* What the letters of a map mean, a line. */
extern const char top_legend[];

/*
 * machine: {"name", "pid", "status": query-status, "migration": query-migrate,
 * "faults": query-postern-faults, "map": query-postern-map, "faults-per-second"
 * (once there were two looks)} or with "error" instead. width: columns, for the
 * map.
 */
void top_text_machine(FILE *out, const json_t *machine, unsigned int width);

/*
 * A letter for each cell of a map, folded to `width` letters at most; the
 * caller frees it. NULL: there is no map.
 */
char *top_text_map(const json_t *map, unsigned int width);

/*
 * Faults a second between two looks at a machine, ns apart; both are
 * query-postern-faults. 0 if they do not fit.
 */
uint64_t top_fault_rate(const json_t *before, const json_t *now, int64_t ns);

#endif
