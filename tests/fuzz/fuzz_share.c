// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// What members of a share and its keeper say: what is taken is within its bounds.
#include <string.h>

#include "control/share_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory_region region[MEMORY_REGIONS_MAX];
	struct share_message msg;
	struct err err;

	if (share_message_read(&msg, data, size, &err))
		return 0;
	if (share_message_regions(&msg, region) > INT64_MAX / PAGE_BYTES ||
	    strlen(msg.text) >= sizeof(msg.text))
		__builtin_trap();
	return 0;
}
