/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where the time of a start goes: each mark is a line of the log, at level
 * debug, with the microseconds since the mark before it and since the first.
 * Main thread.
 */
#ifndef POSTERN_BASE_MARK_H
#define POSTERN_BASE_MARK_H

/* `what` is over now. */
void mark_time(const char *what);

#endif
