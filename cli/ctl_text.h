/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * QMP's answers as text for people. What a server sent is not trusted: members
 * may be missing or of any type, and no string reaches a terminal with its
 * control characters. Pure but for the stream.
 */
#ifndef POSTERN_CLI_CTL_TEXT_H
#define POSTERN_CLI_CTL_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CTL_BYTES_MAX 32	/* of a size as text */

/* Members of a JSON object, or what stands for one that is not there or of another type. */
const char *ctl_string(const json_t *object, const char *key, const char *otherwise);
uint64_t ctl_uint(const json_t *object, const char *key);

/* A string with control characters (C0, DEL, C1) as '?'; `text` is UTF-8. */
void ctl_put(FILE *out, const char *text);
/* "12.3 MiB" into text (CTL_BYTES_MAX); returns it. */
const char *ctl_bytes(char *text, uint64_t bytes);
/* Microseconds as "12 us", "3.4 ms", "5.6 s". */
const char *ctl_us(char *text, uint64_t us);

/*
 * status: of query-name, query-status, query-cpus-fast, query-migrate,
 * query-postern-faults; NULL where there is none.
 */
void ctl_text_status(FILE *out, const json_t *name, const json_t *status, const json_t *cpus,
		     const json_t *migrate, const json_t *faults);
/*
 * query-migrate in a line without its newline, such as "postcopy-active, 12.0
 * of 64.0 MiB left, 1.0 MiB/s, 12 s to go".
 */
void ctl_text_migration(FILE *out, const json_t *migrate);
/*
 * query-migrate before a cancel, where that has nothing to end: a line that
 * says so. Else nothing.
 */
void ctl_text_nothing_to_cancel(FILE *out, const json_t *migrate);
/*
 * Where a restored machine's memory comes from, of query-postern-faults, in a line without its
 * newline: "image web1 in /images, 12.0 MiB left, fill off". False, and nothing: from nowhere.
 */
bool ctl_text_source(FILE *out, const json_t *faults);
/* Its working set, in a line as well, of "source": "replay ended, 12 of 12 spans here, ...". */
void ctl_text_working_set(FILE *out, const json_t *source);
/* query-postern-faults. */
void ctl_text_faults(FILE *out, const json_t *faults);
/* An event, a line. */
void ctl_text_event(FILE *out, const json_t *event);

#endif
