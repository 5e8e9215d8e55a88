// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What an image's manifest says of its machine's disks and kernel.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct host_record record;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (!host_record_parse(&record, text, NULL))
		host_record_fini(&record);
	free(text);
	return 0;
}
