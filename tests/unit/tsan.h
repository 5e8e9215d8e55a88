/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What cannot be tested under ThreadSanitizer (make test-threads), and is skipped there: it knows
 * no child that starts threads, and its own memory is part of what is resident.
 */
#ifndef POSTERN_TESTS_UNIT_TSAN_H
#define POSTERN_TESTS_UNIT_TSAN_H

#ifdef __SANITIZE_THREAD__
#define skip_if_no_children() skip()
#define expect_resident(condition) ((void)(condition))
#else
#define skip_if_no_children()
/* A condition on what is resident. */
#define expect_resident(condition) assert_true(condition)
#endif

#endif
