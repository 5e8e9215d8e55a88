// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/state_version.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

int state_version_check(const char *what, uint32_t version, uint32_t current, struct err *err)
{
	char known[32], advice[80];

	if (version && version <= current && current - version <= 1)
		return 0;
	if (current > 1)
		snprintf(known, sizeof(known), "%" PRIu32 " and %" PRIu32, current - 1, current);
	else
		snprintf(known, sizeof(known), "%" PRIu32, current);
	if (!version)
		snprintf(advice, sizeof(advice), "it is damaged, no postern writes that");
	else if (version > current)
		snprintf(advice, sizeof(advice), "a newer one saved it, take one that is as new");
	else
		snprintf(advice, sizeof(advice),
			 "it is too old, go by way of a postern that writes version %" PRIu32, version + 1);
	return err_set(err, -EPROTO, "%s: version %" PRIu32 ", this postern knows %s: %s", what,
		       version, known, advice);
}
